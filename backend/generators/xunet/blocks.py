"""Building blocks of the X-UNet. Frames are folded into the batch: sample b's frame f is entry 2 b + f.

Attribute names spell the keys of published checkpoints.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import XUNetConfig

Resample = Literal["down", "up"]


def zero_init(module: nn.Conv2d) -> nn.Conv2d:
    """So that a block starts as the identity."""
    nn.init.zeros_(module.weight)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module


class GroupNorm(nn.Module):
    """Group normalisation with statistics of one frame each."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same, in the type of the weights: under autocast CPUs take a third of bfloat16's time."""
        return self.gn(x.to(self.gn.weight.dtype))


class FiLM(nn.Module):
    """Scale and shift per pixel, from the embedding (Perez et al. 2018)."""

    def __init__(self, emb_channels: int, channels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(emb_channels, 2 * channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Modulates x [N, C, H, W] by the activated embedding [N, E, H, W]."""
        scale, shift = F.conv2d(emb, self.dense.weight[:, :, None, None], self.dense.bias).chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class ResnetBlock(nn.Module):
    """BigGAN-style residual block, modulated by the embedding; resamples its output where asked to."""

    def __init__(
        self, config: XUNetConfig, in_channels: int, out_channels: int, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.resample = resample
        self.groupnorm0 = GroupNorm(config.groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.groupnorm1 = GroupNorm(config.groups, out_channels)
        self.film = FiLM(config.emb_channels, out_channels)
        self.film_activation = config.film_activation
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        if in_channels != out_channels:
            self.dense = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[N, C, H, W] and the activated embedding [N, E, H, W] to [N, C', H', W']."""
        h = self.conv1(F.silu(self.groupnorm0(x)))
        h = self.film(self.groupnorm1(h), emb)
        h = self.conv2(self.dropout(F.silu(h) if self.film_activation else h))
        h = (h + (self.dense(x) if hasattr(self, "dense") else x)) / math.sqrt(2)
        if self.resample == "down":
            return F.avg_pool2d(h, 2)
        if self.resample == "up":
            return F.interpolate(h, scale_factor=2.0, mode="nearest")
        return h


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention [N, heads, tokens, d]; on CPUs as plain products, which are faster in bfloat16."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    weights = torch.softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2), dim=-1)
    return weights.to(v.dtype) @ v


class FrameAttention(nn.Module):
    """Multi-head attention of every frame to itself or to the sample's other frame, with the same parameters."""

    def __init__(self, channels: int, heads: int, kind: Literal["self", "cross"]) -> None:
        super().__init__()
        self.kind = kind
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)  # for its parameters and their names

    def forward(self, tokens: Tensor) -> Tensor:
        """[2 B, N, C] to the same."""
        frames, count, channels = tokens.shape
        qkv = F.linear(tokens, self.attn.in_proj_weight, self.attn.in_proj_bias)
        qkv = qkv.view(frames, count, 3, self.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.kind == "cross":
            k, v = (x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1) for x in (k, v))
        attended = attend(q, k, v)
        return self.attn.out_proj(attended.transpose(1, 2).reshape(frames, count, channels))


class AttnBlock(nn.Module):
    """Normalised attention over pixels with a residual."""

    def __init__(self, config: XUNetConfig, channels: int, kind: Literal["self", "cross"]) -> None:
        super().__init__()
        self.groupnorm = GroupNorm(config.groups, channels)
        self.attn_layer = FrameAttention(channels, config.heads, kind)
        self.linear = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[2 B, C, H, W] to the same."""
        tokens = self.attn_layer(self.groupnorm(x).flatten(2).transpose(1, 2))
        h = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return (self.linear(h) + x) / math.sqrt(2)


class XUNetBlock(nn.Module):
    """A residual block and, where the level has attention, self- and then cross-frame attention."""

    def __init__(self, config: XUNetConfig, in_channels: int, out_channels: int, *, attention: bool) -> None:
        super().__init__()
        self.resnetblock = ResnetBlock(config, in_channels, out_channels)
        self.attention = attention
        if attention:
            self.attnblock_self = AttnBlock(config, out_channels, "self")
            self.attnblock_cross = AttnBlock(config, out_channels, "cross")

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[2 B, C, H, W] and the activated embedding [2 B, E, H, W] to [2 B, C', H, W]."""
        h = self.resnetblock(x, emb)
        return self.attnblock_cross(self.attnblock_self(h)) if self.attention else h
