"""Every number that tells one LGM from another; what is published and what ships differ by this alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from backend.geometry.gaussians.render import Splatting
from backend.preparation.framing import DEFAULT_FOV_DEG, HALF_WIDTH


@dataclass(frozen=True)
class LGMConfig:
    """Shape and conventions of one LGM (Tang et al. 2024, "LGM: Large Multi-View Gaussian Model").

    The defaults are those of the published checkpoint.

    Attributes:
        input_size: side of the pictures that the network looks at, in pixels.
        down_channels: of the levels on the way down, finest first; each level has half the resolution of the one
            before.
        down_attention: which of them attend across the views.
        middle_attention: whether the middle does.
        up_channels: of the levels on the way up, coarsest first. There may be fewer: the Gaussians lie on the grid
            of the last.
        up_attention: which of them attend across the views.
        layers: residual blocks per level on the way down; one more on the way up.
        heads: attention heads.
        groups: of the group normalisation.
        time_channels: of the timestep's sinusoids; 0 is a network that is not told how noisy its views are.
        views: which of the pictures it is given are looked at; the first is the one that gives the frame.
        cameras: how many pictures make a round, `views` among them.
        radius: distance of the cameras from the origin in the network's units.
        fov_deg: field of view of the cameras.
        positions: "absolute" coordinates, clamped to the cube [-1, 1]^3 (published); or on the "ray" of the
            Gaussian's own pixel, at the depth of the origin but for what the network adds, and near it sideways.
        depth_reach: how far along the ray a Gaussian can move, in the network's units ("ray" only).
        lateral_reach: how far beside the ray it can move ("ray" only).
        scale: factor of the Gaussians' sizes, in the network's units.
        rotation: normalise "each" quaternion; or, as the first published weights do by mistake, each component over
            "all" Gaussians, so that the quaternions nearly vanish and a rasteriser that takes them as they are sees
            unrotated Gaussians.
        alpha_cap: the most that one Gaussian covers of a pixel, in the rasteriser of the training.
        coordinate_map: what the reconstruction is fed back as beside its colours, see `ccm`.
    """

    input_size: int = 256
    down_channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024)
    down_attention: tuple[bool, ...] = (False, False, False, True, True, True)
    middle_attention: bool = True
    up_channels: tuple[int, ...] = (1024, 1024, 512, 256, 128)
    up_attention: tuple[bool, ...] = (True, True, True, False, False)
    layers: int = 2
    heads: int = 16
    groups: int = 32
    time_channels: int = 0
    views: tuple[int, ...] = (0, 1, 2, 3)
    cameras: int = 4
    radius: float = 1.5
    fov_deg: float = 49.1
    positions: Literal["absolute", "ray"] = "absolute"
    depth_reach: float = 0.75
    lateral_reach: float = 0.05
    scale: float = 0.1
    rotation: Literal["each", "all"] = "each"
    alpha_cap: float = 0.99
    coordinate_map: Literal["published", "object"] = "published"

    def __post_init__(self) -> None:
        channels = (*self.down_channels, *self.up_channels)
        if len(self.down_attention) != len(self.down_channels) or len(self.up_attention) != len(self.up_channels):
            raise ValueError("attention is to be given for every level")
        if not 0 < len(self.up_channels) <= len(self.down_channels):
            raise ValueError(f"{len(self.up_channels)} levels up after {len(self.down_channels)} levels down")
        if any(c <= 0 or c % self.groups or c % self.heads for c in channels):
            raise ValueError(f"channels {channels} do not divide into {self.groups} groups and {self.heads} heads")
        if self.input_size % 2 ** (len(self.down_channels) - 1) or self.input_size <= 0:
            raise ValueError(f"size {self.input_size} cannot be halved {len(self.down_channels) - 1} times")
        if self.time_channels % 2 or self.layers < 1:
            raise ValueError(f"{self.time_channels} time channels, {self.layers} layers")
        if not self.views or not set(self.views) <= set(range(self.cameras)):
            raise ValueError(f"views {self.views} are not among {self.cameras}")

    @property
    def output_size(self) -> int:
        """Side of the grid of Gaussians that each view gives."""
        return self.input_size >> (len(self.down_channels) - len(self.up_channels))

    @property
    def count(self) -> int:
        """Gaussians in all."""
        return len(self.views) * self.output_size**2

    @property
    def splatting(self) -> Splatting:
        """How the network's own Gaussians are drawn."""
        return Splatting(alpha_cap=self.alpha_cap, normalise=self.rotation == "each")


PUBLISHED_LGM_FIXED = LGMConfig()
"""`model_fp16_fixrot`, the original LGM with its rotations mended."""

PUBLISHED_LGM = replace(PUBLISHED_LGM_FIXED, rotation="all")
"""`model_fp16`, the original LGM as first published."""

OUROBOROS3D = replace(
    PUBLISHED_LGM,
    time_channels=128,
    views=(0, 2, 4, 6),
    cameras=8,
    radius=1.7416968,
    fov_deg=2 * math.degrees(math.atan(0.36)),
)
"""`recon_model` of Ouroboros3D (Wen et al. 2024), which started from `model_fp16`."""

TINY = LGMConfig(
    input_size=64,
    down_channels=(16, 32, 64, 112),
    down_attention=(False, False, True, True),
    up_channels=(112, 64, 32),
    up_attention=(True, True, False),
    layers=1,
    heads=2,
    groups=16,
    time_channels=32,
    views=(0, 2, 4, 6),
    cameras=8,
    radius=HALF_WIDTH / math.tan(math.radians(DEFAULT_FOV_DEG) / 2),  # a framed picture's, so that units are ours
    fov_deg=DEFAULT_FOV_DEG,
    positions="ray",
    alpha_cap=0.999,
    coordinate_map="object",
)
"""What this project trains and ships: 4,096 Gaussians from pictures of 64 pixels."""
