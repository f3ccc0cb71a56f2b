"""A shape that fills its picture's outline, and no more.

What is thinner than a network's cells gets lost: legs, blades, railings. But the picture knows the shape's outline to
the pixel, as its own camera sees it. What lies beside the outline is cut away. Where a line of sight within it misses
the shape, a sheet is put in: at the depth where such lines come nearest to the shape, and as thick as the lost part is
wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera, project, rays
from backend.geometry.meshing import SignedDistance
from backend.geometry.sampling import sampled

F32 = NDArray[np.float32]

LINES = 96
"""Lines of sight along the picture's side."""

STEPS = 48
"""Depths at which the shape is asked for along each line."""

DECISION = 0.01
"""Of a line's depths, one that is further from the shape by as much, in object units, counts 1/e."""

THICKEST = 0.05
"""Of the sheet, half its thickness at most, in object units."""

SOFTNESS = 0.03
"""Within this distance of both, in object units, shape and sheet flow into each other."""

NEARNESS = 0.03
"""A line that misses the shape by as much, in object units, says 1/e of what one that hits it says of the depth."""

SPREADS = (1.5, 12.0)
"""Standard deviations, in lines, over which depths are averaged; the wider one counts where the narrow one knows
nothing."""


@dataclass(frozen=True)
class Outline:
    """An outline with the sheet that fills what the shape leaves of it. All maps are pixels of one square picture.

    Attributes:
        camera: the picture's.
        beside: float32 [S, S], signed distance to the outline, positive beside the subject; object units at depth 1.
        depth: float32 [S, S], of the sheet's middle along the view axis.
        slope: float32 [S, S], distance along the axis over distance to the sheet, at least 1.
        thickness: float32 [S, S], half the sheet's; negative where there is none.
    """

    camera: Camera
    beside: F32
    depth: F32
    slope: F32
    thickness: F32

    @cached_property
    def _maps(self) -> F32:
        """All maps in one, as each question looks all of them up: [S, S, 4]."""
        return np.stack([self.beside, self.depth, self.slope, self.thickness], axis=-1)

    def keep(self, points: F32, distance: F32) -> F32:
        """The shape's signed distances [N] at points [N, 3], those of a shape that keeps to the outline."""
        pixels, z = project(self.camera, points.astype(np.float64), len(self.beside))
        beside, depth, slope, thickness = sampled(self._maps, pixels, border=cv2.BORDER_REPLICATE).T
        cone = beside * z.astype(np.float32)
        sheet = np.abs(z.astype(np.float32) - depth) / slope - thickness
        return np.maximum(_soft_minimum(distance, np.maximum(sheet, cone)), cone)


def trace_outline(shape: SignedDistance, half: float, alpha: NDArray[np.uint8], camera: Camera) -> Outline:
    """Finds where a shape falls short of its picture's outline, and what fills that.

    Args:
        shape: signed distance within the cube [-half, half]^3.
        half: see there.
        alpha: uint8 [S, S] of the framed picture; the subject is where it is more than half of the highest.
        camera: the picture's.
    """
    size = len(alpha)
    beside = _signed_distance(alpha > alpha.max() // 2) / np.float32(camera.focal(size))
    near = beside * np.float32(camera.distance)  # as wide as it is about the object's middle
    coarse = cv2.resize(near, (LINES, LINES), interpolation=cv2.INTER_AREA)
    pitch = camera.distance * size / LINES / camera.focal(size)
    within = coarse < pitch / 2

    miss, depth = _nearest(shape, half, camera, within)
    depth = _averaged(depth, np.where(within, np.exp(-np.clip(miss, 0, 1) / NEARNESS), 0), camera.distance)
    missed = (within & (miss > 0)).astype(np.uint8)
    filled = cv2.dilate(missed, np.ones((3, 3), np.uint8)) > 0  # to the outline, and into what is there
    thickness = np.where(filled, np.minimum(np.maximum(-coarse, 0) + pitch / 2, THICKEST), -THICKEST)
    slope = np.sqrt(1 + sum(np.square(np.gradient(depth, axis=axis) / pitch) for axis in (0, 1)))

    def full(image: NDArray[np.floating]) -> F32:
        return np.asarray(cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR))

    return Outline(camera, beside, full(depth), full(slope), full(thickness))


def _signed_distance(solid: NDArray[np.bool_]) -> F32:
    """To the edge between what is solid and what is not, in pixels, positive outside: [S, S]."""
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5) for m in (solid, ~solid))
    return np.where(solid, 0.5 - inside, outside - 0.5).astype(np.float32)


def _nearest(shape: SignedDistance, half: float, camera: Camera, within: NDArray[np.bool_]) -> tuple[F32, F32]:
    """Of each line of sight [L, L] the lowest signed distance, and where that is; else infinity and the middle's."""
    origin, towards = rays(camera, LINES)
    directions = towards[within] / (towards[within] @ camera.world_from_camera()[:3, 2])[:, None]  # one of depth long
    depths = camera.distance + half * ((np.arange(STEPS) + 0.5) / STEPS * 2 - 1)
    points = origin + directions[:, None] * depths[:, None]
    known = (np.abs(points) <= half).all(axis=-1)
    values = np.full(known.shape, np.inf, np.float32)
    values[known] = shape(points[known].astype(np.float32))

    miss, depth = np.full(within.shape, np.inf, np.float32), np.full(within.shape, camera.distance, np.float32)
    lowest = values.min(axis=1)
    weights = np.exp(-(values - np.minimum(lowest, 1e3)[:, None]) / DECISION)
    miss[within] = lowest
    depth[within] = (weights @ depths + 1e-9 * camera.distance) / (weights.sum(axis=1) + 1e-9)
    return miss, depth


def _averaged(depth: F32, weight: NDArray[np.floating], default: float) -> F32:
    """Weighted means of the depths about each line [L, L], so that a lost part joins what is left of the shape."""
    total, known = np.full(depth.shape, 1e-6 * default), np.full(depth.shape, 1e-6)
    for spread, share in zip(SPREADS, (1.0, 1e-3), strict=True):
        total += share * cv2.GaussianBlur(depth * weight, (0, 0), spread)
        known += share * cv2.GaussianBlur(weight, (0, 0), spread)
    return (total / known).astype(np.float32)


def _soft_minimum(a: F32, b: F32) -> F32:
    """The lower of two distances, rounded where both are within `SOFTNESS` of each other (Quilez' polynomial)."""
    overlap = np.maximum(SOFTNESS - np.abs(a - b), 0) / SOFTNESS
    return (np.minimum(a, b) - overlap**2 * (SOFTNESS / 4)).astype(np.float32)
