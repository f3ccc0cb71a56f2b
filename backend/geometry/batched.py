"""Orbit cameras as tensors: matrices for whole batches, in the conventions of `cameras`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backend.geometry.cameras import Camera


def camera_tensor(cameras: Sequence[Camera]) -> Tensor:
    """[V, 4] float32: elevation, azimuth (degrees), distance, vertical field of view (degrees)."""
    rows = [[c.elevation_deg, c.azimuth_deg, c.distance, c.fov_deg] for c in cameras]
    return torch.tensor(rows, dtype=torch.float32)


def world_from_camera(cameras: Tensor) -> Tensor:
    """Rigid transforms [..., 4, 4] from OpenCV camera frames, of cameras [..., 4]."""
    e, a = torch.deg2rad(cameras[..., 0]), torch.deg2rad(cameras[..., 1])
    zero, one = torch.zeros_like(e), torch.ones_like(e)
    right = torch.stack([a.cos(), a.sin(), zero], -1)
    forward = torch.stack([-a.sin() * e.cos(), a.cos() * e.cos(), -e.sin()], -1)
    down = torch.cross(forward, right, dim=-1)
    top = torch.stack([right, down, forward, -forward * cameras[..., 2:3]], dim=-1)
    bottom = torch.stack([zero, zero, zero, one], -1)[..., None, :]
    return torch.cat([top, bottom], dim=-2)


def intrinsics(cameras: Tensor, size: int) -> Tensor:
    """K [..., 3, 3] of square pictures, pixel centres at +0.5."""
    focal = 0.5 * size / torch.tan(torch.deg2rad(cameras[..., 3]) / 2)
    k = torch.zeros(*cameras.shape[:-1], 3, 3, device=cameras.device)
    k[..., 0, 0] = k[..., 1, 1] = focal
    k[..., 0, 2] = k[..., 1, 2] = size / 2
    k[..., 2, 2] = 1
    return k


def image_from_world(cameras: Tensor, size: int) -> Tensor:
    """Projections [..., 3, 4] to pixels whose centres lie at +0.5."""
    pose = world_from_camera(cameras)
    rotation = pose[..., :3, :3].transpose(-1, -2)
    translation = -(rotation @ pose[..., :3, 3:])
    return intrinsics(cameras, size) @ torch.cat([rotation, translation], dim=-1)


def centers(cameras: Tensor) -> Tensor:
    """Centres of projection [..., 3]."""
    return world_from_camera(cameras)[..., :3, 3]


def canonicalised(world_from_camera: Tensor) -> Tensor:
    """Cameras in the frame of the first of them, which then stands on +Z and looks back at the origin, its up +Y.

    Args:
        world_from_camera: rigid, [..., V, 4, 4]; all look at the origin.
    """
    return canonical_from_world(world_from_camera[..., 0, :, :])[..., None, :, :] @ world_from_camera


def canonical_from_world(world_from_camera: Tensor) -> Tensor:
    """Rigid transform [..., 4, 4] into the frame of a camera [..., 4, 4]: see `canonicalised`."""
    rotation, position = world_from_camera[..., :3, :3], world_from_camera[..., :3, 3]
    matrix = torch.zeros_like(world_from_camera)
    flip = torch.tensor([1.0, -1.0, -1.0], device=matrix.device, dtype=matrix.dtype)
    matrix[..., :3, :3] = flip[:, None] * rotation.mT
    matrix[..., :3, 3] = -(matrix[..., :3, :3] @ position[..., None])[..., 0]
    matrix[..., 2, 3] += position.norm(dim=-1)
    matrix[..., 3, 3] = 1
    return matrix
