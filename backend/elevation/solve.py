"""The elevation of the picture's camera, from matches between views whose relative moves are known.

One-2-3-45's search (Liu et al. 2023, Section 3.2): a relative move about the object only fits the pictures if it
starts from the right elevation, since "10 degrees to the left" near the pole is another motion than at the horizon.
So for each candidate elevation, points are triangulated from one pair of views and projected into the other views;
the candidate at which they land on their matches wins. Here all candidates are solved at once.

Different from the reference on purpose: every pair is triangulated and not three of six, the result is refined below
a degree, mismatches are bounded, and the spread is reported; without usable matches the result says that it is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backend.geometry.cameras import Camera

Array = NDArray[np.float64]
Matches = Mapping[tuple[int, int], NDArray[np.floating]]
"""(i, j) -> rows [N, 5]: u, v in view i, u, v in view j, confidence; pixels with centres at +0.5."""

NEAR_MOVES = ((10.0, 0.0), (-10.0, 0.0), (0.0, -10.0), (0.0, 10.0))
"""One-2-3-45's near views as (elevation, azimuth) moves from the picture's camera, in degrees."""

COARSE = np.arange(-60.0, 81.0, 10.0)
"""Candidate elevations of the first pass; the second pass goes in steps of 1 around the best."""

ASSUMED_DEG, ASSUMED_SPREAD_DEG = 15.0, 20.0
"""What is assumed when nothing can be measured: most pictures of objects look down a little."""

SAME_POINT_PX = 1.0
"""Keypoints of two pairs in their common view are one point when nearer than this, in pixels of 256."""

OUTLIER_PX = 20.0
"""No match counts as more wrong than this, in pixels of 256: it is a mismatch then, and says nothing of the angle."""

MAX_ERROR_PX = 8.0
"""Matches that no elevation explains better than this, in pixels of 256, are not of one object."""

MIN_POINTS = 3
"""Fewer points than this that can be followed into a third view, on average over the views, measure nothing."""


@dataclass(frozen=True)
class Estimate:
    """An elevation and how far to trust it.

    Attributes:
        elevation_deg: of the picture's camera, above the horizon.
        spread_deg: about one standard deviation, from the flatness of the error curve.
        confidence: 0 (assumed) to 1.
        source: whether it was measured or is an assumption.
        candidates: degrees [C], ascending; empty when assumed.
        errors: mean reprojection error [C] at the candidates, in pixels.
    """

    elevation_deg: float
    spread_deg: float
    confidence: float
    source: Literal["estimated", "assumed"]
    candidates: Array
    errors: Array


@dataclass(frozen=True)
class Transfer:
    """Points of a pair of views that were also found in a third.

    Attributes:
        first: the pair's view from which they were followed.
        second: the pair's other view.
        third: the view in which their projection is judged.
        pair: pixels [N, 4] in the first and second view.
        seen: pixels [N, 2] in the third view.
        weight: confidence [N] of having been found there.
    """

    first: int
    second: int
    third: int
    pair: Array
    seen: Array
    weight: Array


def solve_elevation(
    matches: Matches,
    moves: Sequence[tuple[float, float]],
    *,
    camera: Camera,
    size: int,
    triangulate: Sequence[tuple[int, int]] | None = None,
    outlier_px: float = OUTLIER_PX,
) -> Estimate:
    """Finds the elevation at which the moves explain the matches.

    Args:
        matches: between views, in either order or both.
        moves: the views' (elevation, azimuth) moves in degrees, relative to the unknown camera.
        camera: distance and field of view of all views; its angles do not matter.
        size: side of the views in pixels.
        triangulate: ordered pairs to triangulate; points are followed from the first view of a pair into the
            others. All pairs by default.
        outlier_px: bound of a single match's error, in pixels of 256.

    Returns:
        The estimate; `source` is "assumed" where the matches do not suffice, or say less than the assumption does.
    """
    pairs = triangulate or list(permutations(range(len(moves)), 2))
    transfers = find_transfers(matches, pairs, size)
    count = sum(len(t.weight) for t in transfers) / (len(pairs) * (len(moves) - 2))
    if count < MIN_POINTS:
        return _assumed()
    errors_at = partial(
        reprojection_errors, transfers, moves=moves, camera=camera, size=size, limit=outlier_px * size / 256
    )
    coarse = errors_at(COARSE)
    best = COARSE[np.argmin(coarse)]
    fine_candidates = np.setdiff1d(np.arange(best - 9.0, best + 10.0), COARSE)
    fine = errors_at(fine_candidates)
    candidates = np.concatenate([COARSE, fine_candidates])
    order = np.argsort(candidates)
    candidates, errors = candidates[order], np.concatenate([coarse, fine])[order]
    elevation = _refine(candidates, errors)
    spread = _spread(candidates, errors, elevation)
    if spread >= ASSUMED_SPREAD_DEG or errors.min() > MAX_ERROR_PX * size / 256:
        return _assumed()
    at_end = elevation <= COARSE[0] or elevation >= COARSE[-1]
    confidence = count / (count + 20.0) / (1.0 + (spread / 10.0) ** 2) * (0.3 if at_end else 1.0)
    return Estimate(elevation, spread, float(confidence), "estimated", candidates, errors)


def _assumed() -> Estimate:
    return Estimate(ASSUMED_DEG, ASSUMED_SPREAD_DEG, 0.0, "assumed", np.empty(0), np.empty(0))


def find_transfers(matches: Matches, pairs: Sequence[tuple[int, int]], size: int) -> list[Transfer]:
    """Points of each ordered pair followed from its first view into every other, nearest keypoint to keypoint."""
    directed: dict[tuple[int, int], Array] = {}
    for (i, j), rows in matches.items():
        rows = np.asarray(rows, np.float64).reshape(-1, 5)
        directed[i, j] = rows
        if (j, i) not in matches:
            directed[j, i] = rows[:, [2, 3, 0, 1, 4]]
    transfers = []
    radius = SAME_POINT_PX * size / 256
    for i, j in pairs:
        pair = directed.get((i, j), np.empty((0, 5)))
        for (a, third), rows in directed.items():
            if a != i or third == j or not len(rows) or not len(pair):
                continue
            distance, nearest = cKDTree(rows[:, :2]).query(pair[:, :2])
            near = distance < radius
            if near.any():
                found = rows[nearest[near]]
                transfers.append(Transfer(i, j, third, pair[near, :4], found[:, 2:4], found[:, 4]))
    return transfers


def reprojection_errors(
    transfers: Sequence[Transfer],
    candidates: Array,
    moves: Sequence[tuple[float, float]],
    *,
    camera: Camera,
    size: int,
    limit: float = np.inf,
) -> Array:
    """Mean over the transfers of the confidence-weighted reprojection error [C], in pixels, at each candidate [C]."""
    cameras = [Camera(e, 0.0, camera.distance, camera.fov_deg) for e in candidates]
    projections = np.stack(
        [[c.moved(elevation_deg=e, azimuth_deg=a).image_from_world(size) for e, a in moves] for c in cameras]
    )  # [C, V, 3, 4]
    total = np.zeros(len(candidates))
    for t in transfers:
        points = triangulate_points(projections[:, t.first], projections[:, t.second], t.pair)
        seen = np.einsum("cij,cnj->cni", projections[:, t.third], points)
        error = np.linalg.norm(seen[..., :2] / seen[..., 2:] - t.seen, axis=-1)
        total += np.minimum(error, limit) @ t.weight / t.weight.sum()
    return total / len(transfers)


def triangulate_points(first: Array, second: Array, pixels: Array) -> Array:
    """Linear triangulation (Hartley and Zisserman, Section 12.2) for many hypotheses at once.

    Args:
        first: projections [C, 3, 4] of the first view.
        second: projections [C, 3, 4] of the second view.
        pixels: [N, 4], u and v in the first view, then in the second.

    Returns:
        Homogeneous points [C, N, 4]: the right singular vectors of the least singular value.
    """
    rows = np.stack(
        [
            pixels[:, axis + 2 * view, None] * p[:, None, 2] - p[:, None, axis]
            for view, p in enumerate((first, second))
            for axis in (0, 1)
        ],
        axis=-2,
    )  # [C, N, 4, 4]
    return np.linalg.eigh(np.swapaxes(rows, -1, -2) @ rows)[1][..., 0]


def _refine(candidates: Array, errors: Array) -> float:
    """The minimum of the parabola through the best candidate and its neighbours, if they are a degree away."""
    k = int(np.argmin(errors))
    if 0 < k < len(errors) - 1 and candidates[k + 1] - candidates[k - 1] == 2.0:
        left, middle, right = errors[k - 1 : k + 2]
        curvature = left - 2 * middle + right
        if curvature > 0:
            return float(candidates[k] + np.clip(0.5 * (left - right) / curvature, -0.5, 0.5))
    return float(candidates[k])


def _spread(candidates: Array, errors: Array, elevation: float) -> float:
    """Degrees at which a wrong elevation adds as much error as the matches have at the right one.

    The error near the minimum is modelled as sqrt(e0^2 + (k * degrees)^2): matching noise and the misfit that grows
    with the angle. That would be the spread of a single match; that of the mean over many, whose errors are alike, is
    a quarter of it: measured with flow on ray-traced textured ellipsoids from -30 to 65 degrees.
    """
    away = np.abs(candidates - elevation)
    near = (away > 3) & (away <= 20)
    slope = np.sqrt(np.maximum(np.median((errors[near] ** 2 - errors.min() ** 2) / away[near] ** 2), 1e-12))
    return float(min(0.25 * errors.min() / slope, 90.0))
