"""Sizes of the reconstructor. What is published and what is ours differ by these numbers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SparseNeuSConfig:
    """Everything that shapes the network.

    Attributes:
        image_channels: 3 is RGB on white (published); 4 is premultiplied RGB and alpha.
        feature_channels: of the pyramid's levels, finest first; each level halves the resolution.
        pyramid_channels: width of the top-down path.
        compress_channels: of the map that is back-projected into the volume.
        norm: "batch" normalises by the statistics of the batch, at inference too, as the released results do;
            "running" by those that training has gathered; "group" by each sample's own. With the latter two an output
            does not depend on what is computed beside it.
        volume_resolution: lattice points along each side of the cube [-1, 1]^3.
        min_views: a lattice point takes part if at least this many views see it.
        regularizer_channels: of the 3D U-Net's levels, finest first.
        reference_features: the first view's features stand beside mean and variance, so that the input picture is
            not averaged away by drawn ones.
        positional_volume: lattice coordinates, the reference camera's coordinates and the share of views that see
            the point are inputs of the 3D U-Net. From one view every point of a ray has the same features; this is
            what tells them apart.
        global_code: the reference view's deepest features, pooled, reach the bottom of the 3D U-Net.
        sdf_hidden: width of the signed distance MLP.
        sdf_frequencies: octaves of its positional encoding.
        frame: where the cube lies: "cube" about the origin of the caller's frame; "frusta", as published, in the first
            camera, about all that any camera sees (see `frame.py`).
        cube_half: half the side of a "cube" in the units of the caller's frame.
        image_size: side of the pictures that the network was trained on.
    """

    image_channels: int = 3
    feature_channels: tuple[int, ...] = (8, 16, 32)
    pyramid_channels: int = 32
    compress_channels: int = 16
    norm: Literal["batch", "running", "group"] = "batch"
    volume_resolution: int = 96
    min_views: int = 2
    regularizer_channels: tuple[int, ...] = (16, 16, 32, 64)
    reference_features: bool = False
    positional_volume: bool = False
    global_code: bool = False
    sdf_hidden: int = 128
    sdf_frequencies: int = 6
    frame: Literal["cube", "frusta"] = "cube"
    cube_half: float = 1.0
    image_size: int = 256

    @property
    def fused_channels(self) -> int:
        """Channels of the pyramid's levels brought to full resolution and concatenated."""
        return self.pyramid_channels + sum(self.feature_channels[:-1])

    @property
    def volume_channels(self) -> int:
        """Channels of the cost volume."""
        return self.compress_channels * (3 if self.reference_features else 2) + 7 * self.positional_volume


PUBLISHED = SparseNeuSConfig(frame="frusta")

TINY = SparseNeuSConfig(
    image_channels=4,
    feature_channels=(24, 48, 96, 192),
    pyramid_channels=48,
    compress_channels=8,
    norm="group",
    volume_resolution=32,
    min_views=1,
    regularizer_channels=(24, 48, 96, 192),
    reference_features=True,
    positional_volume=True,
    global_code=True,
    sdf_hidden=64,
    cube_half=0.6,
    image_size=64,
)
