"""Matting: the subject of a picture apart from its background, with a soft edge and clean colours.

A picture's own alpha is taken where it has one. Otherwise the subject is segmented, a guided filter (He et al. 2010;
fast form, He and Sun 2015) lays a soft edge along the picture's own, and the background's colour is taken out of the
edge's pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.preparation.engines import GrabCut, Segmenter
from backend.preparation.picture import check_picture
from backend.preparation.segmentation import ANYTHING, OBJECT_SHARE, WORK_SIDE, Floats, Mask, Prompt, objects
from protocol.errors import TurnaroundError

CLEAR_SHARE = 0.002
"""A picture is cut out already when at least this share of it is transparent (alpha below `CLEAR`)."""

CLEAR = 26


GRABCUT = GrabCut()


def cut_out(
    picture: NDArray[np.uint8],
    matte: NDArray[np.uint8] | None = None,
    *,
    segmenter: Segmenter = GRABCUT,
    prompt: Prompt = ANYTHING,
) -> NDArray[np.uint8]:
    """The picture with its background transparent.

    Args:
        picture: uint8 [H, W, 4], straight alpha.
        matte: uint8 [H, W], the subject's alpha if someone has drawn it; it replaces all else.
        segmenter: finds the subject if the picture is opaque; see `engines.choose`.
        prompt: where the artist says that the subject is.

    Returns:
        uint8 [H, W, 4], straight alpha, the background's pixels black and clear.

    Raises:
        TurnaroundError: `picture.no_subject`, nothing stands out; `matte.format` and `matte.empty` for a matte that
            does not fit or shows nothing; and those of `check_picture`.
    """
    check_picture(picture, has_matte=matte is not None)
    if matte is not None:
        if matte.dtype != np.uint8 or matte.shape != picture.shape[:2]:
            raise TurnaroundError(
                "matte.format",
                "The matte does not fit the picture.",
                "Use one of the picture's own size.",
                field="matte",
                details=f"{matte.dtype} {matte.shape} for {picture.shape}",
            )
        if matte.max() < 128:
            raise TurnaroundError(
                "matte.empty", "The matte shows nothing.", "Paint the subject white in it.", field="matte"
            )
        return _assemble(_clean_edge(picture[..., :3], matte / np.float32(255)), matte)
    alpha = picture[..., 3]
    if (alpha < CLEAR).mean() >= CLEAR_SHARE:
        kept = np.where(objects(alpha >= CLEAR, OBJECT_SHARE / 100), alpha, 0).astype(np.uint8)
        return _assemble(picture[..., :3], kept)
    soft = _soft_edge(picture[..., :3], segmenter(picture[..., :3], prompt))
    return _assemble(_clean_edge(picture[..., :3], soft), np.round(soft * 255).astype(np.uint8))


def warnings(cutout: NDArray[np.uint8], picture: NDArray[np.uint8] | None = None) -> list[str]:
    """What about a cut-out subject will spoil its shape, as sentences for the artist.

    Args:
        cutout: uint8 [H, W, 4] as `cut_out` gives it.
        picture: uint8 [H, W, 4] that it was cut from; matting hardens the outline, so that blur shows here alone.
    """
    solid = cutout[..., 3] > 127
    if not solid.any():
        return []
    said = []
    edges = {"left": solid[:, 0], "right": solid[:, -1], "top": solid[0], "bottom": solid[-1]}
    cut = [side for side, line in edges.items() if line.sum() >= max(2, 0.01 * len(line))]
    if cut:
        sides = f"{', '.join(cut[:-1])} and {cut[-1]} borders" if len(cut) > 1 else f"{cut[0]} border"
        said.append(f"Touches the {sides}: the shape will be cut.")
    parts = _areas(solid)[1:]
    count = int((parts >= OBJECT_SHARE * parts.max()).sum())
    if count > 1:
        said.append(f"Shows {count} separate objects: they become one shape.")
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    margin = (rows[-1] - rows[0] + columns[-1] - columns[0]) // 40 + 2
    box = (
        slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin),
        slice(max(columns[0] - margin, 0), columns[-1] + 1 + margin),
    )
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if longest < 64:
        said.append(f"The subject is only {longest} pixels large: details will be missing.")
    elif _sharpness((cutout if picture is None else picture)[box], solid[box]) < SHARP:
        said.append("The picture is blurred: details will be missing.")
    return said


def _areas(mask: Mask) -> NDArray[np.int_]:
    """Areas of the background and of each connected part."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    return np.asarray(stats)[:, cv2.CC_STAT_AREA].astype(int)


# ------------------------------------------------------------------------------------------------------------ the edge


