"""What the network sees of a view: the colours and, for every pixel, the Plücker coordinates of its ray."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import LGMConfig

INPUT_CHANNELS = 9
"""Normalised RGB, the moment o x d of the ray, its unit direction d."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's colours."""


def pluecker(world_from_camera: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """Moments and unit directions of the rays through the pixel centres.

    Args:
        world_from_camera: OpenCV, [..., 4, 4].
        intrinsics: in shares of the picture's side, so that the principal point is about 0.5, [..., 3, 3].
        size: side of the picture in pixels.

    Returns:
        [..., 6, size, size].
    """
    centers = (torch.arange(size, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5) / size
    v, u = torch.meshgrid(centers, centers, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1)
    with torch.autocast(pixels.device.type, enabled=False):  # directions are no matter for half precision
        directions = F.normalize(world_from_camera[..., :3, :3] @ torch.linalg.inv(intrinsics) @ pixels, dim=-2)
    moments = torch.linalg.cross(world_from_camera[..., :3, 3:], directions, dim=-2)
    return torch.cat([moments, directions], dim=-2).unflatten(-1, (size, size))


def network_input(images: Tensor, world_from_camera: Tensor, intrinsics: Tensor, config: LGMConfig) -> Tensor:
    """The views that the network looks at, as it wants them; differentiable in the pictures.

    Args:
        images: RGB in 0..1 on white, [B, cameras, 3, H, H].
        world_from_camera: OpenCV in the network's frame, [B, cameras, 4, 4].
        intrinsics: in shares of the picture's side, [B, cameras, 3, 3].
        config: of the network.

    Returns:
        [B, V, 9, S, S].
    """
    views, size = list(config.views), config.input_size
    images = images[:, views]
    mean, deviation = (torch.tensor(c, device=images.device)[:, None, None] for c in (MEAN, DEVIATION))
    colors = ((images.float() - mean) / deviation).flatten(0, 1)
    if colors.shape[-1] != size:
        colors = F.interpolate(colors, (size, size), mode="bilinear", align_corners=False)
    rays = pluecker(world_from_camera[:, views].float(), intrinsics[:, views].float(), size)
    return torch.cat([colors.unflatten(0, images.shape[:2]), rays], dim=2)


class Rays(NamedTuple):
    """Rays of a grid, each [B, V, 3, s, s].

    Attributes:
        nearest: the ray's point that is nearest to the origin.
        directions: unit.
        right: unit, orthogonal to the direction, towards the next column.
    """

    nearest: Tensor
    directions: Tensor
    right: Tensor


def coarser_rays(images: Tensor, size: int) -> Rays:
    """The rays of a grid of `size`, from those in the network's input [B, V, 9, S, S]."""
    coarse = F.adaptive_avg_pool2d(images[:, :, 3:].float().flatten(0, 1), size).unflatten(0, images.shape[:2])
    moments, directions = coarse.split(3, dim=2)
    length = directions.norm(dim=2, keepdim=True)
    moments, directions = moments / length, directions / length
    (right,) = torch.gradient(directions, dim=-1)
    right = right - (right * directions).sum(2, keepdim=True) * directions
    return Rays(torch.linalg.cross(directions, moments, dim=2), directions, F.normalize(right, dim=2))
