"""Which views are drawn: One-2-3-45's two-stage selection (section 3.3)."""

from __future__ import annotations

import numpy as np

from backend.elevation.solve import NEAR_MOVES
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet

NO_VIEWS = ViewSet(np.zeros((0, 64, 64, 4), np.uint8), ())

MAX_VIEWS = 39
"""All anchors but the input itself, and the near views of all of them."""


def view_cameras(camera: Camera, count: int) -> tuple[Camera, ...]:
    """The first `count` cameras of the selection around the input camera.

    Three anchors at the input's elevation, the far side first; four between them, 30 degrees lower, or higher where
    that would be far below the horizon; then four near views around the input and around each anchor.
    """
    ring = -30.0 if camera.elevation_deg >= 15 else 30.0
    anchors = [camera.moved(azimuth_deg=a) for a in (180.0, 90.0, 270.0)]
    anchors += [camera.moved(elevation_deg=ring, azimuth_deg=a) for a in (30.0, 120.0, 210.0, 300.0)]
    near = [view for anchor in (camera, *anchors) for view in near_cameras(anchor)]
    return tuple([*anchors, *near][:count])


def near_cameras(camera: Camera) -> tuple[Camera, ...]:
    """Four views 10 degrees away, in the order that the elevation search takes them."""
    return tuple(camera.moved(elevation_deg=e, azimuth_deg=a) for e, a in NEAR_MOVES)
