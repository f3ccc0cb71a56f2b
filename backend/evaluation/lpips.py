"""LPIPS (Zhang et al. 2018), version 0.1 with AlexNet: how differently a network of pictures sees two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from backend.evaluation.metrics import on_white
from backend.weights.store import catalogue, is_present, load_into, stored_files

LAYERS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
"""AlexNet's convolutions: number in torchvision's list, channels in and out, kernel, stride, padding."""

POOLED = (3, 6)
"""The convolutions before which there is max pooling."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What pictures in -1..1 are brought to AlexNet's normalisation with."""

EPSILON = 1e-10


class Lpips(nn.Module):
    """The distance, 0 for equal pictures; its keys are torchvision's AlexNet's and the published linear layers'."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict({str(n): nn.Conv2d(i, o, k, s, p) for n, i, o, k, s, p in LAYERS})
        for number, (_, _, channels, *_) in enumerate(LAYERS):
            setattr(self, f"lin{number}", nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """[N] of RGB pictures [N, 3, H, W] in 0..1, of at least 32 pixels."""
        x = torch.cat([pictures, others]) * 2 - 1
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        x = (x - shift) / scale
        total = x.new_zeros(len(pictures))
        for number, (name, convolution) in enumerate(self.features.items()):
            if int(name) in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            # all positions' features have length 1, so that what counts is which there are and not how strong they are
            one, other = (x / (x.norm(dim=1, keepdim=True) + EPSILON)).chunk(2)
            total = total + getattr(self, f"lin{number}")((one - other).square()).mean((1, 2, 3))
        return total


class LpipsDistance:
    """A `Distance` on the installed weights.

    Args:
        path: safetensors of `Lpips`.
        device: torch device.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, `weights.mismatch`.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        network = Lpips()
        load_into(network, path)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
        """Mean over pairs of uint8 [N, S, S, 4], on white."""
        a, b = (torch.from_numpy(on_white(x)).float().permute(0, 3, 1, 2).to(self.device) for x in (pictures, others))
        return float(self.network(a, b).mean())


def installed_lpips() -> Path | None:
    """Its weights, if they are there."""
    return next((stored_files(e)[0] for e in catalogue() if e.layout == "lpips" and is_present(e)), None)
