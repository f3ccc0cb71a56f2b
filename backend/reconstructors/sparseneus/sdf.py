"""Signed distance from the volume's features: trilinear lookup and a small MLP (SparseNeuS's LatentSDFLayer)."""

from __future__ import annotations

from itertools import product

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


def smooth_lookup(volume: Tensor, points: Tensor) -> Tensor:
    """What `lookup` gives, in a form that can be differentiated twice: the gradient of the distance is trained too."""
    b, channels, resolution = volume.shape[:3]
    index = (points + 1) / 2 * (resolution - 1)
    valid = ((index > 0) & (index < resolution)).all(-1)
    index = index.clamp(0, resolution - 1)
    low = index.detach().floor().clamp(max=resolution - 2)
    high_share = index - low
    rows = volume.to(points.dtype).reshape(b, channels, -1).transpose(1, 2)
    features = torch.zeros(1, device=volume.device)
    for corner in product((0, 1), repeat=3):
        at = low.long() + torch.tensor(corner, device=volume.device)
        flat = (at[..., 0] * resolution + at[..., 1]) * resolution + at[..., 2]
        weight = torch.where(torch.tensor(corner, device=volume.device) == 1, high_share, 1 - high_share).prod(-1)
        features = features + weight[..., None] * rows.gather(1, flat[..., None].expand(-1, -1, channels))
    return features * valid[..., None]


def _softplus(x: Tensor) -> Tensor:
    """Softplus with beta = 100; x is given up where nothing is learned."""
    if torch.is_grad_enabled() or x.dtype != torch.float32:
        return F.softplus(x, beta=100)
    # half the time of torch's own on a CPU: no exponential becomes a denormal number
    return x.abs().mul_(-100).clamp_(min=-60).exp_().log1p_().mul_(0.01).add_(x.relu_())


class WeightNormLinear(nn.Module):
    """Linear layer with weight = g * v / |v|, under the old names `weight_g` and `weight_v`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        linear = nn.Linear(inputs, outputs)
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.weight_g = nn.Parameter(linear.weight.detach().norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(linear.weight.detach().clone())

    def weight(self) -> Tensor:
        """[outputs, inputs]."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(x, self.weight(), self.bias)


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
        x = self.lin2(self._hidden(points, latent))
        return x[..., :1], x[..., 1:]

    def distance(self, points: Tensor, latent: Tensor) -> Tensor:
        """The signed distance alone, [...], at two thirds of the cost."""
        x = self._hidden(points, latent)
        return F.linear(x, self.lin2.weight()[:1], self.lin2.bias[:1])[..., 0]

    def _hidden(self, points: Tensor, latent: Tensor) -> Tensor:
        x = _softplus(self.lin0(positional_encoding(points, self.octaves)))
        x = _softplus(self.lin1(torch.cat([x, latent], dim=-1)))
        return torch.cat([x, latent], dim=-1)
