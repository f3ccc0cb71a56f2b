"""Pyramid features of the source pictures (SparseNeuS's FeatureNet) and their compression for the volume."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.norm import NormParameters

TOP_DOWN_VIEWS = 4
"""Views whose maps are made at once where nothing is learned: their full-resolution steps stay in the cache."""


class ActivatedNorm(NormParameters):
    """InPlaceABN as the reference runs it: batch statistics always, scale |weight| + eps, leaky ReLU of slope 0.01.

    With norm "running" the statistics are the stored ones, with "group" those of groups of channels of each sample.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        if self.norm == "group":
            x = F.group_norm(x, x.shape[1] // 8, self.weight, self.bias)
        else:
            of_batch, scale = self.norm == "batch", self.weight.abs() + 1e-5
            mean, variance = (None, None) if of_batch else (self.running_mean, self.running_var)
            x = F.batch_norm(x, mean, variance, scale, self.bias, training=of_batch, eps=1e-5)
        return F.leaky_relu(x, 0.01, inplace=True)


class ConvUnit(nn.Module):
    """Convolution without bias, norm and activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = ActivatedNorm(outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, outputs, H / stride, W / stride]."""
        return self.bn(self.conv(x))


class FeatureNet(nn.Module):
    """Feature pyramid: bottom-up convolutions, top-down additions, one smoothed map a level."""

    def __init__(self, config: SparseNeuSConfig) -> None:
        super().__init__()
        channels, width, norm = config.feature_channels, config.pyramid_channels, config.norm
        self.levels = len(channels)
        for level, c in enumerate(channels):
            below = config.image_channels if level == 0 else channels[level - 1]
            first = ConvUnit(below, c, 3, 1, norm) if level == 0 else ConvUnit(below, c, 5, 2, norm)
            rest = [ConvUnit(c, c, 3, 1, norm) for _ in range(1 if level == 0 else 2)]
            self.add_module(f"conv{level}", nn.Sequential(first, *rest))
        self.toplayer = nn.Conv2d(channels[-1], width, 1)
        for level in range(self.levels - 1):
            self.add_module(f"lat{level}", nn.Conv2d(channels[level], width, 1))
            self.add_module(f"smooth{level}", nn.Conv2d(width, channels[level], 3, padding=1))

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps from coarse to fine, and the deepest bottom-up map.

        Args:
            images: [N, C, H, W] in 0..1.
        """
        bottom_up = []
        x = images
        for level in range(self.levels):
            x = self.get_submodule(f"conv{level}")(x)
            bottom_up.append(x)
        step = len(x) if torch.is_grad_enabled() else TOP_DOWN_VIEWS
        parts = [self._top_down([level[i : i + step] for level in bottom_up]) for i in range(0, len(x), step)]
        maps = parts[0] if len(parts) == 1 else [torch.cat(level) for level in zip(*parts, strict=True)]
        return maps, x

    def _top_down(self, bottom_up: list[Tensor]) -> list[Tensor]:
        top = self.toplayer(bottom_up[-1])
        maps = [top]
        for level in range(self.levels - 2, -1, -1):
            top = _resize(top, bottom_up[level].shape[-1]) + self.get_submodule(f"lat{level}")(bottom_up[level])
            maps.append(self.get_submodule(f"smooth{level}")(top))
        return maps


def fuse(maps: list[Tensor]) -> Tensor:
    """All levels at the finest resolution, concatenated from coarse to fine: [N, fused, H, W]."""
    size, count = maps[-1].shape[-1], len(maps[0])
    step = count if torch.is_grad_enabled() else TOP_DOWN_VIEWS
    parts = [torch.cat([_resize(m[i : i + step], size) for m in maps], dim=1) for i in range(0, count, step)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _resize(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=True)
