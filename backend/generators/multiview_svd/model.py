"""The U-Net with what turns pictures into what it takes: one module, so that it is trained and stored as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .config import MultiviewConfig
from .network import MultiviewUNet
from .pixels import PixelVAE, VideoVAE


class MultiviewModel(nn.Module):
    """All of one generator.

    Attributes:
        config: its sizes.
        network: predicts the velocity.
        image_encoder: CLIPVisionModelWithProjection.
        vae: pictures to unscaled latents and back.
    """

    def __init__(
        self,
        config: MultiviewConfig,
        *,
        network: MultiviewUNet | None = None,
        image_encoder: Any = None,
        vae: VideoVAE | PixelVAE | None = None,
    ) -> None:
        """Builds what is not given; an autoencoder is only built where the pixels stand in its place."""
        super().__init__()
        if vae is None and config.pictures == "vae":
            raise ValueError("this generator draws in an autoencoder's latents, so one must be given")
        self.config = config
        self.network = network or MultiviewUNet(config)
        self.image_encoder: Any = image_encoder or make_image_encoder(config)
        self.vae = vae or PixelVAE(config.factor)

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.network.unet.conv_in.weight.device

    def latents(self, views: Tensor) -> Tensor:
        """Scaled latents [B, F, C, h, w] of pictures [B, F, 3, S, S] in -1..1: what the noise is put on."""
        latents = self.vae.encode(views.flatten(0, 1)) * self.config.scaling_factor
        return latents.unflatten(0, views.shape[:2])

    def pictures(self, latents: Tensor) -> Tensor:
        """The inverse of `latents`: float32 [B, F, 3, S, S], about -1..1, not clamped."""
        return self.vae.decode(latents.float() / self.config.scaling_factor)


def make_image_encoder(config: MultiviewConfig) -> Any:
    """CLIP's image encoder with new weights."""
    sizes = config.image_encoder
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=sizes.size,
            patch_size=sizes.patch,
            hidden_size=sizes.width,
            intermediate_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            hidden_act=sizes.activation,
            projection_dim=config.context,
        )
    )
