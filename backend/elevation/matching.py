"""Matches between views that are near each other, by dense optical flow.

One-2-3-45 matches its near views with LoFTR. They are at most some twenty degrees apart and rendered alike, where
DIS optical flow (Kroeger et al. 2016, in OpenCV) does as well without a network: it is followed at corners of the
subject, there and back again, and what does not return is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations

import cv2
import numpy as np
from numpy.typing import NDArray

Matches = Mapping[tuple[int, int], NDArray[np.floating]]
"""(i, j) -> rows [N, 5]: u, v in view i, u, v in view j, confidence; pixels with centres at +0.5."""

Matcher = Callable[[NDArray[np.uint8]], Matches]
"""From views, uint8 [V, S, S, 4], straight alpha or opaque on white, to the matches between them."""

WORK_SIDE = 256
"""Views are enlarged to at least this before flow is computed; its patches of 8 px cover a 64-px view's detail then."""

MAX_CORNERS, MIN_QUALITY = 300, 0.003
"""Corners per view, and the weakest that counts as a share of the strongest: a flat-coloured prop has few strong."""

MAX_RETURN_PX = 1.0
"""A match must come back to within this of where it started, in pixels of the working size."""

EDGE_PX = 2
"""Corners keep this distance from the silhouette, which slides over a round shape as the camera moves."""

WHITE = 245
"""In a view without transparency everything brighter than this in all channels is background."""


def subject_alpha(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Where a view [S, S, 4] shows its subject, 0..1: its alpha; if it has none, where it is not as good as white."""
    if image[..., 3].min() < 255:
        return image[..., 3] / np.float32(255)
    return 1 - (image[..., :3] > WHITE).all(axis=-1).astype(np.float32)


def match_views(images: NDArray[np.uint8]) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Matches between all ordered pairs of views.

    Args:
        images: uint8 [V, S, S, 4], straight alpha; or opaque on white.

    Returns:
        (i, j) -> rows [N, 5]: u, v in view i, u, v in view j, in pixels of the views with centres at +0.5, and a
        confidence in (0, 1]. All rows that start in one view start at the same corners of it, so that points can be
        followed through several views.
    """
    views = [_View(image) for image in images]
    flows = {(i, j): _flow(views[i].grey, views[j].grey) for i, j in permutations(range(len(views)), 2)}
    return {(i, j): _follow(views[i], views[j], flow, flows[j, i]) for (i, j), flow in flows.items()}


class _View:
    """A view prepared for flow: grey, its subject, and the corners on it."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        size = len(image)
        self.scale = max(1.0, WORK_SIDE / size)
        alpha = subject_alpha(image)
        grey = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY).astype(np.float32)
        # The subject's own mean as background: the silhouette must not be the strongest thing to follow.
        mean = float((grey * alpha).sum() / max(float(alpha.sum()), 1e-6))
        side = round(size * self.scale)
        work = cv2.resize(mean + (grey - mean) * alpha, (side, side), interpolation=cv2.INTER_CUBIC)
        self.grey = np.clip(work, 0, 255).astype(np.uint8)
        self.subject = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_LINEAR) > 0.5
        inner = cv2.erode(self.subject.astype(np.uint8), np.ones((2 * EDGE_PX + 1,) * 2, np.uint8), borderValue=(0,))
        corners = cv2.goodFeaturesToTrack(self.grey, MAX_CORNERS, MIN_QUALITY, 3, mask=inner, blockSize=7)
        self.corners = np.asarray([] if corners is None else corners, np.float32).reshape(-1, 2)


def _flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(dis.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)


def _sample(field: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [N, ...] of a field [S, S, ...] at points [N, 2] (x, y in pixel indices), linearly interpolated."""
    x, y = points[:, :1].astype(np.float32), points[:, 1:].astype(np.float32)
    values = cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32)[:, 0]


def _follow(first: _View, second: _View, there: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.float32]:
    if not len(first.corners):
        return np.empty((0, 5), np.float32)
    start = first.corners
    end = np.asarray(start + _sample(there, start), np.float32)
    gap = np.linalg.norm(end + _sample(back, end) - start, axis=1)
    inside = ((end >= 0) & (end <= len(second.grey) - 1)).all(axis=1)
    on_subject = _sample(second.subject.astype(np.float32), end) > 0.5
    keep = inside & on_subject & (gap < MAX_RETURN_PX)
    confidence = np.exp(-((gap / MAX_RETURN_PX) ** 2))
    rows = np.column_stack([(start + 0.5) / first.scale, (end + 0.5) / second.scale, confidence])
    return rows[keep].astype(np.float32)
