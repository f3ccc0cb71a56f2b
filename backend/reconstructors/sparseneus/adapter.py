"""Between the project's frame and the network's: a cube of [-1, 1]^3 and pixel centres at integers."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.geometry import batched
from backend.reconstructors.sparseneus.config import SparseNeuSConfig


def unit_projections(cameras: Tensor, config: SparseNeuSConfig) -> tuple[Tensor, Tensor]:
    """`image_from_unit` [..., 3, 4] and camera centres [..., 3] in unit coordinates, of cameras [..., 4].

    Unit coordinates are object coordinates divided by `cube_half`.
    """
    size = config.image_size
    matrix = batched.image_from_world(cameras, size)
    matrix = torch.cat([matrix[..., :3] * config.cube_half, matrix[..., 3:]], dim=-1)
    shift = torch.eye(3, device=cameras.device)
    shift[0, 2] = shift[1, 2] = -0.5  # ours lie at +0.5
    return shift @ matrix, batched.centers(cameras) / config.cube_half


def network_images(rgba: Tensor, config: SparseNeuSConfig) -> Tensor:
    """Pictures as the network takes them: uint8 straight-alpha [..., H, W, 4] -> [..., C, H, W] in 0..1."""
    x = rgba.float() / 255
    alpha = x[..., 3:]
    x = torch.cat([x[..., :3] * alpha, alpha], dim=-1)
    if config.image_channels == 3:
        x = x[..., :3] + 1 - x[..., 3:]
    return x.movedim(-1, -3)
