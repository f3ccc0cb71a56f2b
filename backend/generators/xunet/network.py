"""The X-UNet of 3DiM (Watson et al. 2022, section 3): a U-Net over two frames that share its weights.

Frame 0 is the clean input picture, frame 1 the noisy target; they meet in cross-attention, and the output is read
from frame 1. Structure and parameter names are those of published checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import GroupNorm, ResnetBlock, XUNetBlock, zero_init
from .conditioning import ConditioningProcessor
from .config import XUNetConfig


class XUNet(nn.Module):
    """Denoises a picture of an object from a second camera, given one from a first."""

    def __init__(self, config: XUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * m for m in config.channel_multipliers]
        self.conditioningprocessor = ConditioningProcessor(config)
        in_channels = (config.image_channels + config.map_channels) * config.patch**2
        self.conv = nn.Conv2d(in_channels, config.channels, 3, padding=1)

        width, skips = config.channels, [config.channels]
        self.xunetblocks = nn.ModuleList()
        for level, out in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(config.res_blocks):
                blocks.append(XUNetBlock(config, width, out, attention=level in config.attention_levels))
                width = out
                skips.append(width)
            if level < config.levels - 1:
                blocks.append(ResnetBlock(config, width, width, "down"))
                skips.append(width)
            self.xunetblocks.append(blocks)

        self.middle = XUNetBlock(config, width, width, attention=config.levels in config.attention_levels)

        self.upsample = nn.ModuleDict()
        for level in reversed(range(config.levels)):
            blocks = nn.ModuleList()
            for _ in range(config.res_blocks + 1):
                attention = level in config.attention_levels
                blocks.append(XUNetBlock(config, width + skips.pop(), widths[level], attention=attention))
                width = widths[level]
            if level:
                blocks.append(ResnetBlock(config, width, width, "up"))
            self.upsample[str(level)] = blocks

        self.lastgn = GroupNorm(config.groups, width)
        self.lastconv = zero_init(nn.Conv2d(width, config.image_channels * config.patch**2, 3, padding=1))
        self.channels_last()

    def channels_last(self) -> XUNet:
        """Lays out the convolutions for speed; one by one, since `Module.to` refuses on five-dimensional parameters."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def forward(self, image: Tensor, noisy: Tensor, logsnr: Tensor, rays: Tensor, maps: Tensor | None = None) -> Tensor:
        """The network's prediction for the target frame.

        Args:
            image: [B, C, S, S], the input picture as `encoding` has it; noise where unconditional.
            noisy: [B, C, S, S], the target picture with noise.
            logsnr: float32 [B, 2], log-SNR of both frames; the input picture has the schedule's greatest.
            rays: float32 [B, 2, ray_channels, h, h] of `conditioning.ray_encoding`; zeros where unconditional.
            maps: [B, 2, map_channels, S, S] of `encoding`; zeros where unconditional.

        Returns:
            [B, C, S, S]: the noise, the velocity or the clean picture, as `config.prediction` says.
        """
        return self.denoise(image, noisy, logsnr, self.conditioningprocessor.embed_poses(rays), maps)

    def denoise(
        self, image: Tensor, noisy: Tensor, logsnr: Tensor, poses: tuple[Tensor, ...], maps: Tensor | None = None
    ) -> Tensor:
        """`forward` with the poses embedded already, which need not happen again at every step of sampling."""
        h = torch.stack([image, noisy], dim=1)
        if maps is not None:
            h = torch.cat([h, maps.to(h.dtype)], dim=2)
        h = F.pixel_unshuffle(h.flatten(0, 1), self.config.patch)
        h = self.conv(h.contiguous(memory_format=torch.channels_last))
        noise = self.conditioningprocessor.embed_noise(logsnr).flatten(0, 1)[:, :, None, None]
        embs = [F.silu(noise + pose) for pose in poses]  # every modulation of a level begins with this SiLU

        skips = [h]
        for emb, blocks in zip(embs, self.xunetblocks, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, emb)
                skips.append(h)

        h = self.middle(h, embs[-1])

        last_meeting = min(self.config.attention_levels)
        for level in reversed(range(self.config.levels)):
            if level == last_meeting - 1:  # the input frame can no longer reach the output: stop computing it
                h, embs, skips = h[1::2], [emb[1::2] for emb in embs], [skip[1::2] for skip in skips]
            for block in self.upsample[str(level)]:  # type: ignore[attr-defined]
                if isinstance(block, XUNetBlock):
                    h = torch.cat([h, skips.pop()], dim=1)
                h = block(h, embs[level])
        if last_meeting == 0:
            h = h[1::2]
        output = F.pixel_shuffle(self.lastconv(F.silu(self.lastgn(h))), self.config.patch)
        if self.config.map_variance and maps is not None:
            return corrected(output, noisy, logsnr[:, 1], maps[:, 1, :4], self.config.map_variance)
        return output


def corrected(output: Tensor, noisy: Tensor, logsnr: Tensor, known: Tensor, variance: float) -> Tensor:
    """The clean picture: the best guess from the noisy one and the map, corrected by the network's output.

    Were the map's error Gaussian, the guess would be the posterior mean and the scale of the output the posterior's
    standard deviation; this is EDM's preconditioning (Karras et al. 2022, section 5) about a known picture instead of
    zero.

    Args:
        output: of the network's last layer, [B, C, S, S].
        noisy: alpha x + sigma noise, the same shape.
        logsnr: [B].
        known: the map's colours and alpha, the same shape as the picture.
        variance: the map's mean squared error.
    """
    logsnr = logsnr.float()[:, None, None, None]
    certainty = logsnr.exp() + 1 / variance
    seen = logsnr.exp() / torch.sigmoid(logsnr).sqrt()  # SNR / alpha
    guess = (seen * noisy.float() + known.float() / variance) / certainty
    return (guess + output.float() * certainty.rsqrt()).to(output.dtype)
