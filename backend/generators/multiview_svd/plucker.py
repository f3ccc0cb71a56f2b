"""Where each pixel of each view looks, as the published network was told: Plücker coordinates, two quirks included.

The published code fills x with the row and y with the column, and turns the rays by the transpose of the camera's
rotation, from which it then takes the camera's position. Its weights have learned these numbers and no others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def published_rays(world_from_camera: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Origins and unit directions of the published code.

    Args:
        world_from_camera: float32 [..., 4, 4], OpenCV's axes.
        intrinsics: [..., 3, 3] of a picture that is one unit wide and high.
        size: (h, w), of the level.

    Returns:
        [..., 3] and [..., h, w, 3].
    """
    height, width = size
    device, dtype = world_from_camera.device, world_from_camera.dtype
    x, y = torch.meshgrid(
        (torch.arange(height, device=device, dtype=dtype) + 0.5) / height,
        (torch.arange(width, device=device, dtype=dtype) + 0.5) / width,
        indexing="ij",
    )
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    points = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x).expand_as((x - cx) / fx)], dim=-1)
    origins = world_from_camera[..., :3, 3]
    turned = torch.einsum("...hwi,...ij->...hwj", points, world_from_camera[..., :3, :3])
    return origins, F.normalize(turned - origins[..., None, None, :], dim=-1)


def harmonics(values: Tensor, octaves: int) -> Tensor:
    """[..., C] -> [..., (2 octaves + 1) C]: sines of all octaves channel by channel, cosines likewise, the values."""
    angles = (values[..., None] * 2.0 ** torch.arange(octaves, device=values.device, dtype=values.dtype)).flatten(-2)
    return torch.cat([angles.sin(), angles.cos(), values], dim=-1)


def encode_plucker(world_from_camera: Tensor, intrinsics: Tensor, size: tuple[int, int], octaves: int) -> Tensor:
    """Encoded moments (origin x direction) and directions of `published_rays`, [..., h, w, 6 (2 octaves + 1)]."""
    origins, directions = published_rays(world_from_camera, intrinsics, size)
    moments = torch.linalg.cross(origins[..., None, None, :].expand_as(directions), directions)
    return harmonics(torch.cat([moments, directions], dim=-1), octaves)


class PluckerEmbedding(nn.Module):
    """What is added to the hidden state of one level."""

    def __init__(self, octaves: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(6 * (2 * octaves + 1), channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, encoded: Tensor) -> Tensor:
        """[N, h, w, 6 (2 octaves + 1)] -> [N, C, h, w]."""
        return self.embed(encoded).permute(0, 3, 1, 2)
