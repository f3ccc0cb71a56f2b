"""How long Gaussians take to draw and to learn from, beside plain torch and, where there is CUDA, bare gsplat.

The plain one composites the same projected splats tile by tile with torch's own operations and autograd.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.geometry.cameras import Camera
from backend.geometry.gaussians.compositing import LEAST_TRANSMITTANCE
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.projection import LEAST_ALPHA, Projected, Splatting, project
from backend.geometry.gaussians.render import render

TARGETS = {
    "forward_seconds": ("<=", 0.5),
    "forward_and_backward_seconds": ("<=", 1.5),
    "same_pictures": (">=", 1.0),
    "cuda_share_of_bare_gsplat": (">=", 0.95),
}

ROUNDS = 5
"""The median of so many counts; the plain one is drawn once."""


@dataclass(frozen=True)
class Size:
    """What is drawn: so many Gaussians, in so many views, in pictures of that side; scales in object units."""

    gaussians: int
    views: int
    picture: int
    scale: float


SMALL, LARGE = Size(8_192, 8, 64, 0.012), Size(65_536, 1, 512, 0.004)


def measure(small: Size = SMALL, large: Size = LARGE) -> dict[str, float]:
    """Draws balls covered with Gaussians.

    Returns:
        Seconds to draw, and to draw and differentiate, of the small size; the same of the plain way, and whether (1 or
        0) both drew the same; the same of the large size under names that begin with `large`; and, where there is
        CUDA, of eight views at the large size, the interface's rate as a share of bare gsplat's.
    """
    scene = _scene(small)
    _timed(scene, _ours, rounds=1)  # compiles
    result, ours = _timed(scene, _ours)
    plain, theirs = _timed(scene, _plain, rounds=1)
    result |= {f"plain_{name}": value for name, value in plain.items()}
    result["same_pictures"] = float((ours - theirs).abs().mean() < 1e-4)
    large_result, _ = _timed(_scene(large), _ours)
    result |= {f"large_{name}": value for name, value in large_result.items()}
    return result | (_cuda(replace(large, views=8)) if torch.cuda.is_available() else {})


Scene = tuple[Gaussians, Tensor, Tensor, int]
"""Gaussians, world_from_camera, intrinsics, size."""


def _scene(size: Size) -> Scene:
    random = torch.Generator().manual_seed(0)
    count = size.gaussians
    gaussians = Gaussians(
        0.4 * F.normalize(torch.randn(count, 3, generator=random), dim=-1),
        F.normalize(torch.randn(count, 4, generator=random), dim=-1),
        size.scale * (0.5 + torch.rand(count, 3, generator=random)),
        0.05 + 0.9 * torch.rand(count, generator=random),
        torch.rand(count, 3, generator=random),
    )
    cameras = [Camera(10.0, 360 * view / size.views, 1.7417, 39.6) for view in range(size.views)]
    poses = torch.from_numpy(np.stack([camera.world_from_camera() for camera in cameras])).float()
    intrinsics = torch.from_numpy(np.stack([camera.intrinsics(size.picture) for camera in cameras])).float()
    return gaussians, poses, intrinsics, size.picture


Draw = Callable[[Gaussians, Tensor, Tensor, int], Tensor]


def _timed(scene: Scene, draw: Draw, rounds: int = ROUNDS) -> tuple[dict[str, float], Tensor]:
    forward, both = [], []
    leaves = scene[0].map(lambda tensor: tensor.clone().requires_grad_())
    for _ in range(rounds):
        with torch.no_grad():
            start = time.perf_counter()
            image = draw(*scene)
            forward.append(time.perf_counter() - start)
        start = time.perf_counter()
        draw(leaves, *scene[1:]).square().sum().backward()
        both.append(time.perf_counter() - start)
    return {"forward_seconds": median(forward), "forward_and_backward_seconds": median(both)}, image


def _ours(gaussians: Gaussians, poses: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    rendered = render(gaussians, poses, intrinsics, size, background=0.0)
    return torch.cat([rendered.colors, rendered.depths[..., None], rendered.alphas[..., None]], dim=-1)


def _cuda(size: Size) -> dict[str, float]:
    from gsplat import rasterization

    gaussians, poses, intrinsics, picture = _scene(size)
    gaussians, poses, intrinsics = gaussians.to("cuda"), poses.cuda(), intrinsics.cuda()
    fields = (gaussians.means, gaussians.quaternions, gaussians.scales, gaussians.opacities, gaussians.colors)
    views = torch.linalg.inv(poses), intrinsics, picture, picture

    def seconds(draw: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(50):
            draw()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / 50

    white = torch.ones(len(poses), 3, device="cuda")

    def ours() -> float:
        return seconds(lambda: render(gaussians, poses, intrinsics, picture))

    def bare() -> float:
        return seconds(lambda: rasterization(*fields, *views, packed=False, render_mode="RGB+D", backgrounds=white))

    with torch.no_grad():
        ours(), bare()  # compiles
        turns = [(ours(), bare()) for _ in range(ROUNDS)]
    drawn, barely = (median(turn) for turn in zip(*turns, strict=True))
    return {"cuda_forward_seconds": drawn, "cuda_share_of_bare_gsplat": barely / drawn}


def _plain(gaussians: Gaussians, poses: Tensor, intrinsics: Tensor, size: int, tile: int = 16) -> Tensor:
    seen = project(gaussians, torch.linalg.inv(poses), intrinsics, size)
    pictures = []
    for view in range(len(poses)):
        splats = Projected(*(part[view] for part in seen))
        draw = partial(_plain_tile, gaussians, splats, tile)
        corners = range(0, size, tile)
        pictures.append(torch.cat([torch.cat([draw(x, y) for x in corners], dim=1) for y in corners], dim=0))
    return torch.stack(pictures)[:, :size, :size]


def _plain_tile(gaussians: Gaussians, seen: Projected, tile: int, left: int, top: int) -> Tensor:
    """One tile, [tile, tile, 5]: every pixel against every splat whose box touches it, nearest first."""
    low, high = seen.centers.detach() - seen.extents, seen.centers.detach() + seen.extents
    corner = seen.centers.new_tensor([left, top])
    touching = ((seen.extents >= 0) & (high > corner) & (low < corner + tile)).all(-1).nonzero()[:, 0]
    nearest_first = touching[torch.argsort(seen.depths[touching], stable=True)]
    v, u = torch.meshgrid(torch.arange(tile) + top + 0.5, torch.arange(tile) + left + 0.5, indexing="ij")
    dx, dy = (torch.stack([u, v], dim=-1)[..., None, :] - seen.centers[nearest_first]).unbind(-1)  # [tile, tile, K]
    a, b, c = seen.conics[nearest_first].unbind(-1)
    alphas = gaussians.opacities[nearest_first] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    alphas = torch.where(alphas >= LEAST_ALPHA, alphas, 0.0).clamp(max=Splatting().alpha_cap)
    after = torch.cumprod(1 - alphas, dim=-1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1)
    weights = torch.where(after >= LEAST_TRANSMITTANCE, alphas * before, 0.0)
    features = [gaussians.colors[nearest_first], seen.depths[nearest_first, None], torch.ones(len(nearest_first), 1)]
    return weights @ torch.cat(features, dim=-1)
