"""A coloured field without view dependence, fitted to posed views: what the 3D consistency score is measured with.

Density and colour of a cube on a dense grid, trilinearly interpolated, drawn by volume rendering on white and fitted
by gradient descent: coarse grid first, with a penalty on differences between neighbours. That is a Plenoxel
(Fridovich-Keil et al. 2022) whose colour is the same from all sides. At the size of these pictures it converges in
seconds on one CPU core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.geometry.cameras import Camera, rays
from backend.geometry.mesh import ViewSet

HALF = 0.6
"""The field fills [-HALF, HALF]^3 of the object frame; what lies beyond is empty, and white."""

DENSITY, SHIFT = 25.0, -4.0
"""Density per object unit is DENSITY * softplus(value + SHIFT), so that a grid of zeros is nearly transparent."""

OCCUPIED_ALPHA = 0.01
"""Opacity of one step below which a cell, with all its neighbours, is not looked at any more."""

LOOK_AGAIN = 50
"""Steps of descent after which the occupied cells are found anew."""


@dataclass(frozen=True)
class Level:
    """One grid of a fit.

    Attributes:
        cells: along a side of the cube.
        steps: of gradient descent.
    """

    cells: int
    steps: int


@dataclass(frozen=True)
class FieldSpec:
    """How a field is fitted; the same for all that is compared.

    Attributes:
        levels: from coarse to fine; each starts from what the one before has found.
        rays: drawn at a step.
        learning_rate: Adam's, for the grid's values; falls to a tenth within a level.
        smoothness: weight of the mean squared difference between neighbours on the grid.
    """

    levels: tuple[Level, ...] = (Level(24, 100), Level(48, 200))
    rays: int = 4096
    learning_rate: float = 0.2
    smoothness: float = 1e-3


SPEC = FieldSpec()
"""What scores that are reported are measured with."""


@dataclass
class ColorField:
    """Density and colour in the cube.

    Attributes:
        values: float32 [1, 4, G + 1, G + 1, G + 1], axes z, y, x: density and RGB before their activations, at the
            corners of G^3 cells.
        occupied: bool [G, G, G], axes z, y, x: the cells that are looked at; None looks at all.
    """

    values: Tensor
    occupied: Tensor | None = None

    @property
    def step(self) -> float:
        """Side of a cell, and distance between samples along a ray."""
        return 2 * HALF / (self.values.shape[-1] - 1)

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N], per object unit, and RGB [N, 3] in 0..1 at points [N, 3] of the object frame."""
        grid = (points / HALF).view(1, 1, 1, -1, 3)
        raw = F.grid_sample(self.values, grid, align_corners=True).view(4, -1)
        return _density(raw[0]), torch.sigmoid(raw[1:].T)

    def look(self, origins: Tensor, directions: Tensor, shift: Tensor | float = 0.5) -> Tensor:
        """RGB [R, 3] on white along rays.

        Args:
            origins, directions: [R, 3]; directions are unit vectors.
            shift: where in its step each ray [R] is sampled, 0..1.
        """
        near, far = _crossing(origins, directions)
        count = max(1, int(((far - near).max() / self.step).ceil()))
        first = near + self.step * torch.as_tensor(shift, device=near.device)
        depths = first[:, None] + self.step * torch.arange(count, device=near.device)
        points = origins[:, None] + depths[..., None] * directions[:, None]
        seen = self._seen(points, depths < far[:, None])
        density, color = self.at(points.view(-1, 3)[seen])
        optical = torch.zeros(depths.numel(), device=near.device).index_put((seen,), density * self.step)
        # what is left of the light after each sample, and so what each sample adds (Mildenhall et al. 2020, eq. 3)
        after = torch.exp(-optical.view_as(depths).cumsum(1))
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
        weights = (before - after).view(-1)[seen]
        rgb = torch.zeros_like(origins).index_add(0, seen // count, weights[:, None] * color)
        return rgb + after[:, -1:]

    def draw(self, cameras: Sequence[Camera], size: int) -> NDArray[np.uint8]:
        """Opaque pictures uint8 [V, size, size, 4] on white."""
        pictures = []
        with torch.inference_mode():
            for camera in cameras:
                origins, directions = (x.to(self.values.device) for x in _rays([camera], size))
                rgb = self.look(origins, directions).clamp(0, 1).view(size, size, 3)
                pictures.append(F.pad((255 * rgb).round().to(torch.uint8), (0, 1), value=255).cpu().numpy())
        return np.stack(pictures)

    def finer(self, cells: int) -> ColorField:
        """The same on a grid of `cells`^3, of which only what is occupied is looked at."""
        values = F.interpolate(self.values, size=(cells + 1,) * 3, mode="trilinear", align_corners=True)
        return ColorField(values, ColorField(values).found())

    @torch.no_grad()
    def found(self) -> Tensor:
        """Where there is anything, or a neighbour of it: bool [G, G, G]."""
        alpha = 1 - torch.exp(-self.step * _density(self.values[:, :1]))
        around = F.max_pool3d(F.max_pool3d(alpha, kernel_size=2, stride=1), kernel_size=3, stride=1, padding=1)
        return around[0, 0] > OCCUPIED_ALPHA

    def _seen(self, points: Tensor, inside: Tensor) -> Tensor:
        """Places [M] in the flattened samples [R, K] of those that are inside and occupied."""
        if self.occupied is not None:
            cells = len(self.occupied)
            x, y, z = ((points + HALF) / self.step).long().clamp(0, cells - 1).unbind(-1)
            inside = inside & self.occupied[z, y, x]
        return inside.view(-1).nonzero()[:, 0]


def fit_field(views: ViewSet, spec: FieldSpec = SPEC, *, seed: int = 0, device: str = "cpu") -> ColorField:
    """The field that explains views best, as they look on white.

    Args:
        views: of one object within the cube.
        spec: how it is fitted.
        seed: of the rays that each step draws; on a CPU the same seed gives the same field.
        device: torch device.
    """
    random = torch.Generator().manual_seed(seed)
    origins, directions, colors = (x.to(device) for x in _seen_rays(views))
    field = ColorField(torch.zeros(1, 4, *(3 * (spec.levels[0].cells + 1,)), device=device))
    for number, level in enumerate(spec.levels):
        if number:
            field = field.finer(level.cells)
        values = field.values.requires_grad_(True)
        optimizer = torch.optim.Adam([values], lr=spec.learning_rate, betas=(0.9, 0.99), eps=1e-12)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / level.steps))
        for step in range(level.steps):
            if step and step % LOOK_AGAIN == 0:
                field.occupied = field.found()
            chosen = torch.randint(len(origins), (spec.rays,), generator=random).to(device)
            shift = torch.rand(spec.rays, generator=random).to(device)
            seen = field.look(origins[chosen], directions[chosen], shift)
            loss = F.mse_loss(seen, colors[chosen]) + spec.smoothness * _roughness(values)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        field = ColorField(values.detach())
    return ColorField(field.values, field.found())


