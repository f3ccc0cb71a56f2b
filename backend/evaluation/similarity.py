"""CLIP similarity between an input picture and renders of what was made of it, as One-2-3-45 measures it (section 4.2).

24 renders of 512 pixels from a distance of 1.5: twelve 30 degrees above the horizon, twelve level with the object.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from backend.generators.zero123.components import load_image_encoder
from backend.generators.zero123.pose import FOV_DEG
from backend.generators.zero123.preprocessing import CLIP_MEAN, CLIP_STD
from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh
from backend.geometry.render import Light, prepare, render
from backend.weights.store import catalogue, is_present, weights_folder

Similarity = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""From a picture, uint8 [S, S, 4], and renders, uint8 [N, S, S, 4], to their mean similarity."""

RENDER_SIZE = 512
ELEVATIONS_DEG = (30.0, 0.0)
AZIMUTHS_DEG = tuple(30.0 * k for k in range(12))
ENCODER_LAYOUTS = ("zero123", "video")
"""Of stored weights, see `STORED`: those with a CLIP's image encoder, in the order in which they are looked for."""

DISTANCE = 1.5
"""In units in which the object's farthest vertex is at 0.5."""


def ring_cameras() -> tuple[Camera, ...]:
    """The 24 cameras; their field of view is that of Zero123's training pictures."""
    return tuple(Camera(e, a, DISTANCE, FOV_DEG) for e in ELEVATIONS_DEG for a in AZIMUTHS_DEG)


def ring_renders(mesh: Mesh, light: Light | None = None, size: int = RENDER_SIZE) -> NDArray[np.uint8]:
    """uint8 [24, size, size, 4] of a mesh in the unit of `DISTANCE`, lit or in its bare colours."""
    scene = prepare(mesh)
    return np.stack([render(scene, camera, size, light).rgba for camera in ring_cameras()])


class ClipSimilarity:
    """A `Similarity`: cosines of the embeddings that a CLIP gives to pictures on white.

    Args:
        folder: a `CLIPVisionModelWithProjection`, or a whole CLIP: config.json and weights.
        device: torch device.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, `weights.mismatch`.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.encoder = load_image_encoder(folder).to(self.device)

    def __call__(self, picture: NDArray[np.uint8], renders: NDArray[np.uint8]) -> float:
        """Mean over the renders, -1 to 1."""
        return float((self._embed(renders) @ self._embed(picture[None])[0]).mean())

    @torch.inference_mode()
    def _embed(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Unit vectors [N, E] of pictures [N, S, S, 4], prepared as CLIP was trained on them."""
        size = self.encoder.config.image_size
        rgba = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
        x = F.interpolate(white, (size, size), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        return F.normalize(self.encoder((x - mean) / std).image_embeds.float(), dim=-1)


def installed_encoder() -> Path | None:
    """The image encoder of the first model that is installed with one, Zero123's before Stable Video Diffusion's.

    Zero123's is the CLIP ViT-L/14, Stable Video Diffusion's the larger ViT-H/14, whose similarities are others.
    """
    known = catalogue()
    entries = (entry for layout in ENCODER_LAYOUTS for entry in known if entry.layout == layout and is_present(entry))
    return next((weights_folder(entry) / "image_encoder" for entry in entries), None)
