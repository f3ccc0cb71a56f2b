"""Our cameras in the world that a network has learnt, which for published ones is that of the SRN data set.

The world of SRN's cars and chairs (Sitzmann et al. 2019) and what is known of it:

- Poses are world-from-camera, camera axes OpenCV's: its README, its renderer, and all that read it. As ours.
- The focal length is 525/512 of the picture's side: its renderer. 131.25 at 128 pixels.
- Cameras stand 1.3 from the middle of cars and 2 from that of chairs: the middles of the depths between which pixelNeRF
  looks at them. The data itself has not been measured.
- Z is up: so pixelNeRF turns about the data. SRN's published renderer has Y up and made other files.
- Which way objects face is not known to us; hence `World.azimuth_deg`.
- The public training reads intrinsics of pictures of 128 pixels and does not scale them where it makes the pictures
  smaller, so that the rays of a network for 64 pixels are those of the upper left quarter. That the files say 128 is
  concluded from its code, which leaves pictures of 128 as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.geometry import batched

from .config import XUNetConfig

FOV_DEG = math.degrees(2 * math.atan(0.5 * 512 / 525))
"""Of SRN's pictures: 52 degrees."""


@dataclass(frozen=True)
class World:
    """Where the pool's first camera stands in the network's world.

    Attributes:
        azimuth_deg: 0 is on -Y, positive towards +X, as in the object frame.
        distance: from the middle of the object; 0 takes the network's `camera_distance`.
    """

    azimuth_deg: float = 0.0
    distance: float = 0.0


def cameras_in_world(cameras: Tensor, config: XUNetConfig, world: World) -> Tensor:
    """Orbit cameras [V, 4], the pool's first one first, in the network's world: turned and scaled together."""
    distance = world.distance or config.camera_distance or cameras[0, 2]
    moved = cameras.clone()
    moved[:, 1] += world.azimuth_deg
    moved[:, 2] *= distance / cameras[0, 2]
    return moved


def told_intrinsics(cameras: Tensor, config: XUNetConfig) -> Tensor:
    """The intrinsics [..., 3, 3] that the network is told for pictures of `config.size` pixels."""
    return batched.intrinsics(cameras, config.intrinsics_size or config.size).to(torch.float32)
