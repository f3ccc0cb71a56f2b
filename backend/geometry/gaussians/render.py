"""Gaussians to pictures: one interface, differentiable, compiled on the CPU and gsplat on CUDA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backend.geometry.gaussians.compositing import composite
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.projection import Splatting, project


class Rendered(NamedTuple):
    """What V cameras see.

    Attributes:
        colors: [..., V, size, size, 3], the background composited.
        alphas: [..., V, size, size].
        depths: [..., V, size, size], the sum of weight times depth along the view axis: not divided by alpha.
    """

    colors: Tensor
    alphas: Tensor
    depths: Tensor


def render(
    gaussians: Gaussians,
    world_from_camera: Tensor,
    intrinsics: Tensor,
    size: int,
    *,
    background: Tensor | float = 1.0,
    splatting: Splatting | None = None,
) -> Rendered:
    """Draws Gaussians, differentiable in all of their fields. Half precision is drawn in float32.

    Args:
        gaussians: leading dimensions [...].
        world_from_camera: rigid, [..., V, 4, 4], from OpenCV camera frames; leading dimensions broadcast.
        intrinsics: [..., V, 3, 3] in pixels, pixel centres at +0.5; leading dimensions broadcast.
        size: side of the square pictures in pixels.
        background: one number or a colour [3].
        splatting: which rasteriser's choices; gsplat's if left out.
    """
    splatting = splatting or Splatting()
    device = gaussians.means.device
    with torch.autocast(device.type, enabled=False):
        if gaussians.means.dtype not in (torch.float32, torch.float64):
            gaussians = gaussians.map(Tensor.float)
        lead, views = gaussians.means.shape[:-2], world_from_camera.shape[-3]
        world_from_camera = world_from_camera.detach().to(gaussians.means).expand(*lead, views, 4, 4)
        intrinsics = intrinsics.detach().to(gaussians.means).expand(*lead, views, 3, 3)
        camera_from_world = _rigid_inverse(world_from_camera)
        if not isinstance(background, Tensor):
            background = gaussians.means.new_full((), background)
        background = background.to(gaussians.means)
        if device.type == "cuda" and len(gaussians):
            from backend.geometry.gaussians.cuda import draw_on_cuda  # not above: without CUDA it can crash

            drawn = draw_on_cuda(gaussians, camera_from_world, intrinsics, size, splatting, background)
            if drawn is not None:
                image, weights = drawn
                return Rendered(image[..., :3], weights[..., 0], image[..., 3])
        image = draw_on_cpu(gaussians.to("cpu"), camera_from_world.cpu(), intrinsics.cpu(), size, splatting)
        image = image.to(device)
        colors, depths, alphas = image[..., :3], image[..., 3], image[..., 4]
        return Rendered(colors + (1 - alphas[..., None]) * background, alphas, depths)


def draw_on_cpu(
    gaussians: Gaussians, camera_from_world: Tensor, intrinsics: Tensor, size: int, splatting: Splatting
) -> Tensor:
    """Weighted sums [..., V, size, size, 5] of colour, depth and 1."""
    seen = project(gaussians, camera_from_world, intrinsics, size, splatting)
    own = torch.cat([gaussians.opacities[..., None], gaussians.colors], dim=-1)[..., None, :, :]
    own = own.expand(*seen.depths.shape, 4)
    splats = torch.cat([seen.centers, seen.conics, own, seen.depths[..., None]], dim=-1)
    lead = splats.shape[:-2]
    image = composite(splats.flatten(0, -3), seen.extents.flatten(0, -3), size, splatting.alpha_cap)
    return image.reshape(*lead, size, size, 5)


def _rigid_inverse(matrix: Tensor) -> Tensor:
    inverse = torch.zeros_like(matrix)
    inverse[..., :3, :3] = matrix[..., :3, :3].mT
    inverse[..., :3, 3] = -(matrix[..., :3, :3].mT @ matrix[..., :3, 3, None])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse
