"""Polishing: Gaussians come nearer to the views, and the surface that they make becomes smoother."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.geometry import batched
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.polish import bend, polish
from backend.geometry.gaussians.render import Rendered, render
from backend.geometry.mesh import ViewSet
from backend.preparation.framing import framed_camera

SIZE, PIXEL = 32, 0.036
CAMERAS = tuple(framed_camera(10.0).moved(azimuth_deg=90.0 * turn) for turn in range(4))


def ball(roughness: float, colour: tuple[float, float, float]) -> Gaussians:
    """A sphere of small splats that lie up to `roughness` off its surface."""
    noise = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(1500, 3, generator=noise), dim=-1)
    radii = 0.35 + roughness * (torch.rand(1500, 1, generator=noise) - 0.5)
    return Gaussians(
        directions * radii,
        torch.tensor([1.0, 0, 0, 0]).expand(1500, 4).clone(),
        torch.full((1500, 3), 0.02),
        torch.full((1500,), 0.8),
        torch.tensor(colour).expand(1500, 3).clone(),
    )


def seen(gaussians: Gaussians) -> Rendered:
    cameras = batched.camera_tensor(CAMERAS)
    return render(gaussians, batched.world_from_camera(cameras), batched.intrinsics(cameras, SIZE), SIZE)


def views_of(gaussians: Gaussians) -> ViewSet:
    """The first with its silhouette, the others opaque on white."""
    drawn = seen(gaussians)
    rgb = (drawn.colors * 255).round().byte().numpy()
    alpha = np.full((*rgb.shape[:3], 1), 255, np.uint8)
    alpha[0] = (drawn.alphas[0, ..., None] * 255).byte().numpy()
    rgb[0] = np.where(alpha[0] > 0, (51, 102, 204), 0)
    return ViewSet(np.concatenate([rgb, alpha], axis=-1), CAMERAS)


def error(gaussians: Gaussians, views: ViewSet) -> float:
    white = views.images[..., :3] / 255.0 * (views.images[..., 3:] / 255.0) + 1 - views.images[..., 3:] / 255.0
    return float(np.abs(seen(gaussians).colors.numpy() - white).mean())


def test_views_are_shown_better_and_the_surface_is_smoother() -> None:
    rough, views = ball(0.08, (0.3, 0.5, 0.6)), views_of(ball(0.0, (0.2, 0.4, 0.8)))
    steps: list[tuple[int, int]] = []
    polished = polish(rough, views, 30, lambda step, total: steps.append((step, total)))
    assert steps == [(step, 30) for step in range(31)]
    assert error(polished, views) < 0.6 * error(rough, views)
    assert bend(seen(polished), PIXEL) < 0.8 * bend(seen(rough), PIXEL)
    assert torch.allclose(polished.quaternions.norm(dim=-1), torch.ones(1500))
    assert not any(tensor.requires_grad for tensor in vars(polished).values())
    assert torch.equal(rough.means, ball(0.08, (0.3, 0.5, 0.6)).means)  # what was handed in stays as it is


def test_bending_is_of_slopes_and_not_of_edges() -> None:
    """A plane has none however steep it is, a step from one surface to another counts no more than the most."""
    x = torch.arange(8.0).expand(1, 8, 8)
    solid = torch.ones(1, 8, 8)

    def of(depths: torch.Tensor, alphas: torch.Tensor = solid) -> float:
        return float(bend(Rendered(torch.zeros(1, 8, 8, 3), alphas, depths * alphas), pixel=1.0))

    assert of(5 + 3 * x) == pytest.approx(0, abs=1e-5)
    assert of(5 + x.square() / 2) == pytest.approx(1)
    assert of(5 + 100 * (x > 3)) == of(5 + 1000 * (x > 3)) > 0
    assert of(5 + x.square() / 2, 0.5 * solid) == 0  # through what is half transparent no surface is seen


def test_it_can_be_stopped() -> None:
    def stop(step: int, total: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    gaussians = ball(0.0, (0.2, 0.4, 0.8))
    with pytest.raises(KeyboardInterrupt):
        polish(gaussians, views_of(gaussians), 30, stop)
