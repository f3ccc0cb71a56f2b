"""The orbit that the views are drawn from, in the object frame and in the network's.

The network's frame is that of the picture's own camera, as LGM's is (`reconstructors.lgm.frame`): the orbit of a
picture from above stays about the true vertical, which leans there. Without elevation it is the published orbit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from backend.geometry.cameras import Camera
from backend.preparation.framing import framed_camera
from backend.reconstructors.lgm.frame import Frame, first_camera_frame

from .config import MultiviewConfig
from .network import Cameras


def orbit(config: MultiviewConfig, camera: Camera) -> tuple[Camera, ...]:
    """The views' cameras in the object frame: the picture's own, which is the first, turned about the vertical.

    They see as much of the object as `camera` does, through the lens that the network was trained with.
    """
    half_width = camera.distance * math.tan(math.radians(camera.fov_deg) / 2)
    distance = half_width / math.tan(math.radians(config.fov_deg) / 2)
    own = Camera(camera.elevation_deg, camera.azimuth_deg, distance, config.fov_deg)
    return tuple(own.moved(azimuth_deg=azimuth) for azimuth in config.azimuths_deg)


def network_frame(config: MultiviewConfig, camera: Camera) -> Frame:
    """The network's frame for a picture from `camera`."""
    return first_camera_frame(orbit(config, camera)[0], config.radius)


def network_cameras(config: MultiviewConfig, elevations_deg: Sequence[float]) -> Cameras:
    """The orbits of pictures from these elevations, [B, F, ...] on the CPU, as the network takes them."""
    orbits = []
    for camera in map(framed_camera, elevations_deg):
        orbits.append(network_frame(config, camera).cameras(orbit(config, camera)))
    poses, intrinsics = (torch.stack(matrices) for matrices in zip(*orbits, strict=True))
    return Cameras(poses, intrinsics)
