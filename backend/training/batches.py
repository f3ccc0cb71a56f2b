"""Batches of episodes on the training device, augmented; the batch of a step depends on the step's number alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.geometry import batched
from backend.training.data.episodes import CUBE_HALF, Dataset
from backend.training.data.feedback import Feedback
from backend.training.data.meshes import GRID_HALF, TRUNCATION

NEAR_DEG = 60.0
"""Between two directions from which much of the same is seen."""


@dataclass
class Batch:
    """Episodes of B objects with V views each, in the episode's frame.

    Attributes:
        images: uint8 [B, V, S, S, 4], straight alpha; view 0 is the input.
        depths: float [B, V, S, S].
        cameras: float [B, V, 4]: elevation, azimuth, distance, field of view.
        placements: float [B, 5].
        mirror: float [B], -1 where the episode is mirrored in x, else 1.
        sdf: float [B, 1, G, G, G] in object units of the object's own frame.
        surface: float [B, P, 3] in the episode's frame.
    """

    images: Tensor
    depths: Tensor
    cameras: Tensor
    placements: Tensor
    mirror: Tensor
    sdf: Tensor
    surface: Tensor
    feedback: Tensor | None = None
    """float [B, V, S, S, 7], see `geometry.feedback`; where it is there, `cameras` are the believed ones."""

    def distance(self, points: Tensor) -> Tensor:
        """True signed distances [B, P], truncated, at points [B, P, 3] of the episode's frame."""
        azimuth, scale, shift = self.placements[:, 0], self.placements[:, 1], self.placements[:, 2:]
        mirrored = points * torch.stack([self.mirror, self.mirror.abs(), self.mirror.abs()], -1)[:, None]
        local = (mirrored - shift[:, None]) @ rotation(azimuth) / scale[:, None, None]
        grid = (local / GRID_HALF).flip(-1)[:, :, None, None]
        value = F.grid_sample(self.sdf, grid, padding_mode="border", align_corners=False)[:, 0, :, 0, 0]
        outside = (local.abs() > GRID_HALF).any(-1)
        return torch.where(outside, torch.full_like(value, TRUNCATION), value) * scale[:, None]


def rotation(azimuth_deg: Tensor) -> Tensor:
    """`Placement.rotation` of a batch, [B, 3, 3]."""
    a = -torch.deg2rad(azimuth_deg)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [torch.stack(r, -1) for r in ((a.cos(), -a.sin(), zero), (a.sin(), a.cos(), zero), (zero, zero, one))]
    return torch.stack(rows, dim=-2)


class FeedbackTensors(NamedTuple):
    """`Feedback` on the training device."""

    rgba: Tensor
    depths: Tensor
    errors: Tensor


