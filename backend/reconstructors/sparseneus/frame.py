"""Where the network's unit cube lies among the cameras, and how points and cameras get into it.

Our own weights look at a cube about the object frame's origin. The published ones look at a cube that stands in the
first camera: its axes are that camera's (x right, y down, z forward), and it is the bounding cube of everything that
any camera sees between its near and far planes, a tenth larger. Distances from the origin are taken as the published
1.2, whatever they are in the caller's units. Where the published world has the input at azimuth 30, ours has it where
its `Camera` says: only what the cameras are to each other matters to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet

Array = NDArray[np.float64]
F32 = NDArray[np.float32]

NEAR, FAR = 0.5 / 1.2, 1.8 / 1.2
"""Depths between which the published frame looks, in distances of the camera from the origin."""

MARGIN = 1.1
"""The published cube is this much larger than the box about the frusta."""

WHITE = 245
"""A pixel of a picture without transparency is background where all its channels are above this."""

HULL_POINTS = 48
"""Points along each side of the lattice in which the object is looked for."""

HULL_VOTES = 0.9
"""Of the views that look at a point, how many must see the object there: drawn views do not agree wholly."""


@dataclass(frozen=True)
class Frame:
    """A unit cube in the object frame.

    Attributes:
        object_from_unit: similarity [4, 4]: one scale, a rotation, a shift.
        centered_pixels: whether pixel centres lie at +0.5 for the network, as they do for us, or at integers while the
            principal point stays at half the size, as in the published code.
    """

    object_from_unit: Array
    centered_pixels: bool = True

    @property
    def scale(self) -> float:
        """Object units per unit."""
        return float(np.linalg.norm(self.object_from_unit[:3, 0]))

    @property
    def rotation(self) -> Array:
        """Of unit axes in the object frame, [3, 3]."""
        return self.object_from_unit[:3, :3] / self.scale

    def to_unit(self, points: NDArray[np.floating]) -> F32:
        """Points [N, 3] of the object frame in unit coordinates."""
        return ((points - self.object_from_unit[:3, 3]) @ self.rotation / self.scale).astype(np.float32)

    def to_object(self, points: NDArray[np.floating]) -> F32:
        """Points [N, 3] in unit coordinates in the object frame."""
        return (points @ self.object_from_unit[:3, :3].T + self.object_from_unit[:3, 3]).astype(np.float32)

    def directions_to_unit(self, directions: NDArray[np.floating]) -> F32:
        """Directions [N, 3] of the object frame along the unit axes."""
        return (directions @ self.rotation).astype(np.float32)

    def camera_from_unit(self, camera: Camera) -> Array:
        """Rigid transform [4, 4] from unit coordinates to an OpenCV camera that measures in the same units."""
        matrix = camera.camera_from_world() @ self.object_from_unit
        matrix[:3] /= self.scale
        return matrix

    def image_from_unit(self, camera: Camera, size: int) -> Array:
        """Projection [3, 4] to pixels as the network counts them; the depth comes out in object units."""
        intrinsics = camera.intrinsics(size)
        if self.centered_pixels:
            intrinsics[:2, 2] -= 0.5  # the network's pixel centres lie at integers
        return intrinsics @ (camera.camera_from_world() @ self.object_from_unit)[:3]

    def center(self, camera: Camera) -> Array:
        """Centre of projection [3] in unit coordinates."""
        return (camera.position - self.object_from_unit[:3, 3]) @ self.rotation / self.scale

    def near_far(self, camera: Camera) -> tuple[float, float]:
        """Depths, in units, between which the published renderer samples a ray: the unit ball and a twentieth more."""
        distance = float(np.linalg.norm(self.center(camera)))
        return 0.95 * (distance - 1), 1.05 * (distance + 1)


def cube_frame(half: float) -> Frame:
    """The cube [-half, half]^3 of the object frame."""
    return Frame(np.diag([half, half, half, 1.0]))


def frusta_frame(cameras: Sequence[Camera]) -> Frame:
    """The published cube: about all that the cameras see, along the axes of the first."""
    reference = cameras[0]
    corners = np.concatenate([_frustum(camera) for camera in cameras])
    local = _apply(reference.camera_from_world(), corners)
    low, high = local.min(axis=0), local.max(axis=0)
    return _reference_cube(reference, (low + high) / 2, MARGIN * (high - low).max() / 2)


def fitted_frame(views: ViewSet) -> Frame:
    """A cube about the object alone, along the axes of the first camera.

    The object is where at least `HULL_VOTES` of the views that look at a point see it; if that is nowhere, the cube is
    the one about everything.
    """
    whole = frusta_frame(views.cameras)
    reach = max(camera.distance * np.tan(np.radians(camera.fov_deg) / 2) for camera in views.cameras)
    axis = np.linspace(-reach, reach, HULL_POINTS)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    looked_at, seen = np.zeros(len(points), int), np.zeros(len(points), int)
    for camera, image in zip(views.cameras, views.images, strict=True):
        foreground = (image[..., 3] > 127) & (image[..., :3] <= WHITE).any(-1)
        uvw = points @ camera.image_from_world(len(image))[:, :3].T + camera.image_from_world(len(image))[:, 3]
        pixels = np.floor(uvw[:, :2] / np.maximum(uvw[:, 2:], 1e-6)).astype(int)
        inside = (uvw[:, 2] > 0) & ((pixels >= 0) & (pixels < len(image))).all(-1)
        looked_at += inside
        seen[inside] += foreground[pixels[inside, 1], pixels[inside, 0]]
    hull = points[(looked_at > 0) & (seen >= HULL_VOTES * looked_at)]
    if not len(hull):
        return whole
    local = _apply(views.cameras[0].camera_from_world(), hull)
    low, high = local.min(axis=0), local.max(axis=0)
    half = MARGIN * ((high - low).max() / 2 + 2 * reach / HULL_POINTS)
    return _reference_cube(views.cameras[0], (low + high) / 2, min(half, whole.scale))


def _frustum(camera: Camera) -> Array:
    """The eight corners [8, 3] of what a camera sees between the near and far planes, in the object frame."""
    slope = np.tan(np.radians(camera.fov_deg) / 2)
    corners = [
        depth * np.array([x * slope, y * slope, 1.0])
        for depth in (NEAR * camera.distance, FAR * camera.distance)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return _apply(camera.world_from_camera(), np.stack(corners))


def _reference_cube(reference: Camera, center: Array, half: float) -> Frame:
    camera_from_unit = np.diag([half, half, half, 1.0])
    camera_from_unit[:3, 3] = center
    return Frame(reference.world_from_camera() @ camera_from_unit, centered_pixels=False)


def _apply(matrix: Array, points: Array) -> Array:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