def _soft_edge(rgb: NDArray[np.uint8], mask: Mask) -> Floats:
    """Alpha [H, W] of the picture from the work-sized mask: 0 and 1 away from its edge, soft along it."""
    height, width = rgb.shape[:2]
    work = mask.shape[1], mask.shape[0]
    guide = cv2.resize(rgb, work, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    slope, offset = _guided_filter(guide, mask.astype(np.float32), radius=3, eps=1e-4)
    size = (width, height)
    slope = np.asarray(cv2.resize(slope, size, interpolation=cv2.INTER_LINEAR), np.float32)
    alpha = np.asarray(cv2.resize(offset, size, interpolation=cv2.INTER_LINEAR), np.float32)
    for c in range(3):
        alpha = alpha + slope[..., c] * (rgb[..., c] / np.float32(255))
    # The filter's own softness is narrower than the edge seems: what is nearly solid or clear is.
    alpha = np.clip((alpha - 0.1) / 0.8, 0, 1)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=(1,))
    outer = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
    inner, outer = (cv2.resize(m, size, interpolation=cv2.INTER_NEAREST) for m in (inner, outer))
    return np.where(inner > 0, 1, np.where(outer > 0, alpha, 0)).astype(np.float32)


def _guided_filter(guide: Floats, target: Floats, radius: int, eps: float) -> tuple[Floats, Floats]:
    """Coefficients of the linear model target = slope . guide + offset about each pixel (He et al. 2010, eq. 14-16).

    Args:
        guide: [H, W, 3] in 0..1.
        target: [H, W].
        radius: of the window, in pixels.
        eps: regularisation; edges with less variance than this are smoothed over.

    Returns:
        slope [H, W, 3] and offset [H, W].
    """
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(cv2.blur(values.astype(np.float64), side, borderType=cv2.BORDER_REFLECT_101))

    mean_guide, mean_target = mean(guide), mean(target)
    covariance = np.empty((*target.shape, 3, 3))
    for i in range(3):
        for j in range(3):
            covariance[..., i, j] = mean(guide[..., i] * guide[..., j]) - mean_guide[..., i] * mean_guide[..., j]
    cross = mean(guide * target[..., None]) - mean_guide * mean_target[..., None]
    slope = np.linalg.solve(covariance + eps * np.eye(3), cross[..., None])[..., 0]
    offset = mean_target - (slope * mean_guide).sum(axis=-1)
    return mean(slope).astype(np.float32), mean(offset).astype(np.float32)


def _clean_edge(rgb: NDArray[np.uint8], alpha: Floats) -> NDArray[np.uint8]:
    """Colours with the background's share taken out where alpha is between 0 and 1.

    An edge pixel shows C = a F + (1 - a) B. B is the mean of the clear pixels near it; F is solved for, the less
    trusted the smaller a is, and otherwise the mean of the solid pixels near it.
    """
    radius = max(2, round(max(rgb.shape[:2]) / WORK_SIDE * 4))
    colours = rgb.astype(np.float32)

    def nearby(chosen: Mask) -> tuple[Floats, Mask]:
        weight = chosen.astype(np.float32)
        side = (2 * radius + 1, 2 * radius + 1)
        share = cv2.blur(weight, side)
        mean = cv2.blur(colours * weight[..., None], side) / np.maximum(share, 1e-6)[..., None]
        return np.asarray(mean, np.float32), np.asarray(share > 1e-4)

    solid, has_solid = nearby(alpha > 0.98)
    clear, has_clear = nearby(alpha < 0.02)
    a = alpha[..., None]
    solved = np.clip((colours - (1 - a) * clear) / np.maximum(a, 0.1), 0, 255)
    mixed = np.where(has_solid[..., None], a * solved + (1 - a) * solid, solved)
    change = (alpha > 0) & (alpha < 0.98) & has_clear
    return np.where(change[..., None], mixed, colours).round().astype(np.uint8)


def _assemble(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA; what is clear is black, so that nothing of the background stays in the result."""
    return np.dstack([np.where(alpha[..., None] > 0, rgb, 0).astype(np.uint8), alpha])


# ---------------------------------------------------------------------------------------------------------- sharpness

SHARP = 0.33
"""Below this `_sharpness` means a blur of 4 pixels or more (standard deviation) where the subject has 256."""


def _sharpness(picture: NDArray[np.uint8], solid: Mask) -> float:
    """How much of the contrast about a pixel lies in its steepest step, at the size that the networks see.

    About 1 at a hard edge and 0.3 at one that is blurred by 4 pixels. The sharpest places of the subject and its
    outline count, for a smooth object is not a blurred one.

    Args:
        picture: uint8 [H, W, 4], the subject's part of it.
        solid: [H, W], where the subject is.
    """
    scale = min(1.0, 256 / max(solid.shape))
    size = max(1, round(solid.shape[1] * scale)), max(1, round(solid.shape[0] * scale))
    rgba = np.pad(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), ((6, 6), (6, 6), (0, 0)), mode="edge")
    where = np.pad(cv2.resize(solid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), 6)
    grey = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    cover = rgba[..., 3] / np.float32(255)
    behind = 255.0 if float(grey[where > 0].mean()) < 128 else 0.0  # an outline in alpha is an edge as well
    grey = grey * cover + behind * (1 - cover)
    step = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])
    window = np.ones((9, 9), np.uint8)
    contrast = (cv2.dilate(grey, window) - cv2.erode(grey, window))[:-1, :-1]
    chosen = (cv2.dilate(where, window)[:-1, :-1] > 0) & (contrast > 30)
    if chosen.sum() < 50:
        return 1.0
    return float(np.percentile(cv2.dilate(step, window)[chosen] / contrast[chosen], 95))