def _density(raw: Tensor) -> Tensor:
    return DENSITY * F.softplus(raw + SHIFT)


def _roughness(values: Tensor) -> Tensor:
    """Mean squared difference between neighbours, of density and of colour, added over the axes."""
    differences = [values.diff(dim=axis).square() for axis in (2, 3, 4)]
    return torch.stack([part.mean() for d in differences for part in (d[:, :1], d[:, 1:])]).sum()


def _crossing(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [R] at which rays enter and leave the cube; equal where they miss it."""
    slope = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
    one, other = (-HALF - origins) * slope, (HALF - origins) * slope
    near = torch.minimum(one, other).amax(dim=1).clamp(min=0)
    return near, torch.maximum(near, torch.maximum(one, other).amin(dim=1))


def _rays(cameras: Sequence[Camera], size: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [V * size * size, 3] through all pixels, in the object frame."""
    every = [rays(camera, size) for camera in cameras]
    origins = np.concatenate([np.tile(origin, (size * size, 1)) for origin, _ in every])
    directions = np.concatenate([direction.reshape(-1, 3) for _, direction in every])
    return torch.from_numpy(origins).float(), torch.from_numpy(directions).float()


def _seen_rays(views: ViewSet) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, directions and RGB on white [N, 3] of all pixels that see the cube."""
    origins, directions = _rays(views.cameras, views.images.shape[1])
    rgba = torch.from_numpy(np.ascontiguousarray(views.images)).view(-1, 4).float() / 255
    near, far = _crossing(origins, directions)
    hit = far > near
    return origins[hit], directions[hit], (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:])[hit]
