"""Segmentation: which pixels of an opaque picture are the subject's.

The background is learnt from the picture's border and followed inwards, into soft shadows too; GrabCut (Rother et al.
2004) settles the outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from protocol.errors import TurnaroundError

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

WORK_SIDE = 384
"""Longest side at which the subject is searched for; the edge is found at full size."""

LAB_WEIGHTS = np.array([0.6, 1, 1], np.float32)
"""Of L, a and b in a colour's difference: lightness varies more over a background than hue does."""

DARKEST_SHADOW = 0.55
"""Cube root of the least share of the light that a shadow leaves; what is darker is dark itself."""

STEEPEST_SHADOW = 2.0
"""Change of L over one work pixel up to which a shadow counts as soft."""

OBJECT_SHARE = 0.1
"""Parts with at least this share of the largest part's area are objects of their own; smaller ones are dropped."""


@dataclass(frozen=True)
class Prompt:
    """Where the subject is, if the artist says so, in pixels of the picture with centres at +0.5.

    Attributes:
        box: left, top, right and bottom of the subject.
        points: (x, y, whether it is on the subject).
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()

    @property
    def subject_points(self) -> tuple[tuple[float, float, bool], ...]:
        """The points that are on the subject."""
        return tuple(point for point in self.points if point[2])

    def scaled(self, factor: float) -> Prompt:
        """The same in a picture `factor` times as large."""
        box = self.box and (self.box[0] * factor, self.box[1] * factor, self.box[2] * factor, self.box[3] * factor)
        return Prompt(box, tuple((x * factor, y * factor, on) for x, y, on in self.points))

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The box in whole pixels of a picture, at least one each way; all of it if there is none."""
        if self.box is None:
            return 0, 0, width, height
        left, top = (int(np.clip(v, 0, n - 1)) for v, n in zip(self.box[:2], (width, height), strict=True))
        right, bottom = (int(np.ceil(min(v, n))) for v, n in zip(self.box[2:], (width, height), strict=True))
        return left, top, max(right, left + 1), max(bottom, top + 1)


ANYTHING = Prompt()
"""The artist has said nothing."""


