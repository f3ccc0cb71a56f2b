"""Colours blended from the source pictures (IBRNet's form, as SparseNeuS's GeneralRenderingNetwork)."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.reconstructors.sparseneus.config import SparseNeuSConfig

LOG2_E = math.log2(math.e)


class Layer(nn.Linear):
    """A linear layer over [B, V, P, inputs]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, V, P, inputs] -> [B, V, P, outputs]."""
        return _linear(x, self.weight, self.bias)


class Elu(nn.Module):
    """ELU; what it is given is overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not _is_inferred_on_cpu(x) or x.dtype != torch.float32:
            return F.elu(x, inplace=True)
        # twice as fast as torch's own, which takes the slower expm1: below 0, where they differ, by less than 1e-7
        below = x.clamp(max=0).mul_(LOG2_E).exp2_().sub_(1)
        return torch.maximum(x, below, out=x)


class BlendingNetwork(nn.Module):
    """Weights of the views at a point from how their features agree and how they look at it."""

    def __init__(self, config: SparseNeuSConfig) -> None:
        super().__init__()
        geometry, features = config.regularizer_channels[0], config.fused_channels + 3
        self.s = nn.Parameter(torch.tensor(0.2))
        elu = Elu()
        self.ray_dir_fc = nn.Sequential(Layer(4, 16), elu, Layer(16, features), elu)
        self.base_fc = nn.Sequential(Layer(geometry + 3 * features, 64), elu, Layer(64, 32), elu)
        self.vis_fc = nn.Sequential(Layer(32, 32), elu, Layer(32, 33), elu)
        self.vis_fc2 = nn.Sequential(Layer(32, 32), elu, Layer(32, 1), nn.Sigmoid())
        self.rgb_fc = nn.Sequential(Layer(37, 16), elu, Layer(16, 8), elu, Layer(8, 1))

    def forward(self, geometry: Tensor, colors: Tensor, features: Tensor, rays: Tensor, mask: Tensor) -> Tensor:
        """Blended colours [B, P, 3] in 0..1.

        Args:
            geometry: volume features of the points, [B, P, C].
            colors: the views' colours there, [B, V, P, 3].
            features: their fused features, [B, V, P, fused].
            rays: `ray_difference`, [B, V, P, 4].
            mask: whether a view sees the point, [B, V, P, 1].
        """
        f = torch.cat([colors, features], dim=-1).add_(self.ray_dir_fc(rays))
        weight = torch.exp(self.s.abs() * (rays[..., 3:] - 1))
        weight = (weight - weight.amin(dim=1, keepdim=True)) * mask
        weight = weight / (weight.sum(dim=1, keepdim=True) + 1e-8)
        weighted = f * weight
        mean = weighted.sum(dim=1, keepdim=True)
        variance = (weighted * f).sum(dim=1, keepdim=True) - mean.square() * (2 - weight.sum(dim=1, keepdim=True))
        h = self.base_fc[1:](self._first(torch.cat([geometry[:, None], mean, variance], dim=-1), f))
        residual, visible = self.vis_fc(h * weight).split([32, 1], dim=-1)
        h = h + residual
        visible = self.vis_fc2(h * (torch.sigmoid(visible) * mask)) * mask
        logit = self.rgb_fc(torch.cat([h, visible, rays], dim=-1)).masked_fill(mask == 0, -1e9)
        return (F.softmax(logit, dim=1) * colors).sum(dim=1)

    def _first(self, shared: Tensor, each: Tensor) -> Tensor:
        """`base_fc`'s first layer of what all views share, [B, 1, P, S], and each its own, [B, V, P, F], joined."""
        layer = cast(nn.Linear, self.base_fc[0])
        of_shared, of_each = layer.weight.split([shared.shape[-1], each.shape[-1]], dim=1)
        return _linear(each, of_each) + F.linear(shared, of_shared, layer.bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer of [B, V, P, inputs], on a CPU as a 1x1 convolution: oneDNN's, twice as fast as the BLAS's."""
    if not _is_inferred_on_cpu(x):
        return F.linear(x, weight, bias)
    pictures = x.flatten(0, 1)[:, None].permute(0, 3, 1, 2)  # one row of points each, channels last
    return F.conv2d(pictures, weight[:, :, None, None], bias).permute(0, 2, 3, 1).view(*x.shape[:3], -1)


def _is_inferred_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def ray_difference(points: Tensor, normals: Tensor, centers: Tensor) -> Tensor:
    """How each view looks at each point, relative to its normal: [B, V, P, 4].

    Args:
        points, normals: [B, P, 3], normals of unit length (outward).
        centers: of the cameras, [B, V, 3].
    """
    towards = F.normalize(centers[:, :, None] - points[:, None], dim=-1)
    difference = normals[:, None] - towards
    unit = difference / difference.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return torch.cat([unit, (normals[:, None] * towards).sum(-1, keepdim=True)], dim=-1)
