"""From the network's 14 channels to Gaussians: position 3, opacity 1, size 3, rotation 4, colour 3."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.geometry.gaussians.gaussians import Gaussians

from .config import LGMConfig
from .rays import Rays

CHANNELS = 14


def activate(raw: Tensor, config: LGMConfig, rays: Rays | None = None) -> Gaussians:
    """Gaussians of each sample in the order (view, row, column).

    Args:
        raw: [B, V, 14, s, s].
        config: of the network.
        rays: those of the grid, where positions lie on them.
    """
    positions, opacities, sizes, rotations, colors = raw.split((3, 1, 3, 4, 3), dim=2)
    means = _listed(positions).clamp(-1, 1) if rays is None else _listed(_on_rays(positions, config, rays))
    return Gaussians(
        means=means,
        quaternions=F.normalize(_listed(rotations), dim=-1 if config.rotation == "each" else 1),
        scales=config.scale * F.softplus(_listed(sizes)),
        opacities=torch.sigmoid(_listed(opacities))[..., 0],
        colors=0.5 * torch.tanh(_listed(colors)) + 0.5,
    )


def _listed(maps: Tensor) -> Tensor:
    """[B, V, C, s, s] to [B, V s^2, C]."""
    return maps.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _on_rays(raw: Tensor, config: LGMConfig, rays: Rays) -> Tensor:
    """Positions [B, V, 3, s, s]: along the ray from its point nearest to the origin, then right and down of it."""
    along, right, down = torch.tanh(raw).split(1, dim=2)
    sideways = right * rays.right + down * torch.linalg.cross(rays.directions, rays.right, dim=2)
    return rays.nearest + config.depth_reach * along * rays.directions + config.lateral_reach * sideways


def plausible_bias(config: LGMConfig) -> Tensor:
    """Channels [14] that an untrained network starts from: faint, grey, round, as large as the grid's spacing."""
    spacing = 2 * config.radius * math.tan(math.radians(config.fov_deg) / 2) / config.output_size
    bias = torch.zeros(CHANNELS)
    bias[3] = -2.0
    bias[4:7] = math.log(math.expm1(0.5 * spacing / config.scale))
    bias[7] = 1.0
    return bias
