"""Where a view's noise is from: never the device, and never what is drawn beside it."""

from __future__ import annotations

import torch

from backend.pipelines.stage import digest


def noise_source(seed: int, *key: int) -> torch.Generator:
    """A view's own source of noise, on the CPU: a function of the seed and the key."""
    return torch.Generator().manual_seed(int(digest("view", seed, key)[:15], 16))


def turn_noise(seed: int, *turn_deg: float) -> torch.Generator:
    """The source of a view that is known by how far the camera turned, in degrees, whole turns left out."""
    return noise_source(seed, *(round(1000 * angle) % 360_000 for angle in turn_deg))
