"""Matting: the subject of a picture apart from its background, with a soft edge and clean colours.

A picture's own alpha is taken where it has one. Otherwise the background is learnt from the picture's border, GrabCut
(Rother et al. 2004) separates what differs from it, a guided filter (He et al. 2010; fast form, He and Sun 2015)
lays the edge along the picture's own, and the background's colour is taken out of the edge's pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.preparation.picture import check_picture
from protocol.errors import TurnaroundError

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

WORK_SIDE = 384
"""Longest side at which the subject is searched for; the edge is found at full size."""

CLEAR_SHARE = 0.002
"""A picture is cut out already when at least this share of it is transparent (alpha below `CLEAR`)."""

CLEAR = 26

OBJECT_SHARE = 0.1
"""Parts with at least this share of the largest part's area are objects of their own; smaller ones are dropped."""


def cut_out(picture: NDArray[np.uint8], matte: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """The picture with its background transparent.

    Args:
        picture: uint8 [H, W, 4], straight alpha.
        matte: uint8 [H, W], the subject's alpha if someone has drawn it; it replaces all else.

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
        kept = np.where(_objects(alpha >= CLEAR, OBJECT_SHARE / 100), alpha, 0).astype(np.uint8)
        return _assemble(picture[..., :3], kept)
    soft = _soft_edge(picture[..., :3], _segment(picture[..., :3]))
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


# ------------------------------------------------------------------------------------------------ finding the subject


def _segment(rgb: NDArray[np.uint8]) -> Mask:
    """The subject of an opaque picture, [H, W] of a work-sized copy."""
    scale = min(1.0, WORK_SIDE / max(rgb.shape[:2]))
    width, height = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    small = np.ascontiguousarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    difference = _background_difference(small)
    threshold = _threshold(difference)
    likely = difference > threshold
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    border = _border(height, width, 2)
    labels[border & (difference < threshold)] = cv2.GC_BGD
    labels[(difference < 0.35 * threshold) & _connected_to(difference < 0.7 * threshold, border)] = cv2.GC_BGD
    sure = cv2.erode(likely.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=max(1, min(height, width) // 64))
    labels[(sure > 0) & (difference > 2 * threshold)] = cv2.GC_FGD
    if not likely.any() or not ((labels == cv2.GC_BGD) | (labels == cv2.GC_PR_BGD)).any():
        raise _no_subject()
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its clusters start at random; the same picture must give the same subject
    cv2.grabCut(small, labels, (0, 0, 0, 0), *models, 5, cv2.GC_INIT_WITH_MASK)
    subject = _objects((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), OBJECT_SHARE)
    subject = ~_objects(~subject, 0.001)  # pinholes are not holes
    if not 0.002 < subject.mean() < 0.97:
        raise _no_subject()
    return subject


def _no_subject() -> TurnaroundError:
    return TurnaroundError(
        "picture.no_subject",
        "No subject stands out from the background.",
        "Use a picture with a plain background, or remove the background yourself and keep the alpha channel.",
        field="picture",
    )


def _background_difference(rgb: NDArray[np.uint8]) -> Floats:
    """How unlike the background each pixel is, [H, W] in CIELAB units; small where it could be background.

    The background is what the border shows: a smooth gradient over the picture, or a few colours, whichever explains
    a pixel better. Lightness counts less than hue, so that a soft shadow is not taken for the subject.
    """
    height, width = rgb.shape[:2]
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * np.array([0.6, 1, 1], np.float32)
    lab = np.asarray(cv2.GaussianBlur(lab, (0, 0), 1.0), np.float32)
    border = _border(height, width, max(2, round(0.03 * min(height, width))))
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([np.ones_like(xs), xs, ys, xs * ys, xs**2, ys**2], axis=-1)
    colours, terms = lab[border].astype(np.float64), basis[border]
    weight = np.ones(len(colours))
    for _ in range(8):  # reweighted least squares: the subject may reach the border somewhere
        plane = np.linalg.lstsq(terms * weight[:, None], colours * weight[:, None], rcond=None)[0]
        residual = np.linalg.norm(colours - terms @ plane, axis=1)
        weight = 1 / np.sqrt(1 + (residual / max(1.5 * float(np.median(residual)), 1.0)) ** 4)
    from_gradient = np.linalg.norm(lab - basis @ plane, axis=-1)

    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    cv2.setRNGSeed(0)
    samples = colours.astype(np.float32)
    clusters = min(4, len(samples))
    _, labels, centres = cv2.kmeans(samples, clusters, np.zeros((0,), np.int32), criteria, 2, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(labels.reshape(-1), minlength=clusters) / len(samples)
    common = centres[shares >= 0.12]  # a rarer colour may be the subject's, where it reaches the border
    from_colours = np.linalg.norm(lab[:, :, None] - common, axis=-1).min(axis=-1)
    return np.minimum(from_gradient, from_colours).astype(np.float32)


def _threshold(difference: Floats) -> float:
    """Between background and subject: Otsu's, but above the unrest of the border itself."""
    height, width = difference.shape
    unrest = float(np.percentile(difference[_border(height, width, 2)], 75))
    top = max(float(np.percentile(difference, 99.5)), 1e-3)
    levels = np.clip(difference * (255 / top), 0, 255).astype(np.uint8)
    otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] * top / 255
    return max(0.6 * float(otsu), 1.5 * unrest, 2.5)


def _border(height: int, width: int, thickness: int) -> Mask:
    border = np.ones((height, width), bool)
    border[thickness:-thickness, thickness:-thickness] = False
    return border


def _areas(mask: Mask) -> NDArray[np.int_]:
    """Areas of the background and of each connected part."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    return np.asarray(stats)[:, cv2.CC_STAT_AREA].astype(int)


def _objects(mask: Mask, share: float) -> Mask:
    """The connected parts of a mask with at least `share` of the largest part's area."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = np.asarray(stats)[:, cv2.CC_STAT_AREA]
    keep = areas >= share * areas[1:].max()
    keep[0] = False
    return np.asarray(keep[labels], bool)


def _connected_to(mask: Mask, seed: Mask) -> Mask:
    """The connected parts of a mask that touch the seed."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    touched = np.unique(labels[seed & mask])
    return np.isin(labels, touched[touched > 0])


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
