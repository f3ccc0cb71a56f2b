"""How fast 3DiM's small network draws views from a growing pool; its weights are random, which takes as long."""

from __future__ import annotations

import time

import numpy as np
import torch

from backend.generators.xunet.config import TINY_3DIM, XUNetConfig
from backend.generators.xunet.diffusion import Sampler
from backend.generators.xunet.network import XUNet
from backend.generators.xunet.stochastic import PoolGenerator
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress
from backend.preparation.framing import framed_camera

TARGETS = {"sixteen_views_seconds": ("<=", 60.0)}

VIEWS, STEPS = 16, 64

GUIDANCE = 3.0


def measure() -> dict[str, float]:
    """Seconds for 16 views in 64 steps: one after the other, four together, and guided."""
    small = PoolGenerator(_network(TINY_3DIM))
    draw(small, 1, 1)  # what is slow once
    return {
        "sixteen_views_seconds": draw(small, VIEWS, STEPS),
        "sixteen_views_in_fours_seconds": draw(small, VIEWS, STEPS, batch=4),
        "sixteen_guided_views_seconds": draw(small, VIEWS, STEPS, guidance=GUIDANCE),
    }


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
