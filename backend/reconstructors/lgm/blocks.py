"""Building blocks of LGM's U-Net. Views are folded into the batch: sample b's view v is entry V b + v.

Attribute names spell the keys of published checkpoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import LGMConfig

RESIDUAL = math.sqrt(0.5)
"""What every sum of a block and its input is multiplied by."""

FEW_TOKENS = 1024
"""Up to so many, a table of all pairs is no matter of memory."""


def norm(config: LGMConfig, channels: int) -> nn.GroupNorm:
    """Normalises each view by its own statistics."""
    return nn.GroupNorm(config.groups, channels, eps=1e-5)


def sinusoids(timestep: Tensor, channels: int) -> Tensor:
    """Cosines, then sines, [B, channels] of timesteps [B] at frequencies from 1 down to almost 1/10000."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timestep.device) / half)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResnetBlock(nn.Module):
    """Two normalised convolutions with a residual; the time embedding is added between them."""

    def __init__(self, config: LGMConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        if config.time_channels:
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.time_channels, out_channels))
            nn.init.zeros_(self.emb_layers[1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.emb_layers[1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """[N, C, H, W] and the time embedding [N, 4 * time_channels] to [N, C', H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            h = h + self.emb_layers(time)[:, :, None, None].to(h.dtype)
        h = self.conv2(F.silu(self.norm2(h)))
        return (h + self.shortcut(x)) * RESIDUAL


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention [B, heads, tokens, d]; of few tokens, on CPUs, as plain products, twice as fast."""
    if q.device.type != "cpu" or q.shape[2] > FEW_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    weights = torch.softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2), dim=-1)
    return weights.to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values without bias."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to the same."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class ViewAttention(nn.Module):
    """Normalised attention of every pixel to all pixels of all views, with a residual."""

    def __init__(self, config: LGMConfig, channels: int) -> None:
        super().__init__()
        self.views = len(config.views)
        self.norm = norm(config, channels)
        self.attn = Attention(channels, config.heads)

    def forward(self, x: Tensor) -> Tensor:
        """[B V, C, H, W] to the same."""
        height, width = x.shape[2:]
        tokens = self.norm(x).unflatten(0, (-1, self.views)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        attended = self.attn(tokens).unflatten(1, (self.views, height, width)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        return (attended + x) * RESIDUAL


class DownBlock(nn.Module):
    """A level on the way down; all but the last end with a convolution that halves the resolution."""

    def __init__(
        self, config: LGMConfig, in_channels: int, out_channels: int, *, attention: bool, downsample: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.layers - 1)
        self.nets = nn.ModuleList(ResnetBlock(config, width, out_channels) for width in widths)
        self.attns = nn.ModuleList(ViewAttention(config, out_channels) for _ in widths if attention)
        self.downsample = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) if downsample else None

    def forward(self, x: Tensor, time: Tensor | None) -> list[Tensor]:
        """The outputs of all layers, the last of which goes on; each is a skip connection."""
        outputs = []
        for i, net in enumerate(self.nets):
            x = net(x, time)
            if self.attns:
                x = self.attns[i](x)
            outputs.append(x)
        if self.downsample is not None:
            outputs.append(self.downsample(x))
        return outputs


class MiddleBlock(nn.Module):
    """The coarsest level: here attention comes before its residual block, not after."""

    def __init__(self, config: LGMConfig, channels: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResnetBlock(config, channels, channels) for _ in range(2))
        self.attns = nn.ModuleList(ViewAttention(config, channels) for _ in range(config.middle_attention))

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """[N, C, H, W] to the same."""
        x = self.nets[0](x, time)
        if self.attns:
            x = self.attns[0](x)
        return self.nets[1](x, time)


class UpBlock(nn.Module):
    """A level on the way up; all but the last end with a doubled resolution.

    Args:
        config: of the network.
        in_channels: of what comes from below.
        skip_channels: of the skip connections, in the order in which they are taken.
        out_channels: of every layer.
        attention: across the views, after each residual block.
        upsample: double the resolution at the end.
    """

    def __init__(
        self,
        config: LGMConfig,
        in_channels: int,
        skip_channels: list[int],
        out_channels: int,
        *,
        attention: bool,
        upsample: bool,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (len(skip_channels) - 1)
        self.nets = nn.ModuleList(
            ResnetBlock(config, width + skip, out_channels) for width, skip in zip(widths, skip_channels, strict=True)
        )
        self.attns = nn.ModuleList(ViewAttention(config, out_channels) for _ in widths if attention)
        self.upsample = nn.Conv2d(out_channels, out_channels, 3, padding=1) if upsample else None

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor | None) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']; `skips` are taken from the last on."""
        for i, (net, skip) in enumerate(zip(self.nets, reversed(skips), strict=True)):
            x = net(torch.cat([x, skip], dim=1), time)
            if self.attns:
                x = self.attns[i](x)
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x
