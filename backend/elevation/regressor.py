"""The elevation read from the framed picture alone, by a small network trained for it.

At 64 pixels drawn near views carry too little parallax for matching to be sharp; a network that has seen many pictures
knows better how high a camera stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class ElevationConfig:
    """Sizes of the regressor: channels of its levels, each at half the resolution of the one before."""

    channels: tuple[int, ...] = (24, 48, 96, 192)
    image_size: int = 64


class ElevationNet(nn.Module):
    """Convolutions, pooled, to a Gaussian over the elevation."""

    def __init__(self, config: ElevationConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        below = 4
        for c in config.channels:
            for inputs, stride in ((below, 2), (c, 1)):
                layers += [nn.Conv2d(inputs, c, 3, stride, 1), nn.GroupNorm(c // 8, c), nn.SiLU()]
            below = c
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(below * 16, 256), nn.SiLU(), nn.Linear(256, 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in degrees, [N] each.

        Args:
            images: [N, 4, S, S], premultiplied RGB and alpha in 0..1.
        """
        mean, spread = self.head(self.features(images).flatten(1)).float().unbind(-1)
        return 20 * mean + 18, 1 + 10 * nn.functional.softplus(spread)
