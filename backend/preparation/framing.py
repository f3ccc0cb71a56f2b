"""Framing: the subject cut out of its picture, centred in a square, at the size that the networks expect.

Every picture is framed alike: the longer side of the subject's bounding box fills `FILL` of the square. The camera of
the framed square looks at the object frame's origin from the distance at which the square is `2 * HALF_WIDTH` wide
there, whatever the field of view, so that every subject has about the same size in object units.
"""

from __future__ import annotations

import numpy as np

from backend.geometry.cameras import Camera

FILL = 0.75
"""Share of the square that the longer side of the subject's bounding box fills (One-2-3-45's preprocessing)."""

HALF_WIDTH = 0.58
"""Half the square's width at the origin, in object units: FILL * HALF_WIDTH = 0.435 is the subject's half size."""

DEFAULT_FOV_DEG = 40.0


def framed_camera(elevation_deg: float, azimuth_deg: float = 0.0, fov_deg: float = DEFAULT_FOV_DEG) -> Camera:
    """The camera of a framed square: it sees `HALF_WIDTH` to each side of the origin."""
    return Camera(elevation_deg, azimuth_deg, float(HALF_WIDTH / np.tan(np.radians(fov_deg) / 2)), fov_deg)
