"""Maps of coordinates: for every pixel of a rendered view, where the surface that it shows lies.

They are what the generator is told about the shape of its last guess, beside the colours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import LGMConfig

HALF = 0.75
"""Half the side of the cube whose coordinates fill an object map's range, in the network's units."""

SOLID = 0.05
"""Below this alpha a pixel's depth says nothing."""


def coordinate_map(
    depths: Tensor, alphas: Tensor, world_from_camera: Tensor, intrinsics: Tensor, config: LGMConfig
) -> Tensor:
    """The kind of map that the config names; arguments and result as below."""
    if config.coordinate_map == "published":
        return published_map(depths, world_from_camera, intrinsics)
    return object_map(depths, alphas, world_from_camera, intrinsics)


def published_map(depths: Tensor, world_from_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """The map as the published weights know it, which is not one of true coordinates.

    Pixel indices are measured against intrinsics that count in shares of the picture, so that the map depends on the
    resolution; depths are not divided by alpha; and the result is squeezed a thousandfold about grey.

    Args:
        depths: sums of weight times depth, [..., H, W].
        world_from_camera: OpenCV, [..., 4, 4].
        intrinsics: in shares of the picture's side, [..., 3, 3].

    Returns:
        [..., 3, H, W] in 0..1; 0.5 where the depth is 0.
    """
    rows, columns = (torch.arange(n, device=depths.device, dtype=depths.dtype) for n in depths.shape[-2:])
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    points = _world(u, v, depths, world_from_camera, intrinsics)
    points = torch.where(depths[..., None, :, :] > 0, points, 0.0)
    return (0.001 * points + 0.5).clamp(0, 1)


def object_map(depths: Tensor, alphas: Tensor, world_from_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """The surface's true coordinates in the network's frame, on grey as far as a pixel is transparent.

    Args:
        depths: sums of weight times depth, [..., H, W].
        alphas: sums of weight, [..., H, W].
        world_from_camera: OpenCV, [..., 4, 4].
        intrinsics: in shares of the picture's side, [..., 3, 3].

    Returns:
        [..., 3, H, W] in 0..1, where 0 and 1 are the faces of the cube [-HALF, HALF]^3; 0.5 where nothing is.
    """
    rows, columns = ((torch.arange(n, device=depths.device, dtype=depths.dtype) + 0.5) / n for n in depths.shape[-2:])
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    points = _world(u, v, depths / alphas.clamp_min(SOLID), world_from_camera, intrinsics)
    return 0.5 + alphas[..., None, :, :] * (0.5 * points / HALF).clamp(-0.5, 0.5)


def _world(u: Tensor, v: Tensor, depths: Tensor, world_from_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """Points [..., 3, H, W] at depths along the view axis, on the rays through (u, v) as the intrinsics count."""
    fx, fy = intrinsics[..., 0, 0, None, None], intrinsics[..., 1, 1, None, None]
    cx, cy = intrinsics[..., 0, 2, None, None], intrinsics[..., 1, 2, None, None]
    local = torch.stack([(u - cx) * depths / fx, (v - cy) * depths / fy, depths], dim=-3)
    with torch.autocast(local.device.type, enabled=False):  # coordinates are no matter for half precision
        world = world_from_camera[..., :3, :3] @ local.flatten(-2) + world_from_camera[..., :3, 3:]
    return world.unflatten(-1, depths.shape[-2:])
