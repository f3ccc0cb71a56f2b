"""Segmentation by Segment Anything (Kirillov et al. 2023), through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import SamConfig, SamModel

from backend.preparation.segmentation import (
    OBJECT_SHARE,
    Mask,
    Prompt,
    check_subject,
    chosen_parts,
    objects,
    segment,
    work_size,
)
from backend.weights.store import damaged, load_into, weights_digest
from protocol.errors import TurnaroundError

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
"""ImageNet's, in levels, as SAM was trained."""

FILES = ("config.json", "model.safetensors")


class Sam:
    """A `Segmenter`. The network is loaded for a picture and freed after it: it is as large as the generator.

    Args:
        folder: in transformers' layout, `FILES`.
        device: torch device.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder, self.device = folder, device

    @property
    def key(self) -> str:
        """Name and weights."""
        return f"sam {weights_digest(self.folder / FILES[1])}"

    def __call__(self, rgb: NDArray[np.uint8], prompt: Prompt) -> Mask:
        """See `Segmenter`.

        Without a box or point from the artist, GrabCut's subject is boxed, as One-2-3-45 boxes rembg's. Of SAM's three
        answers, which are a part, a larger part and the whole, the last is taken, as there: the subject is the whole
        object, and the score that comes with each answer says how crisp it is, not how much of the object it has.

        Raises:
            TurnaroundError: the weights are missing, damaged or another network's; `picture.no_subject`.
        """
        prompt = prompt if prompt.box or prompt.subject_points else _found(rgb, prompt)
        network = self._load()
        try:
            mask = self._ask(network, rgb, prompt)
        finally:
            del network
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
        return check_subject(objects(chosen_parts(mask, prompt.scaled(_scale(rgb))), OBJECT_SHARE))

    @torch.inference_mode()
    def _ask(self, network: Any, rgb: NDArray[np.uint8], prompt: Prompt) -> Mask:
        side = network.config.vision_config.image_size
        picture, scale = _pixels(rgb, side)
        answers = network(
            pixel_values=picture.to(self.device), **_prompts(prompt, scale, self.device), multimask_output=True
        )
        logits = answers.pred_masks[:, 0].float()
        logits = torch.nn.functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        height, width = (max(1, round(n * scale)) for n in rgb.shape[:2])
        logits = logits[..., :height, :width]
        width, height = work_size(rgb)
        logits = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return np.asarray((logits[0, -1] > 0).cpu().numpy(), bool)

    def _load(self) -> Any:
        config = self.folder / FILES[0]
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
            with torch.device("meta"):
                network = SamModel(SamConfig.from_dict(values))
        except FileNotFoundError:
            raise TurnaroundError(
                "weights.missing",
                "The weights of Segment Anything are not there.",
                'See "turnaround models list" for what is there and what is missing.',
                details=str(config),
            ) from None
        except Exception as error:  # a configuration that makes no network fails in any way it likes
            raise damaged(config, repr(error)) from error
        network = network.to_empty(device=self.device)
        load_into(network, self.folder / FILES[1])
        return network.eval()


def _found(rgb: NDArray[np.uint8], prompt: Prompt) -> Prompt:
    """The prompt with a box about what GrabCut takes for the subject; the middle of the picture if it finds none."""
    height, width = rgb.shape[:2]
    try:
        mask = segment(rgb, prompt)
    except TurnaroundError:
        return Prompt((0.05 * width, 0.05 * height, 0.95 * width, 0.95 * height), prompt.points)
    ys, xs = np.nonzero(mask)
    box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / _scale(rgb)
    return Prompt((float(box[0]), float(box[1]), float(box[2]), float(box[3])), prompt.points)


def _scale(rgb: NDArray[np.uint8]) -> float:
    return work_size(rgb)[0] / rgb.shape[1]


def _pixels(rgb: NDArray[np.uint8], side: int) -> tuple[Tensor, float]:
    """The picture as SAM sees it, float32 [1, 3, side, side]: longest side to `side`, normalised, then padded."""
    scale = side / max(rgb.shape[:2])
    height, width = (max(1, round(n * scale)) for n in rgb.shape[:2])
    resized = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    padded = np.zeros((side, side, 3), np.float32)
    padded[:height, :width] = (resized - MEAN) / DEVIATION
    return torch.from_numpy(padded).permute(2, 0, 1)[None], scale


def _prompts(prompt: Prompt, scale: float, device: str) -> dict[str, Tensor]:
    """In SAM's pixels. The network adds the half pixel that our pictures' coordinates have already."""
    given: dict[str, Tensor] = {}
    if prompt.box:
        given["input_boxes"] = torch.tensor([[prompt.box]], device=device) * scale - 0.5
    if prompt.points:
        given["input_points"] = torch.tensor([[[p[:2] for p in prompt.points]]], device=device) * scale - 0.5
        given["input_labels"] = torch.tensor([[[int(p[2]) for p in prompt.points]]], device=device)
    return given
