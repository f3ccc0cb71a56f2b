"""`turnaround train 3dim-published`: the X-UNet at its published size, trained as its paper trains it.

Warm-up and average are counted in examples, so that they mean the same with any batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.generators.xunet.config import PAPER, SRN64, XUNetConfig
from backend.generators.xunet.network import XUNet
from backend.generators.xunet.worlds import told_intrinsics
from backend.training.batches import Batch, EpisodeTensors
from backend.training.data.episodes import EpisodeSpec, build
from backend.training.data.meshes import split_meshes
from backend.training.data.srn import VALIDATION, SrnPictures, find_objects, is_srn
from backend.training.loop import LoopConfig
from backend.training.loop import train as run_loop
from backend.training.processes import own_device
from backend.training.xunet import XUNetObjective, XUNetStep
from backend.weights.store import load_into
from protocol.errors import TurnaroundError

NAME = "3dim-published"

FORMS: dict[str, XUNetConfig] = {"paper": PAPER, "srn64": SRN64}
"""128 pixels; and 64, quirks included, which the public program opens."""

SCORED = 16
"""Validation objects that are drawn at every score."""


@dataclass(frozen=True)
class ThreeDimTraining:
    """All settings of a run; the defaults are the paper's (Watson et al. 2022).

    Attributes:
        network: its size and conventions.
        learning_rate: Adam's, after the warm-up.
        betas: Adam's.
        warmup_examples: over which the learning rate rises from 0.
        ema_half_life: of the averaged weights that are kept, in examples.
        batch_size: examples a step, on all devices together.
        condition_dropout: share of examples without their condition.
        steps: in all.
        save_every_minutes: between checkpoints and scores.
        log_every: steps between looks at the loss.
        seed: of weights and batches.
    """

    network: XUNetConfig = PAPER
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_examples: int = 10_000_000
    ema_half_life: int = 500_000
    batch_size: int = 128
    condition_dropout: float = 0.1
    steps: int = 1_000_000
    save_every_minutes: float = 15.0
    log_every: int = 10
    seed: int = 0

    def adam(self, objective: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
        """One optimizer for all weights."""
        return [torch.optim.Adam(objective.parameters(), config.learning_rate, betas=self.betas)]

    def warmup(self, config: LoopConfig, step: int, progress: float) -> float:
        """Share of the learning rate at a step."""
        return min(1.0, (step + 1) * self.batch_size / self.warmup_examples)


def chosen(
    form: str | None = None,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> ThreeDimTraining:
    """The paper's settings but for those that are given."""
    given: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    return ThreeDimTraining(
        FORMS[form or "paper"], **{name: value for name, value in given.items() if value is not None}
    )


class PublishedObjective(XUNetObjective):
    """The X-UNet on pairs of rendered views or of posed pictures."""

    def draw(self, data: Any, size: int, generator: torch.Generator) -> tuple[dict[str, Tensor], torch.Generator]:
        """See `XUNetObjective`."""
        if isinstance(data, SrnPictures):
            return self._told(data.batch(size, generator)), generator
        return super().draw(data, size, generator)

    def examples(self, data: Any, objects: int) -> dict[str, Tensor]:
        """See `XUNetObjective`."""
        if isinstance(data, SrnPictures):
            return self._told(data.first(min(objects, SCORED)))
        return super().examples(data, min(objects, SCORED))

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """See `XUNetObjective`; with the intrinsics that the network is told."""
        return super().tensors(batch) | {"intrinsics": told_intrinsics(batch.cameras, self.network.config)}

    def _told(self, pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        config = self.network.config
        scale = (config.intrinsics_size or config.size) / config.size
        factors = torch.tensor([[scale], [scale], [1.0]], device=pairs["intrinsics"].device)
        return pairs | {"intrinsics": pairs["intrinsics"] * factors}


def train(
    folder: Path,
    training: ThreeDimTraining,
    *,
    minutes: float = math.inf,
    device: str = "auto",
    output: Path = Path("out/train"),
    start_from: Path | None = None,
    cache: Path = Path(".cache"),
    log: Callable[[str], None] = print,
) -> Path:
    """Trains on a folder of meshes or of posed pictures; run again with the same output to go on.

    On several GPUs: `accelerate launch -m backend.cli train 3dim-published ...`; each takes its share of the batch.

    Args:
        folder: of meshes, see `find_meshes` for the split; or of objects as in `srn`, every sixteenth to validate.
        training: all settings.
        minutes: of training in all, if that is less than the steps take.
        device: "auto", "cpu" or "cuda".
        output: folder for checkpoints, log and weights.
        start_from: weights to begin with instead of random ones.
        cache: where rendered episodes are kept.
        log: receives a line now and then.

    Returns:
        The weights file, which `PoolGenerator` opens.

    Raises:
        TurnaroundError: `train.device`, `train.batch`, `train.no_split`, `meshes.none`; of pictures, as `srn`.
    """
    where, processes = own_device(device), int(os.environ.get("WORLD_SIZE", "1"))
    if training.batch_size % processes:
        raise TurnaroundError(
            "train.batch",
            f"A batch of {training.batch_size} cannot be shared by {processes} processes.",
            "Give a multiple of their number.",
            field="batch_size",
        )
    data, config = _data(folder, training, cache, where)
    log(f"{len(data['train'])} objects to train on, {len(data['val'])} to validate")
    torch.manual_seed(training.seed)
    network = XUNet(config)
    if start_from is not None:
        load_into(network, start_from)
    step = replace(XUNetStep.published(config), condition_dropout=training.condition_dropout)
    weights = output / f"{NAME}.safetensors"
    run_loop(
        PublishedObjective(network, step).to(where),
        data["train"],
        data["val"],
        LoopConfig(
            minutes,
            training.batch_size // processes,
            training.learning_rate,
            ema_half_life=max(1, round(training.ema_half_life / training.batch_size)),
            save_every_minutes=training.save_every_minutes,
            seed=training.seed,
            steps=training.steps,
            log_every=training.log_every,
            half=False,
        ),
        output / NAME,
        weights,
        config,
        optimizers_for=training.adam,
        schedule=training.warmup,
        log=log,
    )
    return weights


def _data(folder: Path, training: ThreeDimTraining, cache: Path, device: str) -> tuple[dict[str, Any], XUNetConfig]:
    """What is learned from, and the network's config with the world that it will know."""
    config = training.network
    data: dict[str, Any] = {}
    if is_srn(folder):
        objects = find_objects(folder)
        if len(objects) < 2:
            raise TurnaroundError("train.no_split", "There is only one object.", "Add more, one of them to validate.")
        val = objects[::VALIDATION]
        members = {"train": [thing for thing in objects if thing not in val], "val": val}
        data = {split: SrnPictures(things, config.size, device) for split, things in members.items()}
        return data, replace(config, camera_distance=data["train"].camera_distance())
    spec = EpisodeSpec(size=config.size)
    data = {split: EpisodeTensors(build(files, spec, cache), device) for split, files in split_meshes(folder).items()}
    return data, replace(config, camera_distance=0.0)
