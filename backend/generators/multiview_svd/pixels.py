"""Pictures to latents and back: Stable Video Diffusion's autoencoder, or none at all."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VideoVAE(nn.Module):
    """diffusers' AutoencoderKLTemporalDecoder, whose decoder sees all views of an object at once.

    Args:
        vae: the autoencoder.
        dtype: of its decoder. The encoder is float32, because it overflows float16.
    """

    def __init__(self, vae: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.vae = vae.float()
        self.vae.decoder.to(dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Unscaled latents [N, C, h, w], the most likely ones, of pictures [N, 3, S, S] in -1..1; float32."""
        return self.vae.encode(images.float()).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, F, 3, S, S] of unscaled latents [B, F, C, h, w]; float32, not clamped."""
        batch, frames = latents.shape[:2]
        dtype = next(self.vae.decoder.parameters()).dtype
        images = self.vae.decode(latents.flatten(0, 1).to(dtype), num_frames=frames).sample
        return images.float().unflatten(0, (batch, frames))


class PixelVAE(nn.Module):
    """In an autoencoder's place: blocks of pixels are folded into channels, and nothing is lost.

    Args:
        factor: side of a block.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, 3 factor^2, S / factor, S / factor]."""
        return F.pixel_unshuffle(images, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, of [B, F, ...]."""
        return F.pixel_shuffle(latents, self.factor)
