"""Silhouettes of projected meshes and how well two of them overlap: numpy alone, exact at pixel centres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

TESTS_AT_ONCE = 1 << 21
"""Pixel-in-triangle tests done in one array operation; bounds the memory."""


def rasterize(points: NDArray[np.floating], triangles: NDArray[np.int32], size: int) -> Mask:
    """Pixels [size, size] whose centres lie in any triangle.

    Args:
        points: [N, 2], x right and y down, in pixels; NaN where a point has no projection.
        triangles: int32 [M, 3], of either orientation.
        size: side of the raster.
    """
    mask = np.zeros((size, size), dtype=bool)
    corners = points.astype(np.float32)[triangles]
    with np.errstate(invalid="ignore"):
        low = np.ceil(np.maximum(corners.min(axis=1), 0.0) - 0.5)
        high = np.floor(np.minimum(corners.max(axis=1), size) - 0.5)
        covers = np.isfinite(corners).all(axis=(1, 2)) & (high >= low).all(axis=1)
    corners, low, high = corners[covers], low[covers].astype(np.int32), high[covers].astype(np.int32)
    extent = (high - low).max(axis=1, initial=0) + 1
    reach = 1
    while len(corners):  # triangles of like size together: each is tested against a reach x reach block of pixels
        now = extent <= reach
        block = np.stack(np.meshgrid(np.arange(reach), np.arange(reach)), axis=-1).reshape(-1, 2)
        chosen = np.flatnonzero(now)
        for part in np.array_split(chosen, max(1, -(-len(chosen) * len(block) // TESTS_AT_ONCE))):
            _fill(mask, corners[part], low[part], block)
        corners, low, extent = corners[~now], low[~now], extent[~now]
        reach *= 2
    return mask


def _fill(mask: Mask, corners: NDArray[np.float32], low: NDArray[np.int32], block: NDArray[np.int_]) -> None:
    pixels = low[:, None] + block
    x, y = pixels[..., 0] + np.float32(0.5), pixels[..., 1] + np.float32(0.5)
    sides: list[NDArray[np.float32]] = []
    for start, end in ((0, 1), (1, 2), (2, 0)):
        a, b = corners[:, start, None], corners[:, end, None]
        sides.append((b[..., 0] - a[..., 0]) * (y - a[..., 1]) - (b[..., 1] - a[..., 1]) * (x - a[..., 0]))
    first, second, third = sides
    inside = ((first >= 0) & (second >= 0) & (third >= 0)) | ((first <= 0) & (second <= 0) & (third <= 0))
    inside &= (pixels < len(mask)).all(axis=-1)
    hit = pixels[inside]
    mask[hit[:, 1], hit[:, 0]] = True


def overlap(first: Mask, second: Mask) -> float:
    """Intersection over union; 0 if both are empty."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def best_similarity(
    shape: Mask, subject: Mask, pivot: NDArray[np.float64], scales: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The growth about `pivot` and the shift [2], in pixels, after which `shape` overlaps `subject` best.

    Every scale is tried with every whole-pixel shift at once: the intersections are a correlation, by FFT.
    """
    size = len(subject)
    spectrum = np.fft.rfft2(subject, s=(2 * size, 2 * size))
    area = np.count_nonzero(subject)
    best: tuple[float, float, NDArray[np.float64]] = (-1.0, 1.0, np.zeros(2))
    for scale in scales:
        grown = _grown(shape, pivot, scale)
        common = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(grown, s=(2 * size, 2 * size))), s=(2 * size, 2 * size))
        row, column = np.unravel_index(int(common.argmax()), common.shape)
        score = common[row, column] / (np.count_nonzero(grown) + area - common[row, column])
        if score > best[0]:
            shift = np.array([column, row], dtype=np.float64)
            best = float(score), float(scale), np.where(shift >= size, shift - 2 * size, shift)
    return best[1], best[2]


def _grown(mask: Mask, pivot: NDArray[np.float64], scale: float) -> Mask:
    """The mask enlarged about a point, [size, size]; what grows out of the raster is cut."""
    centres = np.arange(len(mask)) + 0.5
    columns, rows = (np.floor(pivot[axis] + (centres - pivot[axis]) / scale).astype(int) for axis in (0, 1))
    inside = ((rows >= 0) & (rows < len(mask)))[:, None] & ((columns >= 0) & (columns < len(mask)))
    return inside & mask[np.clip(rows, 0, len(mask) - 1)[:, None], np.clip(columns, 0, len(mask) - 1)]
