"""How a map of the feedback enters the U-Net: an adapter (Mou et al. 2023, "T2I-Adapter", the size for SDXL)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class AdapterBlock(nn.Module):
    """A residual block without normalisation, which begins as the identity."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.in_conv = nn.Conv2d(inputs, channels, 1) if inputs != channels else None
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, 1)
        for parameter in self.block2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, channels, h, w]."""
        if self.in_conv is not None:
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class Adapter(nn.Module):
    """One map -> features for every level of the U-Net.

    Args:
        factor: side of the pixel blocks that are folded into channels.
        channels: of each level.
        layers: residual blocks per level.
    """

    def __init__(self, factor: int, channels: Sequence[int], layers: int) -> None:
        super().__init__()
        self.factor, self.layers = factor, layers
        self.conv_in = nn.Conv2d(3 * factor**2, channels[0], 3, padding=1)
        before = [channels[0], *channels[:-1]]
        self.body = nn.ModuleList(
            AdapterBlock(inputs if layer == 0 else width, width)
            for inputs, width in zip(before, channels, strict=True)
            for layer in range(layers)
        )

    def forward(self, maps: Tensor) -> list[Tensor]:
        """[N, 3, S, S] -> [N, C, s, s] of each level; S / factor wide at the first, half of that at each next."""
        x = self.conv_in(F.pixel_unshuffle(maps, self.factor))
        features = []
        for number, block in enumerate(self.body):
            if number and number % self.layers == 0:
                x = F.avg_pool2d(x, 2)
            x = block(x)
            if number % self.layers == self.layers - 1:
                features.append(x)
        return features
