"""How long the search for the elevation takes when the views have been matched."""

from __future__ import annotations

import time
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from backend.elevation.solve import NEAR_MOVES, solve_elevation
from backend.geometry.cameras import Camera, project

POINTS, NOISE_PX = 140, 0.5
SIZE = 256
PUBLISHED_PAIRS = ((0, 1), (1, 2), (2, 3))
ROUNDS = 50

TARGETS = {"elevation_milliseconds": ("<=", 5.0)}


def measure() -> dict[str, float]:
    """Solves for synthetic matches, as many as One-2-3-45's matcher gives for its four near views.

    Returns:
        Milliseconds, the median of many: with every pair of views triangulated, and with the three that One-2-3-45
        triangulates; and the first time in a process, when the compiled loops are loaded.
    """
    camera = Camera(0.0, 0.0, 1.2, float(2 * np.degrees(np.arctan(128 / 280))))
    matches = _matches(camera.moved(elevation_deg=22.0))

    def solve(pairs: tuple[tuple[int, int], ...] | None) -> float:
        start = time.perf_counter()
        solve_elevation(matches, NEAR_MOVES, camera=camera, size=SIZE, triangulate=pairs)
        return (time.perf_counter() - start) * 1000

    first = solve(None)
    return {
        "elevation_milliseconds": median(solve(None) for _ in range(ROUNDS)),
        "elevation_published_pairs_milliseconds": median(solve(PUBLISHED_PAIRS) for _ in range(ROUNDS)),
        "elevation_first_milliseconds": first,
    }


def _matches(camera: Camera) -> dict[tuple[int, int], NDArray[np.float64]]:
    """A cloud of points as the near views of a camera see it; each pair has three quarters of them."""
    generator = np.random.default_rng(0)
    points = generator.uniform(-0.35, 0.35, (POINTS * 4 // 3, 3))
    views = [project(camera.moved(elevation_deg=e, azimuth_deg=a), points, SIZE)[0] for e, a in NEAR_MOVES]
    views = [view + generator.normal(0, NOISE_PX, view.shape) for view in views]
    matches = {}
    for i, j in combinations(range(len(views)), 2):
        some = generator.permutation(len(points))[:POINTS]
        matches[i, j] = np.hstack([views[i][some], views[j][some], np.ones((POINTS, 1))])
    return matches
