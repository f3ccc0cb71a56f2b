"""Signed distance from the volume's features: trilinear lookup and a small MLP (SparseNeuS's LatentSDFLayer)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.reconstructors.sparseneus.config import SparseNeuSConfig


def positional_encoding(x: Tensor, octaves: int) -> Tensor:
    """[x, sin(x), cos(x), sin(2x), cos(2x), ...]: [..., 3] -> [..., 3 + 6 * octaves]."""
    parts = [x]
    for octave in range(octaves):
        parts += [torch.sin(x * 2.0**octave), torch.cos(x * 2.0**octave)]
    return torch.cat(parts, dim=-1)


def lookup(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear features of a volume [B, C, R, R, R] at points [B, P, 3] in -1..1 -> [B, P, C].

    As in the reference: zero unless every index lies strictly within (0, R), corners clamped to the lattice.
    """
    resolution = volume.shape[-1]
    grid = points.flip(-1)[:, :, None, None, :]  # grid_sample takes the last axis first
    features = F.grid_sample(volume.float(), grid.float(), mode="bilinear", padding_mode="border", align_corners=True)
    index = (points + 1) / 2 * (resolution - 1)
    valid = ((index > 0) & (index < resolution)).all(-1)
    return features[..., 0, 0].transpose(1, 2) * valid[..., None]


class WeightNormLinear(nn.Module):
    """Linear layer with weight = g * v / |v|, under the old names `weight_g` and `weight_v`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        linear = nn.Linear(inputs, outputs)
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.weight_g = nn.Parameter(linear.weight.detach().norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(linear.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))
        return F.linear(x, weight, self.bias)


class LatentSdf(nn.Module):
    """Three layers; the latent joins the hidden vector before the second and the third."""

    def __init__(self, config: SparseNeuSConfig) -> None:
        super().__init__()
        latent, hidden = config.regularizer_channels[0], config.sdf_hidden
        self.octaves = config.sdf_frequencies
        self.lin0 = WeightNormLinear(3 + 6 * self.octaves, hidden)
        self.lin1 = WeightNormLinear(hidden + latent, hidden)
        self.lin2 = WeightNormLinear(hidden + latent, hidden)

    def forward(self, points: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance [..., 1], positive outside, and features [..., hidden - 1].

        Args:
            points: [..., 3] in -1..1; distances are in the same unit.
            latent: [..., C] from `lookup`.
        """
        x = F.softplus(self.lin0(positional_encoding(points, self.octaves)), beta=100)
        x = F.softplus(self.lin1(torch.cat([x, latent], dim=-1)), beta=100)
        x = self.lin2(torch.cat([x, latent], dim=-1))
        return x[..., :1], x[..., 1:]
