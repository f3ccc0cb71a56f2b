"""The network's frame: that of the first view's camera, and nothing else is level in it.

Its axes are that camera's right, up and back (OpenGL's), its origin is ours, and its unit is such that the camera
stands at (0, 0, radius). A picture from above therefore leans the object's vertical by its elevation, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.geometry.cameras import Array, Camera
from backend.geometry.gaussians.gaussians import Gaussians

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Frame:
    """How the network's frame lies in the object frame; both have the same origin.

    Attributes:
        rotation: from object axes to the network's, [3, 3].
        scale: the network's units per object unit.
    """

    rotation: Array
    scale: float

    def world_from_camera(self, camera: Camera) -> Array:
        """Rigid transform [4, 4] from an OpenCV camera, in the network's units, to the network's frame."""
        matrix = camera.world_from_camera()
        matrix[:3] = self.rotation @ matrix[:3]
        matrix[:3, 3] *= self.scale
        return matrix

    def cameras(self, cameras: Sequence[Camera]) -> tuple[Tensor, Tensor]:
        """Poses [V, 4, 4] in the network's frame and intrinsics [V, 3, 3] in shares of the picture's side."""
        poses = np.stack([self.world_from_camera(camera) for camera in cameras])
        intrinsics = np.stack([camera.intrinsics(1) for camera in cameras])
        return torch.from_numpy(poses).float(), torch.from_numpy(intrinsics).float()

    def to_object(self, gaussians: Gaussians) -> Gaussians:
        """Gaussians of the network's frame in the object frame."""
        return gaussians.transformed(torch.from_numpy(self.rotation.T.copy()), 1 / self.scale)

    def to_network(self, gaussians: Gaussians) -> Gaussians:
        """Gaussians of the object frame in the network's."""
        return gaussians.transformed(torch.from_numpy(self.rotation.copy()), self.scale)


def first_camera_frame(camera: Camera, radius: float) -> Frame:
    """The frame in which a camera, the first view's, stands at (0, 0, radius) and looks down -z."""
    return Frame(OPENGL_FROM_OPENCV @ camera.camera_from_world()[:3, :3], radius / camera.distance)
