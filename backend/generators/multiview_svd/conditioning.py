"""What the U-Net is given of the picture that the views are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from kornia.geometry.transform import resize
from torch import Tensor

from backend.generators.zero123.preprocessing import CLIP_MEAN, CLIP_STD

from .model import MultiviewModel
from .network import Cameras

FPS = 6
"""Frames per second as the video model counts them: it was told 7, and pipelines tell it one less."""

MOTION = 127
"""How much is to move, on the video model's scale."""

NOISE = 0.02
"""Standard deviation of the noise on the picture before it is encoded."""


@dataclass(frozen=True)
class Condition:
    """Beside the noisy latents, for B pictures.

    Attributes:
        context: float32 [B, 1, D], CLIP's embedding.
        latents: float32 [B, C, h, w], the picture's, unscaled.
        added_time_ids: float32 [B, 3]: `FPS`, `MOTION` and the noise on the picture.
        cameras: [B, F, ...], on the same device.
    """

    context: Tensor
    latents: Tensor
    added_time_ids: Tensor
    cameras: Cameras

    def keep(self, context: Tensor, latents: Tensor) -> Condition:
        """Without the embedding or the latents of those pictures for which a bool [B] says so."""
        return Condition(
            torch.where(context[:, None, None], self.context, 0.0),
            torch.where(latents[:, None, None, None], self.latents, 0.0),
            self.added_time_ids,
            self.cameras,
        )


def make_condition(
    model: MultiviewModel, pictures: Tensor, cameras: Cameras, noise: Tensor, strength: Tensor | None = None
) -> Condition:
    """The condition of B pictures.

    Args:
        model: its device is computed on.
        pictures: float32 [B, 3, S, S] in -1..1, on white.
        cameras: of the views, [B, F, ...].
        noise: standard normal, like `pictures`.
        strength: [B], of the noise; None takes `NOISE`.
    """
    device = model.device
    pictures = pictures.to(device)
    if strength is None:
        strength = torch.full((len(pictures),), NOISE, device=device)
    latents = model.vae.encode(pictures + strength[:, None, None, None] * noise.to(device))
    ids = torch.stack([torch.full_like(strength, FPS), torch.full_like(strength, MOTION), strength], dim=1)
    on_device = Cameras(*(matrix.to(device) for matrix in cameras))
    return Condition(embed(model.image_encoder, pictures)[:, None], latents.float(), ids, on_device)


def embed(image_encoder: Any, pictures: Tensor) -> Tensor:
    """CLIP's embeddings, float32 [B, D], of pictures [B, 3, S, S] in -1..1."""
    pixels = clip_pixels(pictures, image_encoder.config.image_size)
    return image_encoder(pixels.to(image_encoder.dtype)).image_embeds.float()


def clip_pixels(pictures: Tensor, size: int) -> Tensor:
    """What Stable Video Diffusion shows its image encoder, [B, 3, size, size], of pictures in -1..1.

    A Gaussian filter, then a bicubic resize whose corners stay where they are; CLIP's usual preprocessing gives other
    numbers.
    """
    resized = resize(pictures, (size, size), interpolation="bicubic", align_corners=True, antialias=True)
    mean, std = (pictures.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std
