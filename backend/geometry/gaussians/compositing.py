"""Splats over one another on the CPU, front to back, and their gradients back to front.

Compiled, threaded, and the same to the last bit in every run. Pictures are cut into tiles; a tile takes its splats one
after the other, each over the few pixels that it covers. What is kept of the forward pass is, for each pixel, the
transmittance left and the splat that ended it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from backend.geometry.gaussians.projection import LEAST_ALPHA

TILE = 64
"""Side of a tile in pixels; its state fits the second-level cache."""

LEAST_TRANSMITTANCE = 1e-4
"""A splat that would leave less light than this ends its pixel and is not drawn there."""

COLUMNS = 10
"""Of a splat: u, v, conic (0, 0), (0, 1), (1, 1), opacity, red, green, blue, depth."""


def composite(splats: Tensor, extents: Tensor, size: int, alpha_cap: float) -> Tensor:
    """Draws splats (Kerbl et al. 2023, equation 3), nearest first; those of one depth in their order.

    Args:
        splats: CPU, float32 or float64, [I, N, COLUMNS] of I pictures.
        extents: [I, N, 2], see `projection.Projected`.
        size: side of the pictures in pixels.
        alpha_cap: the most that one splat covers of a pixel.

    Returns:
        [I, size, size, 5]: red, green, blue, depth, each weighted and summed, and the sum of the weights.
    """
    return _Composite.apply(splats, extents, size, alpha_cap)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, splats: Tensor, extents: Tensor, size: int, alpha_cap: float) -> Tensor:
        rows = splats.detach().contiguous().numpy()
        order = torch.argsort(splats[..., 9], dim=-1, stable=True).numpy()
        entries, starts = _bin(rows, extents.numpy(), order, size, TILE)
        image = np.zeros((len(rows), size, size, 5), rows.dtype)
        transmittance = np.ones(image.shape[:3], rows.dtype)
        ends = np.full(image.shape[:3], np.iinfo(np.int32).max, np.int32)
        boxes = extents.numpy()
        _threaded(_forward, len(starts) - 1, rows, boxes, entries, starts, alpha_cap, TILE, image, transmittance, ends)
        ctx.kept = rows, boxes, entries, starts, alpha_cap, transmittance, ends
        return torch.from_numpy(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, boxes, entries, starts, alpha_cap, transmittance, ends = ctx.kept
        upstream = gradient.contiguous().numpy()
        shares = np.zeros((len(entries), COLUMNS), rows.dtype)
        inputs = rows, boxes, entries, starts, alpha_cap, TILE, transmittance, ends, upstream
        _threaded(_backward, len(starts) - 1, *inputs, shares)
        return torch.from_numpy(_gather(shares, entries, starts, rows)), None, None, None


def _threaded(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Calls kernel(first, step, ...) on as many threads as torch may use; every tile belongs to one of them."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, 1, *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        for running in [pool.submit(kernel, first, threads, *arguments) for first in range(threads)]:
            running.result()


@njit(cache=True, nogil=True)
def _span(center: float, extent: float, size: int) -> tuple[int, int]:
    """First pixel and the one after the last whose centres lie within an extent; empty where there is none."""
    if not (extent >= 0 and center + extent > 0 and center - extent < size):  # NaN is nowhere
        return 0, 0
    # a pixel more on either side: which ones count is decided by alpha alone
    return max(0, int(max(center - extent, 0.0) - 0.5)), min(size, int(min(center + extent, float(size)) + 1.5))


@njit(cache=True, nogil=True, error_model="numpy")
def _row(u: float, a: float, b: float, c: float, reach: float, dy: float, left: int, right: int) -> tuple[int, int]:
    """The part of left..right where a dx^2 + 2 b dx dy + c dy^2 <= reach, and hardly more."""
    inside = a * reach - (a * c - b * b) * dy * dy
    if not inside > 0:
        return left, left
    half = np.sqrt(inside) / a + 0.01  # rounding must not cost a pixel
    middle = u - b * dy / a - 0.5
    return max(left, int(np.ceil(max(middle - half, -1.0)))), min(right, int(np.floor(min(middle + half, 1e9))) + 1)


@njit(cache=True, nogil=True)
def _bin(splats: NDArray, extents: NDArray, order: NDArray, size: int, tile: int) -> tuple[NDArray, NDArray]:
    """The splats of each tile, nearest first: entries [E], rows of `splats`; tile t has starts[t] to starts[t + 1]."""
    side = (size + tile - 1) // tile
    boxes = np.empty((*extents.shape[:2], 4), np.int32)  # in tiles: left, right, top, bottom; empty where unseen
    counts = np.zeros(len(splats) * side * side + 1, np.int64)
    for i in range(len(splats)):
        for k in range(splats.shape[1]):
            left, right = _span(splats[i, k, 0], extents[i, k, 0], size)
            top, bottom = _span(splats[i, k, 1], extents[i, k, 1], size)
            if left >= right or top >= bottom:
                left = right = top = bottom = 0
            box = left // tile, (right + tile - 1) // tile, top // tile, (bottom + tile - 1) // tile
            boxes[i, k] = box
            for row in range(box[2], box[3]):
                for column in range(box[0], box[1]):
                    counts[(i * side + row) * side + column + 1] += 1
    starts = np.cumsum(counts)
    free = starts[:-1].copy()
    entries = np.empty(starts[-1], np.int32)
    for i in range(len(splats)):
        for k in order[i]:
            for row in range(boxes[i, k, 2], boxes[i, k, 3]):
                for column in range(boxes[i, k, 0], boxes[i, k, 1]):
                    t = (i * side + row) * side + column
                    entries[free[t]] = k
                    free[t] += 1
    return entries, starts


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(
    first: int,
    step: int,
    splats: NDArray,
    extents: NDArray,
    entries: NDArray,
    starts: NDArray,
    alpha_cap: float,
    tile: int,
    image: NDArray,
    transmittance: NDArray,
    ends: NDArray,
) -> None:
    size = image.shape[1]
    side = (size + tile - 1) // tile
    for t in range(first, len(starts) - 1, step):
        i, row, column = t // (side * side), t // side % side, t % side
        for entry in range(starts[t], starts[t + 1]):
            k = entries[entry]
            splat = splats[i, k]
            u, v, a, b, c, opacity = splat[0], splat[1], splat[2], splat[3], splat[4], splat[5]
            red, green, blue, depth = splat[6], splat[7], splat[8], splat[9]
            reach = 2 * np.log(opacity / LEAST_ALPHA)
            left, right = _span(u, extents[i, k, 0], size)
            top, bottom = _span(v, extents[i, k, 1], size)
            for y in range(max(top, row * tile), min(bottom, (row + 1) * tile)):
                dy = y + 0.5 - v
                begin, end = _row(u, a, b, c, reach, dy, max(left, column * tile), min(right, (column + 1) * tile))
                for x in range(begin, end):
                    if entry >= ends[i, y, x]:
                        continue
                    dx = x + 0.5 - u
                    alpha = opacity * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
                    if not alpha >= LEAST_ALPHA:  # nor is it where it is not a number
                        continue
                    alpha = min(alpha, alpha_cap)
                    light = transmittance[i, y, x]
                    if light * (1 - alpha) < LEAST_TRANSMITTANCE:
                        ends[i, y, x] = entry
                        continue
                    weight = alpha * light
                    image[i, y, x, 0] += weight * red
                    image[i, y, x, 1] += weight * green
                    image[i, y, x, 2] += weight * blue
                    image[i, y, x, 3] += weight * depth
                    image[i, y, x, 4] += weight
                    transmittance[i, y, x] = light * (1 - alpha)


@njit(cache=True, nogil=True, error_model="numpy")
def _backward(
    first: int,
    step: int,
    splats: NDArray,
    extents: NDArray,
    entries: NDArray,
    starts: NDArray,
    alpha_cap: float,
    tile: int,
    transmittance: NDArray,
    ends: NDArray,
    upstream: NDArray,
    shares: NDArray,
) -> None:
    """Each tile's share of each of its splats' gradients, [E, COLUMNS].

    `behind` is, for each pixel, the product of upstream gradient and what lies behind the current splat, as it would
    look without anything in front.
    """
    size = transmittance.shape[1]
    side = (size + tile - 1) // tile
    lights = np.empty((tile, tile), np.float64)
    behind = np.empty((tile, tile), np.float64)
    for t in range(first, len(starts) - 1, step):
        i, row, column = t // (side * side), t // side % side, t % side
        y0, x0 = row * tile, column * tile
        behind[:] = 0
        for y in range(y0, min(size, y0 + tile)):
            for x in range(x0, min(size, x0 + tile)):
                lights[y - y0, x - x0] = transmittance[i, y, x]
        for entry in range(starts[t + 1] - 1, starts[t] - 1, -1):
            k = entries[entry]
            splat = splats[i, k]
            u, v, a, b, c, opacity = splat[0], splat[1], splat[2], splat[3], splat[4], splat[5]
            red, green, blue, depth = splat[6], splat[7], splat[8], splat[9]
            reach = 2 * np.log(opacity / LEAST_ALPHA)
            left, right = _span(u, extents[i, k, 0], size)
            top, bottom = _span(v, extents[i, k, 1], size)
            du = dv = da = db = dc = d_opacity = d_red = d_green = d_blue = d_depth = 0.0
            for y in range(max(top, y0), min(bottom, y0 + tile)):
                dy = y + 0.5 - v
                begin, end = _row(u, a, b, c, reach, dy, max(left, x0), min(right, x0 + tile))
                for x in range(begin, end):
                    if entry >= ends[i, y, x]:
                        continue
                    dx = x + 0.5 - u
                    density = np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
                    if not opacity * density >= LEAST_ALPHA:
                        continue
                    alpha = min(opacity * density, alpha_cap)
                    g = upstream[i, y, x]
                    light = lights[y - y0, x - x0] / (1 - alpha)
                    lights[y - y0, x - x0] = light
                    weight = alpha * light
                    d_red += weight * g[0]
                    d_green += weight * g[1]
                    d_blue += weight * g[2]
                    d_depth += weight * g[3]
                    worth = red * g[0] + green * g[1] + blue * g[2] + depth * g[3] + g[4]
                    d_alpha = light * (worth - behind[y - y0, x - x0])
                    behind[y - y0, x - x0] += alpha * (worth - behind[y - y0, x - x0])
                    if opacity * density > alpha_cap:
                        continue
                    d_opacity += density * d_alpha
                    d_exponent = alpha * d_alpha
                    du += d_exponent * (a * dx + b * dy)
                    dv += d_exponent * (b * dx + c * dy)
                    da -= 0.5 * d_exponent * dx * dx
                    db -= d_exponent * dx * dy
                    dc -= 0.5 * d_exponent * dy * dy
            shares[entry, 0], shares[entry, 1], shares[entry, 2], shares[entry, 3], shares[entry, 4] = (
                du,
                dv,
                da,
                db,
                dc,
            )
            shares[entry, 5], shares[entry, 6], shares[entry, 7] = d_opacity, d_red, d_green
            shares[entry, 8], shares[entry, 9] = d_blue, d_depth


@njit(cache=True, nogil=True)
def _gather(shares: NDArray, entries: NDArray, starts: NDArray, splats: NDArray) -> NDArray:
    """The tiles' shares summed in the tiles' order, so that no run differs from another; shaped as the splats."""
    total = np.zeros_like(splats)
    tiles = (len(starts) - 1) // max(len(splats), 1)
    for t in range(len(starts) - 1):
        for entry in range(starts[t], starts[t + 1]):
            total[t // tiles, entries[entry]] += shares[entry]
    return total
