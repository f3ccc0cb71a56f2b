"""Surfaces from signed distance fields: marching cubes where the surface is, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import mcubes
import numpy as np
from numpy.typing import NDArray

from protocol.errors import TurnaroundError

SignedDistance = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Points [N, 3] in the object frame -> signed distance [N] in object units, negative inside."""

CUBE = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
"""Bounds of the object frame's cube: (lowest, highest) corner."""

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]

MIN_COARSE_CELLS = 24
"""The first grid has at least this many cells along the longest side, so that thin parts are not stepped over."""

CHUNK = 1 << 18
"""Points per call of the signed distance."""


def extract_surface(
    sdf: SignedDistance | NDArray[np.floating],
    resolution: int,
    bounds: Bounds = CUBE,
    *,
    safety: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The zero level of a signed distance field as a closed triangle mesh.

    A callable is evaluated coarse to fine: cells whose corners are all further from the surface than
    `safety` x the cell's diagonal are not looked into. For a distance field that is steeper than 1 nowhere, half of
    that is enough to give exactly the mesh of the full grid; the rest is for networks, which only nearly are one.
    The field is taken to be outside beyond the bounds, so that a shape that reaches them is closed there.

    Args:
        sdf: the field; or its samples [X, Y, Z] at the bounds and evenly between, `resolution` then being ignored.
        resolution: cells along the longest side of the bounds.
        bounds: the box to search.
        safety: see above; infinity evaluates everything.

    Returns:
        vertices float32 [N, 3] in the object frame and faces int32 [M, 3], counter-clockwise seen from outside.

    Raises:
        TurnaroundError: `shape.empty`, there is no surface within the bounds.
    """
    low, high = np.array(bounds[0], np.float64), np.array(bounds[1], np.float64)
    if callable(sdf):
        cell = float((high - low).max()) / resolution
        cells = np.maximum(np.ceil((high - low) / cell - 1e-6), 1).astype(int)
        values, step = _sample(sdf, low, cell, cells, safety), np.full(3, cell)
    else:
        values = np.asarray(sdf, np.float32)
        step = (high - low) / (np.array(values.shape) - 1)
    return _march(values, low, step)


def _march(
    values: NDArray[np.float32], low: NDArray[np.float64], step: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    tiny, far = 1e-4 * float(step.min()), 1e4 * float(step.max())
    values = np.nan_to_num(values, nan=far, posinf=far, neginf=-far)
    # A sample on the surface itself would give triangles without area.
    values = np.where(np.abs(values) < tiny, tiny, values)
    # One layer of far outside closes the mesh at the border; being far, it leaves the cap at the border.
    padded = np.pad(values, 1, constant_values=far)
    vertices, faces = mcubes.marching_cubes(-padded, 0.0)
    if not len(faces):
        raise TurnaroundError(
            "shape.empty",
            "No shape was found in the picture.",
            "Try another seed, or a picture in which the object is larger and stands out from its background.",
        )
    return ((vertices - 1) * step + low).astype(np.float32), faces.astype(np.int32)


def _sample(
    sdf: SignedDistance, low: NDArray[np.float64], cell: float, cells: NDArray[np.int_], safety: float
) -> NDArray[np.float32]:
    """Samples of the field [X + 1, Y + 1, Z + 1]: exact near the surface, elsewhere interpolated."""
    stride = 1
    while cells.max() // (2 * stride) >= MIN_COARSE_CELLS:
        stride *= 2
    values = np.empty(tuple(-(-cells // stride) + 1), np.float32)
    _evaluate(sdf, values, np.ones(values.shape, bool), low, cell * stride)
    while stride > 1:
        active = _near_surface(values, safety * np.sqrt(3.0) * cell * stride)
        stride //= 2
        values = _halve(values)
        wanted = _corners(np.repeat(np.repeat(np.repeat(active, 2, 0), 2, 1), 2, 2))
        wanted[::2, ::2, ::2] = False  # known from the coarser grid
        _evaluate(sdf, values, wanted, low, cell * stride)
    return values[: cells[0] + 1, : cells[1] + 1, : cells[2] + 1]


def _evaluate(
    sdf: SignedDistance, values: NDArray[np.float32], wanted: NDArray[np.bool_], low: NDArray[np.float64], step: float
) -> None:
    indices = np.flatnonzero(wanted)
    flat = values.reshape(-1)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        points = low + np.stack(np.unravel_index(chunk, values.shape), axis=1) * step
        flat[chunk] = np.asarray(sdf(points.astype(np.float32))).reshape(-1)


def _near_surface(values: NDArray[np.float32], distance: float) -> NDArray[np.bool_]:
    """Cells [X, Y, Z] of a grid [X + 1, ...] with a corner nearer than `distance`, or with corners on both sides."""
    nearest = np.full(np.array(values.shape) - 1, np.inf, np.float32)
    inside = np.zeros(nearest.shape, np.uint8)
    for corner in np.ndindex(2, 2, 2):
        part = values[tuple(slice(c, c + n) for c, n in zip(corner, nearest.shape, strict=True))]
        np.fmin(nearest, np.abs(part), out=nearest)
        inside += part < 0
    return (nearest <= distance) | ((inside > 0) & (inside < 8))


def _corners(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grid points [X + 1, Y + 1, Z + 1] that belong to any of the marked cells."""
    points = np.zeros(np.array(cells.shape) + 1, bool)
    for corner in np.ndindex(2, 2, 2):
        points[tuple(slice(c, c + n) for c, n in zip(corner, cells.shape, strict=True))] |= cells
    return points


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The grid with half the spacing, linearly interpolated."""
    for axis in range(3):
        finer = np.empty([2 * n - 1 if k == axis else n for k, n in enumerate(values.shape)], np.float32)
        front = np.moveaxis(finer, axis, 0)
        source = np.moveaxis(values, axis, 0)
        front[::2] = source
        front[1::2] = (source[:-1] + source[1:]) / 2
        values = finer
    return values
