"""SparseNeuS on one set of weights: views in, a signed distance field out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.geometry.batched import camera_tensor
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress
from backend.reconstructors.sparseneus.adapter import network_images, unit_projections
from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.network import Conditional, SparseNeuS
from backend.reconstructors.sparseneus.sdf import lookup
from backend.weights.store import load_into, read_config

BLEND_CHUNK = 16_384
"""Points whose colours are blended at once."""

OUTSIDE = 1.0
"""Distance, in unit coordinates, of points that too few views see."""


@dataclass(frozen=True)
class SdfField:
    """A regularised volume and the network that reads it; the volume is all that has to be kept.

    Attributes:
        network: shared with the reconstructor.
        volume: [1, C, R, R, R].
        mask: active points [1, 1, R, R, R].
        half: half the cube's side in object units.
    """

    network: SparseNeuS
    volume: Tensor
    mask: Tensor
    half: float

    @torch.inference_mode()
    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Signed distance [N] in object units at points [N, 3]; large where no view looks."""
        limit = 1 - 1e-4  # the lookup is empty on the cube's own faces
        x = torch.from_numpy(points / self.half).to(self.volume.device, torch.float32).clamp(-limit, limit)[None]
        latent = lookup(self.volume, x)
        distance, _ = self.network.sdf_network_lod0.sdf_layer(x, latent)
        grid = x.flip(-1)[:, :, None, None]
        active = torch.nn.functional.grid_sample(self.mask, grid, mode="nearest", align_corners=True)[0, 0, :, 0, 0]
        value = torch.where(active > 0, distance[0, :, 0], torch.full_like(active, OUTSIDE))
        return (value * self.half).float().cpu().numpy()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For the stage cache."""
        return {"volume": self.volume.half().cpu().numpy(), "mask": self.mask.to(torch.uint8).cpu().numpy()}


class SparseNeuSReconstructor:
    """A `Reconstructor` on one set of weights.

    Args:
        weights: safetensors with the network's config.
        device: torch device.

    Raises:
        TurnaroundError: the weights are missing, damaged, or of another network.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self.config = msgspec.convert(read_config(weights), SparseNeuSConfig)
        self.device = torch.device(device)
        self.network = SparseNeuS(self.config)
        load_into(self.network, weights)
        self.network.eval().to(self.device).channels_last()

    def reconstruct(self, views: ViewSet, *, progress: Progress) -> SdfField:
        """The shape that the views show; the first is the reference, pictures of any size are resampled."""
        progress.step(0, 1)
        conditional = self._look(views)
        progress.step(1, 1)
        return SdfField(self.network, conditional.volume.float(), conditional.mask.float(), self.config.cube_half)

    def blend(
        self, views: ViewSet, field: SdfField, points: NDArray[np.float32], normals: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Colours [N, 3] in 0..1 that the blending network gives surface points from the field's views.

        Args:
            views: those that the field was made from.
            field: from `reconstruct`.
            points: [N, 3] in the object frame.
            normals: unit [N, 3], outward.
        """
        conditional = replace(self._look(views), volume=field.volume, mask=field.mask)
        colors = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(points), BLEND_CHUNK):
                chunk = slice(start, start + BLEND_CHUNK)
                x = torch.from_numpy(points[chunk] / self.config.cube_half).to(self.device, torch.float32)
                n = torch.from_numpy(normals[chunk]).to(self.device, torch.float32)
                colors.append(self.network.colors(x[None], n[None], conditional)[0].float().cpu().numpy())
        return np.concatenate(colors) if colors else np.zeros((0, 3), np.float32)

    @torch.inference_mode()
    def _look(self, views: ViewSet) -> Conditional:
        size = self.config.image_size
        images = np.stack([resampled(image, size) for image in views.images])
        cameras = camera_tensor(views.cameras).to(self.device)[None]
        projections, centers = unit_projections(cameras, self.config)
        pictures = network_images(torch.from_numpy(images).to(self.device)[None], self.config)
        with self._autocast():
            return self.network.condition(pictures, projections, centers)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16 if self.device.type == "cpu" else torch.float16)

    def restored(self, arrays: dict[str, NDArray[Any]]) -> SdfField:
        """The field whose `arrays` these are."""
        volume = torch.from_numpy(arrays["volume"]).to(self.device, torch.float32)
        mask = torch.from_numpy(arrays["mask"]).to(self.device, torch.float32)
        return SdfField(self.network, volume, mask, self.config.cube_half)


def resampled(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A straight-alpha picture at another size, without colour bleeding in from where it is transparent."""
    if len(image) == size:
        return image
    x = image.astype(np.float32) / 255
    x[..., :3] *= x[..., 3:]
    kernel = cv2.INTER_AREA if size < len(image) else cv2.INTER_LINEAR
    x = np.asarray(cv2.resize(x, (size, size), interpolation=kernel), np.float32)
    x[..., :3] /= np.maximum(x[..., 3:], 1e-4)
    return np.round(x.clip(0, 1) * 255).astype(np.uint8)
