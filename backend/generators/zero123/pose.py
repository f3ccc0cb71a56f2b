"""How far a camera turns, in the four numbers that Zero123 takes.

Zero123 measures the polar angle from straight above, so that its polar angle is 90 degrees minus our elevation and a
camera that rises has a negative difference. Its azimuth runs counter-clockwise seen from above, as ours does.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.preparation.framing import FILL, HALF_WIDTH

PoseStyle = Literal["relative", "absolute_polar"]
"""What the fourth number is: the difference of the radii (Zero123, Zero123-XL), or the polar angle of the picture's
own camera (Stable Zero123)."""

POSE_SIZE = 4

FOV_DEG = math.degrees(2 * math.atan(32 / 2 / 35))
"""Field of view of Zero123's training pictures: 35 mm on a 32 mm sensor."""


def radius(camera: Camera) -> float:
    """The distance at which Zero123's training camera sees the object as large as `camera` does.

    In Zero123's units, in which the object's longest side is 1; its training pictures are taken from 1.5 to 2.2. A
    framed picture's is about 1.46, whatever its field of view.
    """
    half_width = camera.distance * math.tan(math.radians(camera.fov_deg) / 2)
    return half_width / math.tan(math.radians(FOV_DEG) / 2) / (2 * FILL * HALF_WIDTH)


def pose_vector(camera: Camera, target: Camera, style: PoseStyle = "relative") -> NDArray[np.float32]:
    """Where `target` stands as seen from `camera`, which took the picture; float32 [4].

    [difference of polar angles, sine and cosine of the difference of azimuths, and what `style` says]; radians, each
    difference is target minus picture. No turn at all is [0, 0, 1, 0].
    """
    turn = math.radians(target.azimuth_deg - camera.azimuth_deg)
    last = radius(target) - radius(camera) if style == "relative" else math.radians(90 - camera.elevation_deg)
    polar = math.radians(camera.elevation_deg - target.elevation_deg)
    return np.array([polar, math.sin(turn), math.cos(turn), last], np.float32)
