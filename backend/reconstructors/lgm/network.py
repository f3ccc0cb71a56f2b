"""LGM: a U-Net that looks at all views at once and gives every pixel of a coarser grid one Gaussian."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backend.geometry.gaussians.gaussians import Gaussians

from .activation import CHANNELS, activate, plausible_bias
from .blocks import DownBlock, MiddleBlock, UpBlock, norm, sinusoids
from .config import LGMConfig
from .rays import INPUT_CHANNELS, coarser_rays


class UNet(nn.Module):
    """U-Net over views, with attention across them on its coarser levels."""

    def __init__(self, config: LGMConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        down, up = config.down_channels, config.up_channels
        self.conv_in = nn.Conv2d(INPUT_CHANNELS, down[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [down[0]]
        for i, channels in enumerate(down):
            last = i == len(down) - 1
            self.down_blocks.append(
                DownBlock(config, skips[-1], channels, attention=config.down_attention[i], downsample=not last)
            )
            skips += [channels] * (config.layers + (not last))
        self.mid_block = MiddleBlock(config, down[-1])
        below = down[-1]
        for i, channels in enumerate(up):
            taken = [skips.pop() for _ in range(config.layers + 1)]
            self.up_blocks.append(
                UpBlock(config, below, taken, channels, attention=config.up_attention[i], upsample=i < len(up) - 1)
            )
            below = channels
        self.norm_out = norm(config, up[-1])
        self.conv_out = nn.Conv2d(up[-1], CHANNELS, 3, padding=1)
        if config.time_channels:
            self.time_embed = nn.Sequential(
                nn.Linear(config.time_channels, 4 * config.time_channels),
                nn.SiLU(),
                nn.Linear(4 * config.time_channels, 4 * config.time_channels),
            )

    def embed(self, timestep: Tensor) -> Tensor:
        """Timesteps [B] to [B, 4 * time_channels]."""
        return self.time_embed(sinusoids(timestep, self.config.time_channels))

    def forward(self, x: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Views [B V, 9, S, S] and timesteps [B] to [B V, 14, s, s], in float32 under autocast too."""
        time = None
        if self.config.time_channels:
            if timestep is None:
                raise ValueError("this network needs a timestep")
            time = self.embed(timestep).repeat_interleave(len(self.config.views), 0)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            skips += self._run(block, skips[-1], time)
        x = self._run(self.mid_block, skips[-1], time)
        count = self.config.layers + 1
        for block in self.up_blocks:
            taken, skips = skips[-count:], skips[:-count]
            x = self._run(block, x, taken, time)
        with torch.autocast(x.device.type, enabled=False):  # half precision would put Gaussians on a visible grid
            return self.conv_out(F.silu(self.norm_out(x.to(self.conv_out.weight.dtype))))

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class LGM(nn.Module):
    """Views to Gaussians, in the frame of the first view's camera (see `frame`).

    Attribute names spell the keys of published checkpoints.
    """

    def __init__(self, config: LGMConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        if config.positions == "ray":  # untrained it is a round of faint discs through the origin
            nn.init.eye_(self.conv.weight.data[:, :, 0, 0])
            self.conv.bias.data.copy_(plausible_bias(config))  # type: ignore[union-attr]
            nn.init.normal_(self.unet.conv_out.weight, std=1e-3)
            nn.init.zeros_(self.unet.conv_out.bias)  # type: ignore[arg-type]

    def enable_gradient_checkpointing(self) -> None:
        """Computes the U-Net's blocks twice in training, to keep less of them in memory."""
        self.unet.checkpointing = True

    def channels_last(self) -> LGM:
        """Lays the convolutions' weights out as CPUs and tensor cores like them."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, timestep: Tensor | None = None) -> Gaussians:
        """The Gaussians of each sample.

        Args:
            images: [B, V, 9, S, S] from `rays.network_input`.
            timestep: of the views' noise level, [B]; only for networks with a time embedding.

        Returns:
            [B, V s^2] Gaussians in the order (view, row, column), in float32.
        """
        raw = self.unet(images.flatten(0, 1).contiguous(memory_format=torch.channels_last), timestep)
        with torch.autocast(raw.device.type, enabled=False):
            raw = self.conv(raw).float().unflatten(0, images.shape[:2])
            rays = coarser_rays(images, self.config.output_size) if self.config.positions == "ray" else None
            return activate(raw, self.config, rays)
