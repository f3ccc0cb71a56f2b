"""Gaussians to a coloured mesh: the whole one, and the coarse one that is shown while a shape forms."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from backend.geometry.fusion import coarse_mesh, fuse
from backend.geometry.gaussians.gaussians import Gaussians
from backend.pipelines.shaping import surface

TARGETS = {"mesh_seconds": ("<=", 3.0), "coarse_mesh_seconds": ("<=", 0.15)}

HALF = 0.5

ROUNDS = 3
"""The fastest of so many counts."""


def measure(many: int = 65_536, few: int = 4_096, cells: int = 128) -> dict[str, float]:
    """Seconds from Gaussians on a bumpy ball to a mesh with colours, the compiled loops ready.

    Args:
        many: Gaussians for the whole mesh.
        few: for the coarse one.
        cells: of the whole mesh.
    """
    all_of_it, beginning = bumpy_ball(many), bumpy_ball(few)
    return {
        "mesh_seconds": _fastest(lambda: _mesh(all_of_it, cells)),
        "fused_seconds": _fastest(lambda: fuse(all_of_it, cells, HALF)),
        "coarse_mesh_seconds": _fastest(lambda: coarse_mesh(beginning)),
    }


def bumpy_ball(count: int) -> Gaussians:
    """As a reconstructor leaves them: a sheet of splats of mixed sizes and opacities."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    radii = 0.36 + 0.06 * torch.sin(9 * directions).prod(-1, keepdim=True)
    sizes = 1.3 / count**0.5 * (0.4 + 0.8 * torch.rand(count, 3, generator=generator))
    opacities = 0.4 + 0.6 * torch.rand(count, generator=generator)
    quaternions = torch.randn(count, 4, generator=generator)
    return Gaussians(radii * directions, quaternions, sizes, opacities, directions / 2 + 0.5)


def _mesh(gaussians: Gaussians, cells: int) -> None:
    field = fuse(gaussians, cells, HALF)
    mesh = surface(field, cells)
    field.colors(mesh.vertices)


def _fastest(function: Callable[[], object]) -> float:
    function()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.min(seconds))
