"""Which views are drawn: One-2-3-45's two-stage selection (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from backend.elevation.solve import NEAR_MOVES
from backend.geometry.cameras import Camera

Moves = Sequence[tuple[float, float]]
"""(elevation, azimuth) from one camera to others, degrees."""

ANCHOR_MOVES = ((0.0, 0.0), (0.0, 90.0), (0.0, 180.0), (0.0, 270.0))
"""The first stage's views at the input's elevation, as (elevation, azimuth) moves; the first draws the input again."""

MAX_VIEWS = 39
"""All anchors but the input itself, and the near views of all of them."""


def ring_moves(camera: Camera) -> tuple[tuple[float, float], ...]:
    """Four views between the anchors, 30 degrees lower, or higher where that would be far below the horizon."""
    rise = -30.0 if camera.elevation_deg >= 15 else 30.0
    return tuple((rise, azimuth) for azimuth in (30.0, 120.0, 210.0, 300.0))


def view_cameras(camera: Camera, count: int) -> tuple[Camera, ...]:
    """The first `count` cameras of the selection around the input camera.

    Three anchors at the input's elevation, the far side first; the ring between them; then four near views around the
    input and around each anchor.
    """
    anchors = (*moved([camera], ((0.0, 180.0), (0.0, 90.0), (0.0, 270.0))), *moved([camera], ring_moves(camera)))
    return (*anchors, *moved([camera, *anchors], NEAR_MOVES))[:count]


def published_cameras(camera: Camera) -> dict[str, Camera]:
    """The 40 cameras of One-2-3-45 about the input's, by the names of their pictures (section 3.3).

    First the eight of the first stage: "0" to "3" around the object at the input's elevation, then four between them,
    30 degrees lower ("4" to "7"), or higher ("8" to "11") where the input stands below 15 degrees. Then the four near
    views of each, "0_0" to "11_3".
    """
    ring = ring_moves(camera)
    lower = ring[0][0] < 0
    names = [str(k) for k in (*range(4), *(range(4, 8) if lower else range(8, 12)))]
    first = moved([camera], (*ANCHOR_MOVES, *ring))
    near = [f"{name}_{k}" for name in names for k in range(len(NEAR_MOVES))]
    return dict(zip([*names, *near], [*first, *moved(first, NEAR_MOVES)], strict=True))


def moved(cameras: Sequence[Camera], moves: Moves) -> tuple[Camera, ...]:
    """Every move from every camera, all moves of the first camera first."""
    return tuple(camera.moved(elevation_deg=e, azimuth_deg=a) for camera in cameras for e, a in moves)
