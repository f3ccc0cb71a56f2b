"""Matches between views by LoFTR (Sun et al. 2021), as One-2-3-45 finds them."""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from kornia.feature import LoFTR
from kornia.feature.loftr.loftr import default_cfg
from numpy.typing import NDArray
from torch import Tensor, nn

from backend.elevation.matching import Matches, subject_alpha
from backend.weights.store import load_into

VIEW_SIDE = 480
"""Views are brought to this size, which the indoor weights were trained near."""

MIN_CONFIDENCE = 0.2
"""Of a coarse match."""


class LoFTRMatcher:
    """A `Matcher`.

    Args:
        path: safetensors file with the state dict of kornia's LoFTR.
        device: torch device.
        side: to which views are resized, a multiple of 8.
        min_confidence: matches with no more than this are left out.

    Raises:
        TurnaroundError: the weights are missing, damaged or another network's.
    """

    def __init__(
        self, path: Path, device: str = "cpu", *, side: int = VIEW_SIDE, min_confidence: float = MIN_CONFIDENCE
    ) -> None:
        network = build(min_confidence)
        load_into(network, path)
        self.network: Any = network.eval().requires_grad_(False).to(device)
        self.device, self.side = device, side
        # Where cores are few, pairs one by one are as fast, and take a sixth of the memory.
        self.pairs_at_once = 1 if device == "cpu" else 6

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Matches:
        """Matches of all pairs i < j whose both ends are on the subject.

        Args:
            images: uint8 [V, S, S, 4], straight alpha; or opaque on white.
        """
        size = images.shape[1]
        subjects = [subject_alpha(image) > 0.5 for image in images]
        features = self.network.extract_features(self._grey(images))
        matches = {}
        every = list(combinations(range(len(images)), 2))
        for start in range(0, len(every), self.pairs_at_once):
            pairs = every[start : start + self.pairs_at_once]
            first, second = (list(side) for side in zip(*pairs, strict=True))
            found = self.network(
                {
                    "features0": {name: f[first] for name, f in features.items()},
                    "features1": {name: f[second] for name, f in features.items()},
                }
            )
            # LoFTR was trained with pixel centres at +0.5, as ours are: nothing is added.
            ends = torch.cat([found["keypoints0"], found["keypoints1"]], dim=1) * (size / self.side)
            rows = torch.cat([ends, found["confidence"][:, None]], dim=1).float().cpu().numpy()
            which = found["batch_indexes"].cpu().numpy()
            for k, (i, j) in enumerate(pairs):
                own = rows[which == k]
                matches[i, j] = own[_on(subjects[i], own[:, :2]) & _on(subjects[j], own[:, 2:4])]
        return matches

    def _grey(self, images: NDArray[np.uint8]) -> Tensor:
        """The views on white as LoFTR wants them, float32 [V, 1, side, side] in 0..1."""
        alpha = images[..., 3:].astype(np.float32) / 255
        on_white = np.round(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        greys = [cv2.resize(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), (self.side, self.side)) for view in on_white]
        return torch.from_numpy(np.stack(greys)).to(self.device)[:, None].float() / 255


def build(min_confidence: float = MIN_CONFIDENCE) -> nn.Module:
    """kornia's LoFTR with random weights, configured as the indoor weights that were trained anew want it."""
    config: dict[str, Any] = deepcopy(default_cfg)
    config["coarse"]["temp_bug_fix"] = True
    config["match_coarse"]["thr"] = min_confidence
    return LoFTR(pretrained=None, config=config)


def _on(subject: NDArray[np.bool_], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the points [N, 2] (u, v) lie on the subject of their own view."""
    u, v = np.clip(np.floor(points).astype(int), 0, len(subject) - 1).T
    return subject[v, u]
