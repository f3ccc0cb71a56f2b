"""Gaussians brought nearer, for a moment, to the views that they were made of, and their surface smoothed on the way.

A network guesses Gaussians at one go, and its guess looks right from a distance: from near, the depths of neighbouring
splats jump, which makes a rugged mesh. A few steps of gradient descent through the renderer (Kerbl et al. 2023, section
5) mend both what the views show otherwise and the jumps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.geometry import batched
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.render import Rendered, render
from backend.geometry.mesh import ViewSet

PICTURE_WEIGHT = 3.0
"""Of the artist's picture beside a drawn view."""

BEND_WEIGHT = 0.03
"""Of how much the surface's slope changes from pixel to pixel; more makes it smoother and rounder."""

MOST_BEND = 2.5
"""A greater change of slope is where one surface ends in front of another, and left alone."""

OPAQUE = 0.7
"""Alpha from which on a pixel's depth is a surface's."""

RATES = {"means": 0.002, "scales": 0.02, "quaternions": 0.01, "opacities": 0.05, "colors": 0.05}
"""Adam's steps: of positions in object units, of sizes in their logarithm, of opacities and colours in their logits."""

EPS = 1e-4


def polish(gaussians: Gaussians, views: ViewSet, steps: int, on_step: Callable[[int, int], None]) -> Gaussians:
    """Gaussians that show the views better and have a smoother surface.

    Args:
        gaussians: an unbatched set in the object frame, with unit quaternions, on the device to compute on.
        views: square; the first is the picture, whose alpha is a silhouette to keep to, and the others are taken as
            they look on white.
        steps: of gradient descent.
        on_step: told how many of them are done; what it raises stops the polishing.
    """
    device = gaussians.means.device
    images = torch.from_numpy(views.images).to(device).float() / 255
    targets, silhouette = images[..., :3] * images[..., 3:] + 1 - images[..., 3:], images[0, ..., 3]
    weights = torch.ones(len(images), device=device)
    weights[0] = PICTURE_WEIGHT
    size = images.shape[1]
    cameras = batched.camera_tensor(views.cameras)
    poses, pixels = batched.world_from_camera(cameras).to(device), batched.intrinsics(cameras, size).to(device)
    pixel = float(views.cameras[0].distance / pixels[0, 0, 0])

    free = to_free(gaussians)
    optimizer = torch.optim.Adam([{"params": [free[name]], "lr": rate} for name, rate in RATES.items()])
    for step in range(steps):
        on_step(step, steps)
        seen = render(to_gaussians(free), poses, pixels, size)
        colors = ((seen.colors - targets).abs().mean(dim=(1, 2, 3)) * weights).mean()
        loss = colors + (seen.alphas[0] - silhouette).abs().mean() + BEND_WEIGHT * bend(seen, pixel)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    on_step(steps, steps)
    polished = to_gaussians(free).detach()
    unit = torch.nn.functional.normalize(polished.quaternions, dim=-1)
    return Gaussians(polished.means, unit, polished.scales, polished.opacities, polished.colors)


def to_free(gaussians: Gaussians) -> dict[str, Tensor]:
    """Numbers without bounds in place of positive ones and of those in 0..1, ready to be optimised."""
    return {
        "means": gaussians.means.clone().requires_grad_(),
        "scales": gaussians.scales.clamp(min=EPS).log().requires_grad_(),
        "quaternions": gaussians.quaternions.clone().requires_grad_(),
        "opacities": torch.logit(gaussians.opacities, EPS).requires_grad_(),
        "colors": torch.logit(gaussians.colors, EPS).requires_grad_(),
    }


def to_gaussians(free: dict[str, Tensor]) -> Gaussians:
    """The inverse of `to_free`."""
    return Gaussians(
        free["means"],
        free["quaternions"],
        free["scales"].exp(),
        free["opacities"].sigmoid(),
        free["colors"].sigmoid(),
    )


def bend(seen: Rendered, pixel: float) -> Tensor:
    """How much the surface's slope changes between neighbouring pixels, the mean over all of them; a scalar.

    Args:
        seen: pictures [V, S, S] of Gaussians.
        pixel: width of a pixel at the surface, in the units of the depths.
    """
    depths, solid = seen.depths / seen.alphas.clamp(min=1e-3), seen.alphas > OPAQUE
    total = depths.new_zeros(())
    for axis in (1, 2):
        length = depths.shape[axis] - 2
        before, at, after = (depths.narrow(axis, start, length) for start in range(3))
        whole = torch.stack([solid.narrow(axis, start, length) for start in range(3)]).all(dim=0)
        change = (before - 2 * at + after).abs() / pixel
        total = total + (change.clamp(max=MOST_BEND) * whole).mean()
    return total
