"""Every number that tells one X-UNet from another; what is published and what ships differ by this alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class XUNetConfig:
    """Shape and conventions of one X-UNet (Watson et al. 2022, "Novel View Synthesis with Diffusion Models").

    The defaults are the paper's conventions at the size of the public 64-pixel checkpoint.

    Attributes:
        size: side of the pictures in pixels.
        channels: width of level 0; level i has `channels * channel_multipliers[i]`.
        channel_multipliers: one per level; each level has half the resolution of the one before.
        emb_channels: width of the noise and ray embeddings that modulate every block.
        res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_levels: levels with self- and cross-frame attention; `len(channel_multipliers)` is the middle.
        heads: attention heads.
        dropout: in the residual blocks, while training.
        groups: of the group normalisation.
        patch: side of the pixel blocks that are folded into channels before level 0 (1 is published; 2 makes
            everything inside four times cheaper).
        image_channels: 3 is RGB on white (published); 4 is RGBA, see `encoding`.
        map_channels: extra aligned pictures per frame, see `encoding`; 0 is published.
        origin_octaves: frequencies of the ray origins' positional encoding.
        direction_octaves: frequencies of the ray directions' positional encoding.
        noise_embedding: "arctan" is the paper's; "raw" feeds the clipped log-SNR itself, as public checkpoints do.
        film_activation: SiLU after the modulation (paper); public checkpoints were trained without.
        turn_to_input: turn every scene about the vertical so that the input camera has azimuth 0, so that the network
            sees elevations and relative azimuths only; published networks see the world as it is.
        map_variance: mean squared error that the target frame's map is taken to have; 0 is published. If it is given,
            the network corrects what map and noisy picture together say, so that untrained it draws the known shape as
            it is; needs map channels and the prediction "sample".
        camera_distance: from the middle of the object to the cameras in the world that the network has learnt, see
            `worlds`; 0 is the object frame as it is.
        intrinsics_size: side of the pictures in pixels whose intrinsics the network is told; 0 is `size`.
        prediction: what the output means, in diffusers' words.
        logsnr_min: log-SNR of pure noise.
        logsnr_max: log-SNR of the clean picture.
    """

    size: int = 64
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    emb_channels: int = 1024
    res_blocks: int = 3
    attention_levels: tuple[int, ...] = (2, 3, 4)
    heads: int = 4
    dropout: float = 0.1
    groups: int = 32
    patch: int = 1
    image_channels: Literal[3, 4] = 3
    map_channels: Literal[0, 7] = 0
    origin_octaves: int = 15
    direction_octaves: int = 8
    noise_embedding: Literal["arctan", "raw"] = "arctan"
    film_activation: bool = True
    turn_to_input: bool = False
    map_variance: float = 0.0
    camera_distance: float = 0.0
    intrinsics_size: int = 0
    prediction: Prediction = "epsilon"
    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    def __post_init__(self) -> None:
        smallest = self.patch * 2 ** (self.levels - 1)
        if self.size % smallest:
            raise ValueError(f"size {self.size} is not a multiple of {smallest}, which the levels and patch ask for")
        if self.channels % self.groups or any((self.channels * m) % self.heads for m in self.channel_multipliers):
            raise ValueError(f"{self.channels} channels do not divide into {self.groups} groups and {self.heads} heads")
        if not self.attention_levels or not set(self.attention_levels) <= set(range(self.levels + 1)):
            raise ValueError(f"attention levels {self.attention_levels} are not among 0..{self.levels}")
        if self.map_variance and not (self.map_channels and self.image_channels == 4 and self.prediction == "sample"):
            raise ValueError("correcting maps needs map channels, RGBA and the prediction 'sample'")
        if not 0 <= self.camera_distance < math.inf or self.intrinsics_size < 0:
            raise ValueError(f"cameras at {self.camera_distance} with intrinsics of {self.intrinsics_size} pixels")
        if not math.isfinite(self.logsnr_min) or not self.logsnr_min < self.logsnr_max < math.inf:
            raise ValueError(f"log-SNR from {self.logsnr_min} to {self.logsnr_max} is no schedule")

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.channel_multipliers)

    @property
    def inner_size(self) -> int:
        """Resolution of level 0."""
        return self.size // self.patch

    @property
    def ray_channels(self) -> int:
        """Channels of the ray encoding: origin and direction, each with a sine and a cosine per octave."""
        return 6 + 6 * (self.origin_octaves + self.direction_octaves)


SRN64 = XUNetConfig(noise_embedding="raw", film_activation=False, camera_distance=1.3, intrinsics_size=128)
"""What the public training (a6o/3d-diffusion-pytorch) makes of SRN cars at 64 pixels, with its quirks: the log-SNR and
the modulation above, and intrinsics that are not scaled with the pictures."""

PAPER = XUNetConfig(size=128, channels=256)
"""The paper's network at 128 pixels."""

TINY = XUNetConfig(
    size=64,
    channels=48,
    channel_multipliers=(1, 2, 3),
    emb_channels=64,
    res_blocks=1,
    attention_levels=(2, 3),
    dropout=0.0,
    groups=16,
    patch=2,
    image_channels=4,
    map_channels=7,
    origin_octaves=4,
    direction_octaves=4,
    turn_to_input=True,
    map_variance=0.1,
    prediction="sample",  # a narrow network has no room to carry the noise through, which the other outputs ask for
    logsnr_min=-15.0,
    logsnr_max=15.0,
)
"""What this project trains and ships: RGBA, conditioned on renders of a coarse shape as well."""

TINY_3DIM = replace(
    TINY,
    channels=96,
    channel_multipliers=(1,),
    res_blocks=2,
    attention_levels=(0, 1),
    patch=8,
    map_channels=0,
    map_variance=0.0,
)
"""With no 3D at all, as 3DiM is published: a picture and two cameras are all that it is given. Every block looks at the
other frame, on 8 x 8 patches: in the same time it learns twice what 32 x 32 with attention below does
(docs/results.md)."""
