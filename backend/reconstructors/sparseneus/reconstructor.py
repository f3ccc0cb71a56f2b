"""SparseNeuS on one set of weights: views in, a signed distance field out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress
from backend.reconstructors.sparseneus.adapter import network_images
from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.frame import Frame, cube_frame, fitted_frame, frusta_frame
from backend.reconstructors.sparseneus.network import Conditional, Sources, SparseNeuS
from backend.reconstructors.sparseneus.sdf import lookup
from backend.weights.store import load_into, read_typed_config
from protocol.errors import TurnaroundError

F32 = NDArray[np.float32]

DISTANCE_CHUNK = {"cpu": 1 << 13}
"""Points whose distances are computed at once; on a CPU few enough that what lies between the layers stays cached."""

BLEND_CHUNK = {"cpu": 1 << 14}
"""The same for colours, counted in points times views."""

LARGE_CHUNK = 1 << 19
"""Either on any other device."""

OUTSIDE = 1.0
"""Distance, in unit coordinates, of points that too few views see."""

EDGE = 1 - 1e-4
"""The lookup is empty on the cube's own faces: coordinates go no further than this."""


@dataclass(frozen=True)
class SdfField:
    """A regularised volume and the network that reads it; the volume is all that has to be kept.

    Where too few views look, and beyond the cube, all is outside: the published code asks its network there too and
    gets stray sheets.

    Attributes:
        network: shared with the reconstructor.
        volume: [1, C, R, R, R].
        mask: active points [1, 1, R, R, R].
        frame: where the cube lies in the object frame.
        half: the shape lies within [-half, half]^3 of the object frame.
    """

    network: SparseNeuS
    volume: Tensor
    mask: Tensor
    frame: Frame
    half: float

    def distance(self, points: F32) -> F32:
        """Signed distance [N] in object units at points [N, 3] of the object frame; large where no view looks."""
        return self.unit_distance(self.frame.to_unit(points)) * np.float32(self.frame.scale)

    @torch.inference_mode()
    def unit_distance(self, points: F32) -> F32:
        """The same in unit coordinates, in which the network's cube is [-1, 1]^3."""
        device, result = self.volume.device, np.empty(len(points), np.float32)
        step = DISTANCE_CHUNK.get(device.type, LARGE_CHUNK)
        for start in range(0, len(points), step):
            chunk = slice(start, start + step)
            x = torch.from_numpy(points[chunk]).to(device, torch.float32)[None]
            inside = x.clamp(-EDGE, EDGE)
            distance = self.network.sdf_network_lod0.sdf_layer.distance(inside, lookup(self.volume, inside))
            grid = inside.flip(-1)[:, :, None, None]
            active = F.grid_sample(self.mask, grid, mode="nearest", align_corners=True)[0, 0, :, 0, 0] > 0
            active &= (x[0].abs() < 1 + 1e-5).all(-1)
            result[chunk] = distance[0].masked_fill(~active, OUTSIDE).float().cpu().numpy()
        return result

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For the stage cache; the volume in the precision that it was computed in."""
        exact = self.network.config.norm != "group"
        volume = self.volume if exact else self.volume.half()
        return {
            "volume": volume.contiguous().cpu().numpy(),
            "mask": self.mask.to(torch.uint8).cpu().numpy(),
            "object_from_unit": self.frame.object_from_unit,
            "half": np.array(self.half),
        }


def load_sparseneus(path: Path) -> SparseNeuS:
    """The network of a weights file, in float32, on the CPU.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, or `weights.mismatch`, whose details name each key.
    """
    network = SparseNeuS(read_typed_config(path, SparseNeuSConfig, "a SparseNeuS"))
    load_into(network, path)
    return network


class SparseNeuSReconstructor:
    """A `Reconstructor` on one set of weights, ours or the published ones.

    Args:
        weights: safetensors with the network's config; or a network.
        device: torch device.
        fitted: spend the published cube's resolution on the object, and not on all that the cameras see.
        input_is_source: whether the first view, which gives the published frame, is also looked at. The published code
            looks at the drawn views alone; our own weights always look at it.

    Raises:
        TurnaroundError: the weights are missing, damaged, or of another network.
    """

    def __init__(
        self, weights: Path | SparseNeuS, device: str = "cpu", *, fitted: bool = False, input_is_source: bool = False
    ) -> None:
        self.network = load_sparseneus(weights) if isinstance(weights, Path) else weights
        self.device = torch.device(device)
        self.fitted = fitted
        self.input_is_source = input_is_source or self.config.frame == "cube"
        self.network.eval().to(self.device).channels_last()
        self._looked: tuple[ViewSet, Frame, Sources] | None = None

    @property
    def config(self) -> SparseNeuSConfig:
        """The network's."""
        return self.network.config

    def reconstruct(self, views: ViewSet, *, progress: Progress) -> SdfField:
        """The shape that the views show; the first is the reference, pictures of any size are resampled.

        Raises:
            TurnaroundError: `views.few`, no point can be seen by as many views as the weights need.
        """
        progress.step(0, 1)
        frame = self.frame(views)
        sources = self.look(views, frame)
        with torch.inference_mode(), self._autocast():
            conditional = self.network.build(sources)
        progress.step(1, 1)
        volume = conditional.volume.float().contiguous(memory_format=torch.channels_last_3d)
        return SdfField(self.network, volume, conditional.mask.float(), frame, self._half(views.cameras))

    def frame(self, views: ViewSet) -> Frame:
        """Where the weights' cube lies for these views."""
        if self.config.frame == "cube":
            return cube_frame(self.config.cube_half)
        return fitted_frame(views) if self.fitted else frusta_frame(views.cameras)

    def blend(self, views: ViewSet, field: SdfField, points: F32, normals: F32) -> F32:
        """Colours [N, 3] in 0..1 that the blending network gives surface points from the field's views.

        Args:
            views: those that the field was made from; their features are at hand if it was made just before.
            field: from `reconstruct`.
            points: [N, 3] in the object frame.
            normals: unit [N, 3], outward.
        """
        if not len(points):
            return np.empty((0, 3), np.float32)
        sources = self.look(views, field.frame)
        sources = replace(sources, fused=sources.fused.float())  # here once, and not again for every chunk
        conditional = Conditional(field.volume, field.mask, sources)
        step = BLEND_CHUNK.get(self.device.type, LARGE_CHUNK) // sources.centers.shape[1]
        positions = torch.from_numpy(field.frame.to_unit(points)).to(self.device).split(step)
        outward = torch.from_numpy(field.frame.directions_to_unit(normals)).to(self.device).split(step)
        with torch.inference_mode(), self._autocast():
            parts = [
                self.network.colors(x[None], n[None], conditional)[0].float()
                for x, n in zip(positions, outward, strict=True)
            ]
        return torch.cat(parts).cpu().numpy()

    def look(self, views: ViewSet, frame: Frame) -> Sources:
        """The features of the views, kept until others are looked at."""
        if self._looked is not None and _same(self._looked[0], self._looked[1], views, frame):
            return self._looked[2]
        self._looked = None  # its memory is needed now
        first = 0 if self.input_is_source else 1
        cameras, images = views.cameras[first:], views.images[first:]
        if len(cameras) < self.config.min_views:
            raise TurnaroundError(
                "views.few",
                f"These weights need {self.config.min_views} views to build a shape from, not {len(cameras)}.",
                "Ask for more views.",
            )
        size = self.config.image_size
        projections = np.stack([frame.image_from_unit(camera, size) for camera in cameras])
        centers = np.stack([frame.center(camera) for camera in cameras])
        pictures = torch.from_numpy(np.stack([resampled(image, size) for image in images])).to(self.device)
        with torch.inference_mode(), self._autocast():
            sources = self.network.look(
                network_images(pictures[None], self.config), self._tensor(projections), self._tensor(centers)
            )
        self._looked = (views, frame, sources)
        return sources

    def forget(self) -> None:
        """Lets go of the features that are kept."""
        self._looked = None

    def _tensor(self, array: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(array).to(self.device, torch.float32)[None]

    def _half(self, cameras: Sequence[Camera]) -> float:
        """What all published cameras see of the axes through the origin; the cube's own half for our weights."""
        if self.config.frame == "cube":
            return self.config.cube_half
        return max(camera.distance * float(np.tan(np.radians(camera.fov_deg) / 2)) for camera in cameras)

    def _autocast(self) -> torch.autocast | nullcontext:
        if self.config.norm != "group":  # as published: statistics over all views do not bear half precision
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.device.type == "cpu" else torch.float16)

    def restored(self, arrays: dict[str, NDArray[Any]]) -> SdfField:
        """The field whose `arrays` these are."""
        volume = torch.from_numpy(arrays["volume"]).to(self.device, torch.float32)
        volume = volume.contiguous(memory_format=torch.channels_last_3d)
        mask = torch.from_numpy(arrays["mask"]).to(self.device, torch.float32)
        if self.config.frame == "cube":
            return SdfField(self.network, volume, mask, cube_frame(self.config.cube_half), self.config.cube_half)
        frame = Frame(arrays["object_from_unit"], centered_pixels=False)
        return SdfField(self.network, volume, mask, frame, float(arrays["half"]))


def _same(views: ViewSet, frame: Frame, others: ViewSet, other: Frame) -> bool:
    return (
        views.cameras == others.cameras
        and np.allclose(frame.object_from_unit, other.object_from_unit)
        and np.array_equal(views.images, others.images)
    )


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
