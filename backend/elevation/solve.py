"""The elevation of the picture's camera, from matches between views whose relative moves are known.

One-2-3-45's search (Liu et al. 2023, Section 3.2): a relative move about the object only fits the pictures if it
starts from the right elevation, since "10 degrees to the left" near the pole is another motion than at the horizon.
So for each candidate elevation, points are triangulated from one pair of views and projected into the other views;
the candidate at which they land on their matches wins. Here all candidates are solved at once.

Different from the reference on purpose: every pair is triangulated and not three of six, the result is refined below
a degree, mismatches are bounded, and the spread is reported; without usable matches the result says that it is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backend.elevation.matching import Matches
from backend.elevation.triangulation import orbit_projections, transfer_errors
from backend.geometry.cameras import Camera

Array = NDArray[np.float64]
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

HALF_ERROR_PX = 4.0
"""An error at the best elevation that halves the confidence: textures without corners let matches slide."""

LOW_CONFIDENCE = 0.35
"""An estimate with less confidence is a guess, and said to be one: about 13 degrees of spread, or very few points."""

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


def doubt(estimate: Estimate) -> str | None:
    """What to tell the artist about an elevation that is not to be relied on; None where it is."""
    advice = "Set it yourself if the shape leans."
    if estimate.source == "assumed":
        return f"The elevation could not be found: {estimate.elevation_deg:.0f} degrees are assumed. {advice}"
    if estimate.confidence < LOW_CONFIDENCE:
        found, spread = estimate.elevation_deg, estimate.spread_deg
        return f"The elevation is a guess: {found:.0f} degrees, give or take {max(spread, 1):.0f}. {advice}"
    return None


@dataclass(frozen=True)
class Transfers:
    """Points of pairs of views that were also found in a third, which is where a hypothesis is judged.

    Attributes:
        pairs: ((first, second) view, rows [N, 4] of u, v in the one and u, v in the other): what is triangulated.
        point: [T], the point of each sighting, counted through all pairs.
        view: [T], the third view that it was seen in.
        seen: [T, 2], u and v there.
        weight: [T]; all that a pair has in one third view, from one of its sides, count alike: together they sum to 1
            over the number of such transfers.
        density: sightings per transfer, on average over all that there could have been.
    """

    pairs: tuple[tuple[tuple[int, int], Array], ...]
    point: NDArray[np.int64]
    view: NDArray[np.int64]
    seen: Array
    weight: Array
    density: float


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
    transfers = find_transfers(matches, pairs, len(moves), size)
    count = transfers.density
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
    misfit = errors.min() / (HALF_ERROR_PX * size / 256)
    confidence = count / (count + 20.0) / (1.0 + (spread / 10.0) ** 2) / (1.0 + misfit**2) * (0.3 if at_end else 1.0)
    return Estimate(elevation, spread, float(confidence), "estimated", candidates, errors)


def _assumed() -> Estimate:
    return Estimate(ASSUMED_DEG, ASSUMED_SPREAD_DEG, 0.0, "assumed", np.empty(0), np.empty(0))


def find_transfers(matches: Matches, pairs: Sequence[tuple[int, int]], views: int, size: int) -> Transfers:
    """Points of each ordered pair followed from its first view into every other, nearest keypoint to keypoint.

    Args:
        matches: between views.
        pairs: those to triangulate. A pair's points are the same from both its sides, if it was matched once.
        views: how many there are.
        size: side of the views in pixels.
    """
    directed = {pair: np.asarray(rows, np.float64).reshape(-1, 5) for pair, rows in matches.items()}
    directed |= {(j, i): rows[:, [2, 3, 0, 1, 4]] for (i, j), rows in directed.items() if (j, i) not in directed}
    directed = {pair: rows for pair, rows in directed.items() if len(rows)}
    trees = {pair: cKDTree(rows[:, :2], balanced_tree=False, compact_nodes=False) for pair, rows in directed.items()}
    radius = SAME_POINT_PX * size / 256
    starts: dict[tuple[int, int], int] = {}
    chosen: list[tuple[tuple[int, int], Array]] = []
    found: list[tuple[NDArray, ...]] = []
    for i, j in pairs:
        if (i, j) not in directed:
            continue
        own = (i, j) if (i, j) in matches else (j, i)
        if own not in starts:
            starts[own] = sum(len(rows) for _, rows in chosen)
            chosen.append((own, directed[own][:, :4]))
        for third in range(views):
            rows = directed.get((i, third))
            if third in (i, j) or rows is None:
                continue
            nearest = trees[i, third].query(directed[i, j][:, :2], distance_upper_bound=radius)[1]
            points = np.flatnonzero(nearest < len(rows))
            if len(points):
                there = rows[nearest[points]]
                weight = there[:, 4] / there[:, 4].sum()
                found.append((points + starts[own], np.full(len(points), third), there[:, 2:4], weight))
    if not found:
        return Transfers((), np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 2)), np.empty(0), 0.0)
    point, view, seen, weight = (np.concatenate(parts) for parts in zip(*found, strict=True))
    density = len(point) / (len(pairs) * (views - 2))
    return Transfers(tuple(chosen), point, view, seen, weight / len(found), density)


def reprojection_errors(
    transfers: Transfers,
    candidates: Array,
    moves: Sequence[tuple[float, float]],
    *,
    camera: Camera,
    size: int,
    limit: float = np.inf,
) -> Array:
    """Mean over the transfers of the confidence-weighted reprojection error [C], in pixels, at each candidate [C]."""
    focal = camera.focal(size)
    counts = [len(rows) for _, rows in transfers.pairs]
    stops = np.cumsum(counts)
    pairs = np.array(
        [(i, j, stop - n, stop) for ((i, j), _), n, stop in zip(transfers.pairs, counts, stops, strict=True)]
    )
    pixels = np.concatenate([rows for _, rows in transfers.pairs])
    errors = transfer_errors(
        orbit_projections(candidates, moves, camera.distance),
        pairs,
        np.ascontiguousarray((pixels - size / 2).T / focal),
        transfers.point,
        transfers.view,
        np.ascontiguousarray((transfers.seen - size / 2).T / focal),
        transfers.weight,
        limit / focal,
    )
    return focal * errors


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