class EpisodeTensors:
    """A dataset held on a device as it is stored (uint8, float16), so that a batch is a gather and nothing waits."""

    def __init__(self, dataset: Dataset, device: torch.device | str = "cpu", feedback: Feedback | None = None) -> None:
        def held(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        self.device = torch.device(device)
        self.images, self.depths, self.sdf = held(dataset.images), held(dataset.depths), held(dataset.sdf)
        self.cameras, self.placements = held(dataset.cameras), held(dataset.placements)
        self.surface = held(dataset.surface)
        self.feedback: FeedbackTensors | None = None
        if feedback is not None:
            self.feedback = FeedbackTensors(held(feedback.rgba), held(feedback.depths), held(feedback.errors))

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, size: int, views: int, generator: torch.Generator, *, surface_points: int = 1024, augment: bool = True
    ) -> Batch:
        """Draws a batch of inputs and others of their views; `generator` is a CPU generator, seeded by the step."""
        objects, episodes = self._episodes(size, generator)
        total = self.images.shape[2]
        others = torch.rand(size, total - 1, generator=generator).argsort(1)[:, : views - 1].to(self.device) + 1
        chosen = torch.cat([torch.zeros(size, 1, dtype=torch.long, device=self.device), others], dim=1)
        return self._gather(objects, episodes, chosen, generator, surface_points, augment=augment)

    def pairs(self, size: int, generator: torch.Generator, *, near_share: float = 0.0) -> Batch:
        """Draws a batch of two views each, both any of an episode's.

        Args:
            size: B.
            generator: of the CPU.
            near_share: of the pairs, those whose directions are at most `NEAR_DEG` apart, where there are such.
        """
        objects, episodes = self._episodes(size, generator)
        total = self.images.shape[2]
        first = torch.randint(total, (size,), generator=generator).to(self.device)
        keys = torch.rand(size, total, generator=generator).to(self.device)
        near = (torch.rand(size, 1, generator=generator) < near_share).to(self.device)
        sample = torch.arange(size, device=self.device)
        directions = F.normalize(batched.world_from_camera(self.cameras[objects, episodes])[..., :3, 3], dim=-1)
        cosines = (directions @ directions[sample, first][..., None])[..., 0]
        keys = keys + (~near | (cosines > math.cos(math.radians(NEAR_DEG))))  # an even choice among the fit comes first
        keys[sample, first] = -1
        chosen = torch.stack([first, keys.argmax(1)], dim=1)
        return self._gather(objects, episodes, chosen, generator, surface_points=1, augment=True)

    def _episodes(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # with feedback, only the episodes that have it
        count = self.images.shape[1] if self.feedback is None else self.feedback.rgba.shape[1]
        objects = torch.randint(len(self), (size,), generator=generator).to(self.device)
        return objects, torch.randint(count, (size,), generator=generator).to(self.device)

    def _gather(
        self,
        objects: Tensor,
        episodes: Tensor,
        chosen: Tensor,
        generator: torch.Generator,
        surface_points: int,
        *,
        augment: bool,
    ) -> Batch:
        """The views `chosen` [B, V] of each object's episode."""
        (size, views), b, e = chosen.shape, objects[:, None], episodes[:, None]
        points = torch.randint(self.surface.shape[1], (size, surface_points), generator=generator).to(self.device)
        mirror = torch.ones(size)
        images, depths = self.images[b, e, chosen], self.depths[b, e, chosen]
        cameras = self.cameras[b, e, chosen].clone()
        if self.feedback is not None:  # what is done to the pictures is done to their maps
            images = torch.cat([images, self.feedback.rgba[b, e, chosen]], dim=1)
            depths = torch.cat([depths, self.feedback.depths[b, e, chosen]], dim=1)
            cameras[..., 0] += self.feedback.errors[objects, episodes][:, None]
        if augment:
            mirror = torch.randint(2, (size,), generator=generator) * 2.0 - 1
            images = recolored(images, generator)
        mirror = mirror.to(self.device)
        flip = mirror < 0
        images = torch.where(flip[:, None, None, None, None], images.flip(3), images)
        depths = torch.where(flip[:, None, None, None], depths.flip(3), depths).float()
        cameras[..., 1] *= mirror[:, None]
        feedback = None
        if self.feedback is not None:
            feedback = map_channels(images[:, views:], depths[:, views:], cameras)
            images, depths = images[:, :views], depths[:, :views]
        placements = self.placements[objects, episodes]
        surface = self.surface[b, points].float()
        surface = placements[:, None, 1:2] * surface @ rotation(placements[:, 0]).mT + placements[:, None, 2:]
        surface = surface * torch.stack([mirror, mirror.abs(), mirror.abs()], -1)[:, None]
        sdf = self.sdf[objects][:, None].float() * (TRUNCATION / 127)
        return Batch(images, depths, cameras, placements, mirror, sdf, surface, feedback)

    def first(self, objects: slice, views: int) -> Batch:
        """The first views of the first episode of some objects, as they are."""
        placements = self.placements[objects, 0]
        cameras = self.cameras[objects, 0, :views].clone()
        feedback = None
        if self.feedback is not None:
            cameras[..., 0] += self.feedback.errors[objects, 0][:, None]
            feedback = map_channels(
                self.feedback.rgba[objects, 0, :views], self.feedback.depths[objects, 0, :views].float(), cameras
            )
        return Batch(
            images=self.images[objects, 0, :views],
            depths=self.depths[objects, 0, :views].float(),
            cameras=cameras,
            placements=placements,
            mirror=torch.ones(len(placements), device=self.device),
            sdf=self.sdf[objects][:, None].float() * (TRUNCATION / 127),
            surface=self.surface[objects].float(),
            feedback=feedback,
        )


def map_channels(rgba: Tensor, depths: Tensor, cameras: Tensor) -> Tensor:
    """`geometry.feedback.feedback_maps` of stored renderings: float [..., S, S, 7].

    Args:
        rgba: uint8 [..., S, S, 4].
        depths: float [..., S, S].
        cameras: [..., 4].
    """
    size = depths.shape[-1]
    axis = torch.arange(size, device=depths.device) + 0.5 - size / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    focal = batched.intrinsics(cameras, size)[..., 0, 0, None, None]
    local = torch.stack([x / focal * depths, y / focal * depths, depths], dim=-1)
    pose = batched.world_from_camera(cameras)
    points = torch.einsum("...ij,...hwj->...hwi", pose[..., :3, :3], local) + pose[..., None, None, :3, 3]
    return torch.cat([rgba.float() / 255, points * (depths > 0)[..., None]], dim=-1)


def recolored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random gain, gamma and, for some, another order of the channels; the same for all views of an episode."""
    size = len(images)
    gain = torch.exp(0.15 * torch.randn(size, 1, 1, 1, 3, generator=generator)).to(images.device)
    gamma = torch.exp(0.2 * torch.randn(size, 1, 1, 1, 1, generator=generator)).to(images.device)
    order = torch.stack([torch.randperm(3, generator=generator) for _ in range(size)])
    keep = torch.rand(size, 1, generator=generator) < 0.6
    order = torch.where(keep, torch.arange(3), order).to(images.device)
    rgb = images[..., :3].float() / 255
    rgb = rgb.gather(-1, order[:, None, None, None].expand(rgb.shape))
    rgb = (rgb.pow(gamma) * gain).clamp(0, 1)
    return torch.cat([(rgb * 255).round().to(torch.uint8), images[..., 3:]], dim=-1)


def uniform_points(size: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Points [B, P, 3] spread evenly over the cube."""
    return ((torch.rand(size, count, 3, generator=generator) * 2 - 1) * CUBE_HALF).to(device)
