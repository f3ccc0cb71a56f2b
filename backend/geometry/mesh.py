"""The coloured mesh and the set of views: what pipelines hand around."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour per vertex, in the object frame.

    Attributes:
        vertices: float32 [N, 3].
        faces: int32 [M, 3], counter-clockwise seen from outside.
        colors: uint8 [N, 4], sRGB with alpha.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    colors: NDArray[np.uint8]


@dataclass(frozen=True)
class ViewSet:
    """Pictures of one object and where they were taken from.

    Attributes:
        images: uint8 [V, H, W, 4], straight-alpha sRGB, top row first, H == W.
        cameras: one per picture.
    """

    images: NDArray[np.uint8]
    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[-1] != 4 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 [V, H, W, 4], not {self.images.dtype} {self.images.shape}")
        if len(self.cameras) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(self.cameras)} cameras")

    def __len__(self) -> int:
        return len(self.cameras)

    def __add__(self, other: ViewSet) -> ViewSet:
        return ViewSet(np.concatenate([self.images, other.images]), self.cameras + other.cameras)
