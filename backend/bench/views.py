"""How fast 3DiM draws views from a growing pool: the small network on the CPU, the published size where a GPU is.

The networks have random weights, which take as long as trained ones.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from backend.generators.xunet.config import PAPER, TINY_3DIM, XUNetConfig
from backend.generators.xunet.diffusion import Sampler
from backend.generators.xunet.network import XUNet
from backend.generators.xunet.stochastic import PAPER_STEPS, PoolGenerator
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress
from backend.preparation.framing import framed_camera

TARGETS = {"sixteen_views_seconds": ("<=", 60.0)}

VIEWS, STEPS = 16, 64

PAPER_GUIDANCE = 3.0
"""What users of the public code report ten minutes a view with, beside it."""


def measure() -> dict[str, float]:
    """Seconds for 16 views in 64 steps, one after the other, four together, and guided; and of one published view.

    The published figures are of the 128-pixel network in half precision, with the paper's sampler and guidance, on the
    first GPU: one view alone, and each of eight that are drawn together.
    """
    small = PoolGenerator(_network(TINY_3DIM))
    draw(small, 1, 1)  # what is slow once
    found = {
        "sixteen_views_seconds": draw(small, VIEWS, STEPS),
        "sixteen_views_in_fours_seconds": draw(small, VIEWS, STEPS, batch=4),
        "sixteen_guided_views_seconds": draw(small, VIEWS, STEPS, guidance=PAPER_GUIDANCE),
    }
    if torch.cuda.is_available():
        large = PoolGenerator(_network(PAPER), "cuda:0")
        draw(large, 1, 8, guidance=PAPER_GUIDANCE, sampler="ancestral")
        found["published_view_seconds"] = draw(large, 1, PAPER_STEPS, guidance=PAPER_GUIDANCE, sampler="ancestral")
        draw(large, 8, 2, batch=8, guidance=PAPER_GUIDANCE, sampler="ancestral")
        together = draw(large, 8, PAPER_STEPS, batch=8, guidance=PAPER_GUIDANCE, sampler="ancestral")
        found["published_view_of_eight_seconds"] = together / 8
    return found


def draw(
    generator: PoolGenerator,
    views: int,
    steps: int,
    *,
    batch: int = 1,
    guidance: float = 0.0,
    sampler: Sampler = "ddim",
) -> float:
    """Seconds that views around one picture take."""
    size, camera = generator.config.size, framed_camera(20.0)
    picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 4), dtype=np.uint8)
    cameras = [camera.moved(azimuth_deg=360.0 * (number + 0.5) / views) for number in range(views)]
    start = time.perf_counter()
    generator.draw(
        ViewSet(picture, (camera,)),
        cameras,
        seed=0,
        steps=steps,
        guidance=guidance,
        progress=Progress(),
        sampler=sampler,
        batch=batch,
    )
    return time.perf_counter() - start


def _network(config: XUNetConfig) -> XUNet:
    torch.manual_seed(0)
    return XUNet(config).eval()
