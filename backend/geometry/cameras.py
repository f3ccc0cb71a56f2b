"""Orbit cameras and their matrices, in the project's one convention.

Object frame: right-handed, Z up, the object within radius 0.5 of the origin, its front facing -Y. A camera at azimuth
0 stands on -Y and looks to +Y; positive azimuth moves it towards +X; positive elevation raises it. Camera frames are
OpenCV's (x right, y down, z forward). Matrices are named by what they map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """An orbit camera that looks at the origin without roll.

    Attributes:
        elevation_deg: degrees above the horizon, -90..90.
        azimuth_deg: degrees; 0 is the front (camera on -Y), positive towards +X.
        distance: from the origin, in object units.
        fov_deg: vertical field of view of the square picture, degrees.
    """

    elevation_deg: float
    azimuth_deg: float
    distance: float
    fov_deg: float

    def moved(self, *, elevation_deg: float = 0.0, azimuth_deg: float = 0.0) -> Camera:
        """The camera after a relative turn about the origin, in degrees."""
        return Camera(self.elevation_deg + elevation_deg, self.azimuth_deg + azimuth_deg, self.distance, self.fov_deg)

    @property
    def position(self) -> Array:
        """Centre of projection in the object frame, [3]."""
        e, a = np.radians(self.elevation_deg), np.radians(self.azimuth_deg)
        return self.distance * np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])

    def world_from_camera(self) -> Array:
        """Rigid transform [4, 4] from the OpenCV camera frame to the object frame.

        The right axis depends on the azimuth alone, so that the camera is defined at the poles as well.
        """
        e, a = np.radians(self.elevation_deg), np.radians(self.azimuth_deg)
        right = np.array([np.cos(a), np.sin(a), 0.0])
        forward = np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), -np.sin(e)])
        matrix = np.eye(4)
        matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = right, np.cross(forward, right), forward
        matrix[:3, 3] = self.position
        return matrix

    def camera_from_world(self) -> Array:
        """Inverse of `world_from_camera`, [4, 4]."""
        inverse = np.eye(4)
        matrix = self.world_from_camera()
        inverse[:3, :3] = matrix[:3, :3].T
        inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
        return inverse

    def focal(self, size: int) -> float:
        """Focal length in pixels of a square picture of `size` pixels."""
        return float(0.5 * size / np.tan(np.radians(self.fov_deg) / 2))

    def intrinsics(self, size: int) -> Array:
        """K [3, 3] for a square picture; pixel centres lie at +0.5, so the principal point is size / 2."""
        f = self.focal(size)
        return np.array([[f, 0.0, size / 2], [0.0, f, size / 2], [0.0, 0.0, 1.0]])

    def image_from_world(self, size: int) -> Array:
        """Projection [3, 4]: homogeneous pixel coordinates (u right, v down) from the object frame."""
        return self.intrinsics(size) @ self.camera_from_world()[:3]


def project(camera: Camera, points: Array, size: int) -> tuple[Array, Array]:
    """Projects points [N, 3] of the object frame: pixels [N, 2] (u, v) and depth along the view axis [N]."""
    uvw = points @ camera.image_from_world(size)[:, :3].T + camera.image_from_world(size)[:, 3]
    return uvw[:, :2] / uvw[:, 2:], uvw[:, 2]


def rays(camera: Camera, size: int) -> tuple[Array, Array]:
    """Origins [3] and unit directions [size, size, 3] through the pixel centres, in the object frame."""
    ys, xs = np.mgrid[0:size, 0:size] + 0.5
    f = camera.focal(size)
    directions = np.stack([(xs - size / 2) / f, (ys - size / 2) / f, np.ones_like(xs)], axis=-1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return camera.position, directions @ camera.world_from_camera()[:3, :3].T
