"""Batches of whole orbits: the views that are drawn together, and a few from elsewhere to judge the shape by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.geometry import batched
from backend.training.batches import recolored
from backend.training.data.episodes import Dataset, OrbitSpec


@dataclass
class OrbitBatch:
    """Episodes of B objects with V views each, the first of them the orbit's.

    Attributes:
        images: uint8 [B, V, S, S, 4], straight alpha; view 0 is the input.
        depths: float [B, V, S, S], along the view axis, 0 where there is nothing.
        cameras: float [B, V, 4]: elevation, azimuth, distance, field of view.
    """

    images: Tensor
    depths: Tensor
    cameras: Tensor

    @property
    def pictures(self) -> Tensor:
        """[B, V, 3, S, S] in 0..1 on white."""
        values = self.images.movedim(-1, 2).float() / 255
        return values[:, :, :3] * values[:, :, 3:] + 1 - values[:, :, 3:]

    @property
    def world_from_camera(self) -> Tensor:
        """[B, V, 4, 4] in the frame of the input's camera, see `geometry.batched.canonicalised`."""
        with torch.autocast(self.cameras.device.type, enabled=False):  # poses are no matter for half precision
            return batched.canonicalised(batched.world_from_camera(self.cameras))

    @property
    def intrinsics(self) -> Tensor:
        """[B, V, 3, 3] of pictures that are one unit wide and high."""
        return batched.intrinsics(self.cameras, 1)


def mirrorable(azimuths_deg: Sequence[float]) -> tuple[float, ...]:
    """The orbit's azimuths and, after them, those that it lacks to be an orbit in the mirror as well."""
    turned = [(360.0 - azimuth) % 360.0 for azimuth in azimuths_deg]
    return (*azimuths_deg, *(azimuth for azimuth in turned if azimuth not in azimuths_deg))


class OrbitTensors:
    """A dataset of `OrbitSpec` held on a device as it is stored.

    Args:
        dataset: rendered with `mirrorable` azimuths.
        spec: that it was rendered with.
        azimuths_deg: of the orbit.
        device: torch device.
    """

    def __init__(
        self, dataset: Dataset, spec: OrbitSpec, azimuths_deg: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        def held(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        self.device = torch.device(device)
        self.images, self.depths, self.cameras = held(dataset.images), held(dataset.depths), held(dataset.cameras)
        azimuths = list(spec.azimuths_deg)
        self.plain = [azimuths.index(azimuth) for azimuth in azimuths_deg]
        self.mirrored = [azimuths.index((360.0 - azimuth) % 360.0) for azimuth in azimuths_deg]
        self.others = list(range(len(azimuths), self.images.shape[2]))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def frames(self) -> int:
        """Views of the orbit."""
        return len(self.plain)

    def batch(self, size: int, generator: torch.Generator, *, augment: bool = True) -> OrbitBatch:
        """Draws a batch; `generator` is a CPU generator, seeded by the step."""
        objects = torch.randint(len(self), (size, 1), generator=generator)
        episodes = torch.randint(self.images.shape[1], (size, 1), generator=generator)
        flip = torch.randint(2, (size,), generator=generator).bool() & augment
        orders = torch.tensor([self.plain + self.others, self.mirrored + self.others])
        chosen = orders[flip.long()].to(self.device)
        b, e, flip = objects.to(self.device), episodes.to(self.device), flip.to(self.device)
        images, depths, cameras = self.images[b, e, chosen], self.depths[b, e, chosen], self.cameras[b, e, chosen]
        if augment:
            images = recolored(images, generator)
        images = torch.where(flip[:, None, None, None, None], images.flip(3), images)
        depths = torch.where(flip[:, None, None, None], depths.flip(3), depths).float()
        cameras[..., 1] = torch.where(flip[:, None], -cameras[..., 1], cameras[..., 1])
        return OrbitBatch(images, depths, cameras)

    def first(self, objects: slice) -> OrbitBatch:
        """The first episode of some objects, as it is."""
        chosen = self.plain + self.others
        return OrbitBatch(
            self.images[objects, 0][:, chosen],
            self.depths[objects, 0][:, chosen].float(),
            self.cameras[objects, 0][:, chosen],
        )
