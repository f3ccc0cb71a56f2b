"""Surfaces from signed distance fields: marching cubes where the surface is, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    safety: float = 0.75,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The zero level of a signed distance field as a closed triangle mesh.

    A callable is evaluated coarse to fine. Cells whose corners are all further from the surface than `safety` x the
    cell's diagonal are not looked into at first; half of that already suffices for a field that is steeper than 1
    nowhere, the rest is for networks, which only nearly are distances. Whatever surface is met is then followed until
    all cells that it passes through are known. So the mesh is that of the full grid, but for pieces that nothing else
    touches in a field half again as steep as a distance.

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
    inside = values < 0
    if not inside.any():
        raise TurnaroundError(
            "shape.empty",
            "No shape was found in the picture.",
            "Try another seed, or a picture in which the object is larger and stands out from its background.",
        )
    begin, end = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        within = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        begin[axis], end[axis] = max(within[0] - 1, 0), within[-1] + 2
    part = values[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
    tiny, far = 1e-4 * float(step.min()), 1e4 * float(step.max())
    part = np.nan_to_num(part, nan=far, posinf=far, neginf=-far)
    # A sample on the surface itself would give triangles without area.
    part = np.where(np.abs(part) < tiny, tiny, part)
    # One layer of far outside closes the mesh at the border; being far, it leaves the cap at the border.
    vertices, faces = mcubes.marching_cubes(-np.pad(part, 1, constant_values=far), 0.0)
    return ((vertices - 1 + begin) * step + low).astype(np.float32), faces.astype(np.int32)


def _sample(
    sdf: SignedDistance, low: NDArray[np.float64], cell: float, cells: NDArray[np.int_], safety: float
) -> NDArray[np.float32]:
    """Samples of the field [X + 1, Y + 1, Z + 1]: exact where the surface is, else infinities of the right sign."""
    stride = 1
    while cells.max() // (2 * stride) >= MIN_COARSE_CELLS:
        stride *= 2
    values = np.full(tuple(-(-cells // stride) + 1), np.inf, np.float32)
    _evaluate(sdf, values, np.ones(values.shape, bool), low, cell * stride)
    while stride > 1:
        near = _over_corners(np.fmin, np.abs(values)) <= safety * np.sqrt(3.0) * cell * stride
        stride //= 2
        look_into = near | _crossed(values)
        values = _halve(values)
        look_into = np.repeat(np.repeat(np.repeat(look_into, 2, 0), 2, 1), 2, 2)
        while look_into.any():
            _evaluate(sdf, values, _corners(look_into) & np.isinf(values), low, cell * stride)
            look_into = _crossed(values) & _over_corners(np.logical_or, np.isinf(values))
    values = np.ascontiguousarray(values[: cells[0] + 1, : cells[1] + 1, : cells[2] + 1])
    rim = np.ones(values.shape, bool)
    rim[1:-1, 1:-1, 1:-1] = False
    _evaluate(sdf, values, rim & np.isneginf(values), low, cell)  # a shape that the bounds cut off is closed there
    return values


def _evaluate(
    sdf: SignedDistance, values: NDArray[np.float32], wanted: NDArray[np.bool_], low: NDArray[np.float64], step: float
) -> None:
    indices = np.flatnonzero(wanted)
    flat = values.reshape(-1)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        points = low + np.stack(np.unravel_index(chunk, values.shape), axis=1) * step
        # what is not a number is no shape, and infinities are for what was not evaluated
        flat[chunk] = np.nan_to_num(np.asarray(sdf(points.astype(np.float32)), np.float32).reshape(-1), nan=1e30)


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The grid with half the spacing; of the new points only the sign is given, as it is nearby."""
    sign = np.where(values < 0, np.float32(-np.inf), np.float32(np.inf))
    finer = np.empty(2 * np.array(values.shape) - 1, np.float32)
    for odd in np.ndindex(2, 2, 2):
        between = tuple(slice(0, n - o) for o, n in zip(odd, values.shape, strict=True))
        finer[tuple(slice(o, None, 2) for o in odd)] = values[between] if odd == (0, 0, 0) else sign[between]
    return finer


def _crossed(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Cells [X, Y, Z] of a grid [X + 1, ...] with corners on both sides of the surface."""
    inside = values < 0
    return _over_corners(np.logical_or, inside) & ~_over_corners(np.logical_and, inside)


def _over_corners(operation: np.ufunc, points: NDArray[Any]) -> NDArray[Any]:
    """Each cell's eight corners, reduced by a ufunc of two: grid [X + 1, Y + 1, Z + 1] -> cells [X, Y, Z]."""
    for axis in range(3):
        ahead = np.moveaxis(points, axis, 0)
        points = np.moveaxis(operation(ahead[:-1], ahead[1:]), 0, axis)
    return points


def _corners(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grid points [X + 1, Y + 1, Z + 1] that belong to any of the marked cells."""
    return _over_corners(np.logical_or, np.pad(cells, 1))
