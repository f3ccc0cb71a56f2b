"""Fréchet Inception distance (Heusel et al. 2017) of two sets of pictures: how far apart the features of both are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from backend.evaluation.inception import Inception
from backend.evaluation.metrics import on_white
from backend.weights.store import catalogue, is_present, load_into, stored_files

SIDE = 299
BATCH = 16

Array = NDArray[np.float64]


def frechet_distance(a: Array, b: Array) -> float:
    """Squared Fréchet distance of the normals that features [N, D] and [M, D] have; N and M are at least 2.

    With centred features A and B of unit weight, the covariances are A'A and B'B, and the trace of the root of their
    product is the sum of the singular values of A B': exact, of the size of the sets, and never complex.
    """
    a0, b0 = a.mean(0), b.mean(0)
    A, B = ((x - x0) / np.sqrt(len(x) - 1) for x, x0 in ((a, a0), (b, b0)))
    root = np.linalg.svd(A @ B.T, compute_uv=False).sum()
    return float(((a0 - b0) ** 2).sum() + (A**2).sum() + (B**2).sum() - 2 * root)


class FidDistance:
    """A `SetDistance` on the installed weights; with fewer pictures than a few thousand it is biased upwards.

    Args:
        path: safetensors of `Inception`.
        device: torch device.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, `weights.mismatch`.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        network = Inception()
        load_into(network, path)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device

    def __call__(self, pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
        """Of sets uint8 [N, S, S, 4] and [M, S, S, 4], on white; at least two each."""
        return frechet_distance(self._features(pictures), self._features(others))

    @torch.inference_mode()
    def _features(self, images: NDArray[np.uint8]) -> Array:
        """[N, 2048]."""
        found = []
        for start in range(0, len(images), BATCH):
            x = torch.from_numpy(on_white(images[start : start + BATCH])).float().permute(0, 3, 1, 2).to(self.device)
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
            found.append(self.network(2 * x - 1).double().cpu().numpy())
        return np.concatenate(found)


def installed_fid() -> Path | None:
    """Its weights, if they are there."""
    return next((stored_files(e)[0] for e in catalogue() if e.layout == "inception" and is_present(e)), None)
