"""Blender's cameras and the project's convention: the only place of this conversion.

A Blender camera looks down its -Z with Y up; the protocol's cameras are orbit cameras whose frame is OpenCV's (x
right, y down, z forward). Matrices are named by what they map; pixels are the picture's, top row first, centres at
+0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import TurnaroundError
from ..protocol.messages import Direction, ViewCamera

Array = NDArray[np.float64]

BLENDER_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


def orbit_rotation(camera: ViewCamera) -> Array:
    """world_from_camera [3, 3] of an orbit camera in the object frame: columns right, down, forward."""
    e, a = np.radians(camera.elevation_deg), np.radians(camera.azimuth_deg)
    right = np.array([np.cos(a), np.sin(a), 0.0])
    forward = np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), -np.sin(e)])
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def direction_of(towards: Array) -> Direction:
    """From where one looks at the object frame's origin who stands in a direction [3] of it, of any length."""
    x, y, z = towards / np.linalg.norm(towards)
    return Direction(
        azimuth_deg=float(np.degrees(np.arctan2(x, -y))), elevation_deg=float(np.degrees(np.arcsin(np.clip(z, -1, 1))))
    )


def viewport_direction(view: bpy.types.RegionView3D, frame_from_world: Array | None = None) -> Direction:
    """From where a 3D View looks at an object, or would if it were in the middle of it.

    Args:
        view: of the 3D View.
        frame_from_world: affine [4, 4] to the object frame; None if there is no object yet.
    """
    world_from_camera = np.array(view.view_matrix.inverted())
    if frame_from_world is None:
        return direction_of(world_from_camera[:3, 2])
    if view.is_perspective:
        return direction_of((frame_from_world @ world_from_camera[:, 3])[:3])
    return direction_of(frame_from_world[:3, :3] @ world_from_camera[:3, 2])  # a Blender camera looks down its -Z


@dataclass(frozen=True)
class PictureView:
    """A picture laid as a full-frame background over a scene camera's view.

    The picture's pixel (x, y) is the point `corner + step * (x, y)` on the camera's plane one unit ahead, in OpenCV's
    directions; for an orthographic camera the same point is where its parallel ray starts.

    Attributes:
        world_from_camera: [4, 4], rigid, OpenCV's camera frame.
        corner: [2], of the picture's top left corner.
        step: [2], per pixel, both positive.
        size: width and height of the picture in pixels.
        orthographic: whether the rays are parallel.
    """

    world_from_camera: Array
    corner: Array
    step: Array
    size: tuple[int, int]
    orthographic: bool

    @property
    def fov_deg(self) -> float:
        """Vertical angle that the picture spans, degrees; 0 for an orthographic camera."""
        half = 0.5 * self.size[1] * self.step[1]
        return 0.0 if self.orthographic else float(2.0 * np.degrees(np.arctan(half)))

    @property
    def elevation_deg(self) -> float:
        """How far above the horizon the camera stands, as seen through the picture's centre."""
        _, direction = self.ray(0.5 * self.size[0], 0.5 * self.size[1])
        return float(np.degrees(np.arcsin(np.clip(-direction[2], -1.0, 1.0))))

    def ray(self, x: float, y: float) -> tuple[Array, Array]:
        """Origin [3] and unit direction [3] in the world of the ray through a pixel."""
        u, v = self.corner + self.step * (x, y)
        start, ahead = ((u, v, 0.0), (0.0, 0.0, 1.0)) if self.orthographic else ((0.0, 0.0, 0.0), (u, v, 1.0))
        rotation, position = self.world_from_camera[:3, :3], self.world_from_camera[:3, 3]
        direction = rotation @ np.array(ahead)
        return position + rotation @ np.array(start), direction / np.linalg.norm(direction)

    def looking_along(self, x: float, y: float) -> Array:
        """Rotation [3, 3] (right, down, forward in the world) of a camera turned to look along a pixel's ray.

        Its right is the picture's right there, so that what it sees stands in the picture without roll.
        """
        _, forward = self.ray(x, y)
        right = self.world_from_camera[:3, 0]
        right = right - forward * (right @ forward)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward], axis=1)

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixels [N, 2] and depths along the view axis [N] of world points [N, 3]."""
        local = (points - self.world_from_camera[:3, 3]) @ self.world_from_camera[:3, :3]
        depth = local[:, 2]
        plane = (
            local[:, :2] if self.orthographic else local[:, :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)[:, None]
        )
        return (plane - self.corner) / self.step, depth


def picture_view(scene: bpy.types.Scene, size: tuple[int, int]) -> PictureView:
    """How the scene's camera sees a picture of this size behind it, fitted as its background image would be.

    Field of view, shift, sensor fit, resolution and pixel aspect are the camera's and the scene's own.

    Raises:
        TurnaroundError: `camera.none`, `camera.panoramic`.
    """
    camera = scene.camera
    if camera is None or camera.type != "CAMERA":
        raise TurnaroundError(
            "camera.none", "The scene has no camera.", "Add one with Add > Camera, and aim it.", field="camera"
        )
    if camera.data.type not in {"PERSP", "ORTHO"}:
        raise TurnaroundError(
            "camera.panoramic",
            "The scene's camera is panoramic.",
            "Set its type to Perspective or Orthographic.",
            field="camera",
        )
    orthographic = camera.data.type == "ORTHO"
    frame = np.array([corner[:] for corner in camera.data.view_frame(scene=scene)])  # Blender's camera frame, [4, 3]
    if not orthographic:
        frame = frame / -frame[:, 2:]
    frame = frame @ BLENDER_FROM_OPENCV
    low, high = frame[:, :2].min(axis=0), frame[:, :2].max(axis=0)

    pixels = np.array(size, dtype=np.float64)
    per_pixel = float(np.min((high - low) / pixels))  # FIT: the whole picture inside the frame, square pixels
    corner = 0.5 * (low + high) - 0.5 * per_pixel * pixels

    location, rotation, _ = camera.matrix_world.decompose()
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = np.array(rotation.to_matrix()) @ BLENDER_FROM_OPENCV
    world_from_camera[:3, 3] = location
    return PictureView(world_from_camera, corner, np.full(2, per_pixel), size, orthographic)