def work_size(rgb: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height that a picture [H, W, 3] is segmented at."""
    scale = min(1.0, WORK_SIDE / max(rgb.shape[:2]))
    return max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))


def segment(rgb: NDArray[np.uint8], prompt: Prompt = ANYTHING) -> Mask:
    """The subject of an opaque picture.

    A white spot of the subject on a white background looks like a hole. A hole is taken for one, for nearly all are:
    of the 68 found in pictures of 234 props on white, none was the subject's own. A point in it says that it is.

    Args:
        rgb: uint8 [H, W, 3].
        prompt: where the subject is.

    Returns:
        [h, w], true on the subject; of the picture reduced to `WORK_SIDE`.

    Raises:
        TurnaroundError: `picture.no_subject`, nothing stands out.
    """
    width, height = work_size(rgb)
    small = np.ascontiguousarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    prompt = prompt.scaled(width / rgb.shape[1])
    labels = _first_guess(small, prompt)
    if not _is_subject(labels).any() or _is_subject(labels).all():
        raise _no_subject()
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its clusters start at random; the same picture must give the same subject
    cv2.grabCut(small, labels, (0, 0, 0, 0), *models, 5, cv2.GC_INIT_WITH_MASK)
    subject = objects(chosen_parts(_is_subject(labels), prompt), OBJECT_SHARE)
    return check_subject(~objects(~subject, 0.001))  # pinholes are not holes


def _is_subject(labels: NDArray[np.uint8]) -> Mask:
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _first_guess(small: NDArray[np.uint8], prompt: Prompt) -> NDArray[np.uint8]:
    """GrabCut's labels to begin with."""
    height, width = small.shape[:2]
    lab = np.asarray(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
    background = _background(_calm(lab))
    left, top, right, bottom = prompt.pixels(width, height)
    outside = np.ones((height, width), bool)
    outside[top:bottom, left:right] = False
    if outside.any() and background[outside].mean() < 0.5:  # no plain background: GrabCut's own way with a box
        labels = np.where(outside, cv2.GC_BGD, cv2.GC_PR_FGD).astype(np.uint8)
    else:
        for x, y, on in prompt.points:
            if on:  # in a hole, which is none then
                background &= ~_part_at(background, x, y, enclosed=True)
        background = outside | ~chosen_parts(~background, prompt)
        # GrabCut decides in a band about the outline alone: black tyres and a black shadow are one colour to it. What
        # it calls the subject at first is free of the ring that smoothing has put about it.
        window, depth = np.ones((3, 3), np.uint8), max(1, min(height, width) // 128)
        inside = cv2.erode((~background).astype(np.uint8), window, iterations=max(1, depth - 1), borderValue=(1,))
        subject_core = cv2.erode((~background).astype(np.uint8), window, iterations=depth, borderValue=(1,)) > 0
        background_core = cv2.erode(background.astype(np.uint8), window, borderValue=(1,)) > 0
        labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[background_core | outside] = cv2.GC_BGD
        labels[subject_core] = cv2.GC_FGD
        if not subject_core.any() or not background_core.any():
            raise _no_subject()
    for x, y, on in prompt.points:
        cv2.circle(labels, (int(x), int(y)), 2, [cv2.GC_FGD if on else cv2.GC_BGD], -1)
    return labels


def _part_at(mask: Mask, x: float, y: float, *, enclosed: bool = False) -> Mask:
    """The connected part of a mask that a point lies on, or nothing; if `enclosed`, only one off the borders."""
    height, width = mask.shape
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    label = labels[int(np.clip(y, 0, height - 1)), int(np.clip(x, 0, width - 1))]
    part = (labels == label) & (label > 0)
    return np.asarray(part & ~(enclosed and bool(part[_border(height, width, 1)].any())), bool)


def chosen_parts(mask: Mask, prompt: Prompt) -> Mask:
    """The parts of a mask that the artist's points choose: those on one of the subject's, without those of others."""
    wanted = [_part_at(mask, x, y) for x, y, on in prompt.points if on]
    kept = np.any(wanted, axis=0) if wanted else mask
    for x, y, on in prompt.points:
        part = _part_at(mask, x, y)
        if not on and not any((part & other).any() for other in wanted):
            kept = kept & ~part
    return np.asarray(kept, bool)


def check_subject(mask: Mask) -> Mask:
    """The mask, if there is something on it and something left out.

    Raises:
        TurnaroundError: `picture.no_subject`.
    """
    if not 0.002 < mask.mean() < 0.97:
        raise _no_subject()
    return mask


def _no_subject() -> TurnaroundError:
    return TurnaroundError(
        "picture.no_subject",
        "No subject stands out from the background.",
        "Use a picture with a plain background, or remove the background yourself and keep the alpha channel.",
        field="picture",
    )


def _calm(lab: Floats) -> Floats:
    """The picture without its grain: smoothed, but not across edges that stand out from what grain the border shows."""
    smooth = np.asarray(cv2.GaussianBlur(lab, (0, 0), 1.0), np.float32)
    coarse = cv2.GaussianBlur(lab, (0, 0), 4.0)
    grain = float(np.median(np.linalg.norm(smooth - coarse, axis=-1)[_border(lab.shape[0], lab.shape[1], 4)]))
    return np.asarray(cv2.bilateralFilter(smooth, 0, 2 * grain, 3.0), np.float32) if grain > 1 else smooth


def _background(lab: Floats) -> Mask:
    """Where the background is seen, a soft shadow on it included, [H, W].

    Less light scales L + 16, a and b of CIELAB alike (by the cube root of its share), which tells a shadow from another
    hue. A dark or grey part of the subject may look the same, but only a shadow grows out of the lit background without
    an edge. An enclosed region is a hole if it is as like the background as the border is.
    """
    height, width = lab.shape[:2]
    border = _border(height, width, 2)
    models = _background_models(lab)
    whiten = _whitening(lab, models, border)

    def distance(models: list[Floats]) -> Floats:
        return np.asarray(np.min([np.linalg.norm((lab - model) @ whiten, axis=-1) for model in models], axis=0))

    difference = distance(models)
    unrest = float(np.percentile(difference[border], 75))
    tolerance = max(1.5 * unrest, 2.5)
    lit = difference < tolerance

    black = np.array([-16, 0, 0], np.float32)
    light = [np.clip((lab[..., :1] + 16) / (model[..., :1] + 16), DARKEST_SHADOW, 1.05) for model in models]
    shaded = distance([black + share * (model - black) for share, model in zip(light, models, strict=True)]) < tolerance
    step = np.hypot(*(cv2.Scharr(lab[..., 0], cv2.CV_32F, dx, 1 - dx, scale=1 / 32) for dx in (0, 1)))
    soft = step < max(STEEPEST_SHADOW, 1.5 * float(np.percentile(step[border], 75)))
    outside = _reached_from(border, lit | (shaded & soft))

    holes = np.zeros_like(lit)
    similar = (~outside & (difference < 2 * tolerance)).astype(np.uint8)
    cores = cv2.erode(similar, np.ones((3, 3), np.uint8)) > 0  # the rim of a hole is blurred
    _, labels, stats, _ = cv2.connectedComponentsWithStats(similar, connectivity=4)
    for i in np.flatnonzero(np.asarray(stats)[:, cv2.CC_STAT_AREA] > 0.0001 * similar.size):
        hole = labels == i
        core = hole & cores
        if i > 0 and core.any() and np.percentile(difference[core], 75) < max(1.2 * unrest, 1.0):
            holes |= hole
    return outside | holes


def _background_models(lab: Floats) -> list[Floats]:
    """What the background may look like, in CIELAB: [H, W, 3] a smooth gradient, and [3] each common colour.

    Both are learnt from the border. The gradient is fitted again to all that it explains, for it must hold in the
    middle of the picture too.
    """
    height, width = lab.shape[:2]
    border = _border(height, width, max(2, round(0.03 * min(height, width))))
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([np.ones_like(xs), xs, ys, xs * ys, xs**2, ys**2], axis=-1)
    chosen = border
    for _ in range(3):
        surface = basis @ _robust_fit(basis[chosen], lab[chosen].astype(np.float64))
        error = np.linalg.norm(lab - surface, axis=-1)
        chosen = border | (error < max(1.5 * float(np.median(error[border])), 2.0))
    surface = surface.astype(np.float32)
    if np.percentile(error[border], 90) < 5:
        return [surface]

    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    cv2.setRNGSeed(0)
    samples = lab[border]
    clusters = min(4, len(samples))
    _, labels, centres = cv2.kmeans(samples, clusters, np.zeros((0,), np.int32), criteria, 2, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(labels.reshape(-1), minlength=clusters) / len(samples)
    common = centres[shares >= 0.12]  # a rarer colour may be the subject's, where it reaches the border
    return [surface, *common.astype(np.float32)]


def _robust_fit(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients [T, C] for terms [N, T] of values [N, C] by reweighted least squares: some may be the subject's."""
    weight = np.ones(len(values))
    for _ in range(8):
        fit = np.linalg.lstsq(terms * weight[:, None], values * weight[:, None], rcond=None)[0]
        residual = np.linalg.norm(values - terms @ fit, axis=1)
        weight = 1 / np.sqrt(1 + (residual / max(1.5 * float(np.median(residual)), 1.0)) ** 4)
    return np.asarray(fit, np.float64)


def _whitening(lab: Floats, models: list[Floats], border: Mask) -> Floats:
    """[3, 3] that makes the background's noise about its models, as seen at the border, alike in all directions."""
    residuals = np.stack([(lab - model)[border] for model in models])
    length = np.linalg.norm(residuals, axis=-1)
    nearest = residuals[length.argmin(axis=0), np.arange(length.shape[1])]
    kept = nearest[length.min(axis=0) <= 3 * np.median(length.min(axis=0))]
    covariance = kept.T @ kept / len(kept) + np.diag(1 / LAB_WEIGHTS**2)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)), np.float32)


def _border(height: int, width: int, thickness: int) -> Mask:
    border = np.ones((height, width), bool)
    border[thickness:-thickness, thickness:-thickness] = False
    return border


def objects(mask: Mask, share: float) -> Mask:
    """The connected parts of a mask with at least `share` of the largest part's area."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = np.asarray(stats)[:, cv2.CC_STAT_AREA]
    keep = areas >= share * areas[1:].max()
    keep[0] = False
    return np.asarray(keep[labels], bool)


def _reached_from(seed: Mask, passable: Mask) -> Mask:
    """What of a mask can be reached from the seed inside it on paths of at least 3 pixels' width."""
    wide = cv2.erode(passable.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=(1,))
    labels = cv2.connectedComponents(wide, connectivity=4)[1]
    touched = np.unique(labels[seed & (wide > 0)])
    reached = np.isin(labels, touched[touched > 0]).astype(np.uint8)
    return passable & (cv2.dilate(reached, np.ones((3, 3), np.uint8)) > 0)
