"""Every number that tells one multi-view generator from another; what is published and what ships differ by these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from backend.preparation.framing import DEFAULT_FOV_DEG, HALF_WIDTH


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of CLIP's image encoder; the defaults are ViT-H/14's, which Stable Video Diffusion comes with.

    Attributes:
        size: side of the pictures that it is shown.
        patch: side of a patch.
        width: of its tokens.
        hidden: width within its feed-forward layers.
        layers: number of transformer layers.
        heads: attention heads.
        activation: in transformers' words.
    """

    size: int = 224
    patch: int = 14
    width: int = 1280
    hidden: int = 5120
    layers: int = 32
    heads: int = 16
    activation: str = "gelu"


@dataclass(frozen=True)
class MultiviewConfig:
    """Shape and conventions of one generator (Wen et al. 2024, "Ouroboros3D"); the defaults are the published one.

    Attributes:
        size: side of the pictures in pixels.
        pictures: what stands between pictures and latents: Stable Video Diffusion's "vae", or the "pixels" themselves.
        factor: pixels per side of a latent; feedback is folded by it as well.
        latent_channels: of a latent.
        scaling_factor: by which latents are multiplied before there is noise on them.
        channels: width of each level of the U-Net, multiples of 32; each level has half the resolution of the one
            before. All but the last attend.
        heads: attention heads of each level.
        layers: residual blocks per level on the way down; one more on the way up.
        context: width of the picture's embedding.
        time_id_width: width of the embedding of each of the three added numbers.
        octaves: frequencies of the encoding of Plücker coordinates.
        adapter_layers: residual blocks per level of the two adapters that take the feedback in.
        image_encoder: of the picture that the views are drawn from.
        azimuths_deg: the orbit's azimuths, relative to that picture's.
        radius: distance of its cameras, in the network's units.
        fov_deg: field of view of its cameras.
        prediction: what the network's output is, in diffusers' words: the velocity, as published, or the clean
            latents themselves. A narrow network has no room to carry the noise through, which the velocity asks for.
        sigma_min: least noise.
        sigma_max: most noise; the first step begins there.
        steps: how many the schedule takes, unless asked otherwise.
        guidance: weight of the condition, from the orbit's first view to its last.
    """

    size: int = 512
    pictures: Literal["vae", "pixels"] = "vae"
    factor: int = 8
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    layers: int = 2
    context: int = 1024
    time_id_width: int = 256
    octaves: int = 6
    adapter_layers: int = 3
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    azimuths_deg: tuple[float, ...] = (0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 337.5)
    radius: float = 1.7416968
    fov_deg: float = 2 * math.degrees(math.atan(0.36))
    prediction: Literal["v_prediction", "sample"] = "v_prediction"
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    steps: int = 25
    guidance: tuple[float, float] = (1.0, 3.0)

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or len(self.channels) != len(self.heads):
            raise ValueError(f"{len(self.channels)} levels with heads for {len(self.heads)}")
        if any(width % 32 or width % heads for width, heads in zip(self.channels, self.heads, strict=True)):
            raise ValueError(f"channels {self.channels} do not divide into groups of 32 and heads {self.heads}")
        if self.size % (self.factor << (self.levels - 1)):
            raise ValueError(f"size {self.size} does not divide into {self.levels} levels of latents by {self.factor}")
        if self.pictures == "pixels" and self.latent_channels != 3 * self.factor**2:
            raise ValueError(f"pixels folded by {self.factor} are {3 * self.factor**2} channels")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"noise from {self.sigma_min} to {self.sigma_max} is no schedule")

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.channels)

    @property
    def frames(self) -> int:
        """Views of the orbit."""
        return len(self.azimuths_deg)

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.size // self.factor


OUROBOROS3D = MultiviewConfig()
"""The published generator: the 14-frame Stable Video Diffusion, made to draw eight views."""

VIDEO_VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
"""Sizes of Stable Video Diffusion's autoencoder, as diffusers' AutoencoderKLTemporalDecoder takes them."""

TINY = MultiviewConfig(
    size=64,
    pictures="pixels",
    factor=4,
    latent_channels=48,
    scaling_factor=1.0,  # pictures on white in -1..1 have a mean square of about 0.8, near enough to 1
    channels=(64, 64, 64),
    heads=(2, 2, 2),
    layers=1,
    context=64,
    time_id_width=32,
    adapter_layers=1,
    image_encoder=ImageEncoderConfig(size=64, patch=8, width=64, hidden=128, layers=2, heads=2),
    radius=HALF_WIDTH / math.tan(math.radians(DEFAULT_FOV_DEG) / 2),  # a framed picture's, so that units are ours
    fov_deg=DEFAULT_FOV_DEG,
    prediction="sample",
    # 64 pixels are drowned by 80 (Karras et al. 2022), and training would hardly ever see the 700 that 512 pixels need
    sigma_max=80.0,
    steps=8,  # fewer draw blurred views and more draw bold ones, see docs/results.md
    guidance=(1.0, 1.0),  # more makes nothing better and takes twice the time
)
"""What this project trains and ships."""
