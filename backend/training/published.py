"""`turnaround train sparseneus-published`: the reconstructor at its published size, trained as the paper trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.reconstructors.sparseneus.network import SparseNeuS
from backend.training.data.meshes import split_meshes
from backend.training.data.scenes import FrozenGenerator, Scenes, SceneSpec
from backend.training.loop import LoopConfig
from backend.training.loop import train as run_loop
from backend.training.processes import own_device
from backend.training.volume import VolumeConfig, VolumeObjective, begin_with_sphere
from backend.weights.store import catalogue, is_present, load_into, weights_folder

NAME = "sparseneus-published"


@dataclass(frozen=True)
class PublishedTraining:
    """All settings of a run; the defaults are the paper's.

    Attributes:
        scenes: what is learned from.
        volume: the network and its loss.
        learning_rate: Adam's, highest at the beginning.
        decay_steps: in which it falls along a cosine.
        final_share: of the learning rate, what is left then.
        batch_size: scenes a step on each device.
        steps: in all.
        ema_half_life: in steps, of the averaged weights that are kept.
        save_every_minutes: between checkpoints and scores.
        log_every: steps between looks at the loss.
    """

    scenes: SceneSpec = field(default_factory=SceneSpec)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    learning_rate: float = 2e-4
    decay_steps: int = 200_000
    final_share: float = 0.1
    batch_size: int = 1
    steps: int = 300_000
    ema_half_life: int = 400
    save_every_minutes: float = 15.0
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.scenes.size != self.volume.network.image_size:
            raise ValueError("scenes are rendered at the size that the network looks at")

    def adam(self, objective: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
        """One optimizer for all weights."""
        return [torch.optim.Adam(objective.parameters(), config.learning_rate)]

    def cosine(self, config: LoopConfig, step: int, progress: float) -> float:
        """Share of the learning rate at a step."""
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.decay_steps)))
        return self.final_share + (1 - self.final_share) * fall


def chosen(
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    drawn_share: float | None = None,
    loss: Mapping[str, float | None],
) -> PublishedTraining:
    """The paper's settings but for those that are given; `loss` has weights of parts, see `VolumeConfig`."""
    paper = PublishedTraining()
    run = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    return replace(
        paper,
        scenes=replace(paper.scenes, **_given({"drawn_share": drawn_share})),
        volume=replace(paper.volume, **_given(loss)),
        **_given(run),
    )


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def train(
    meshes: Path,
    training: PublishedTraining,
    *,
    minutes: float = math.inf,
    device: str = "auto",
    output: Path = Path("out/train"),
    start_from: Path | None = None,
    zero123: Path | None = None,
    cache: Path = Path(".cache"),
    log: Callable[[str], None] = print,
) -> Path:
    """Trains on a folder of meshes; run again with the same output to go on.

    On several GPUs: `accelerate launch -m backend.cli train sparseneus-published ...`; each then takes its own scenes.

    Args:
        meshes: folder of meshes, see `find_meshes` for the split.
        training: all settings.
        minutes: of training in all, if that is less than the steps take.
        device: "auto", "cpu" or "cuda".
        output: folder for checkpoints, log and weights.
        start_from: weights to begin with instead of random ones.
        zero123: folder of the frozen generator; None learns from rendered views alone.
        cache: where scenes are kept: at the published size 13 MB each.
        log: receives a line now and then.

    Returns:
        The weights file, which `SparseNeuSReconstructor` opens.

    Raises:
        TurnaroundError: `train.device`, `meshes.none`, `train.no_split`; of the generator, as `load_components`.
    """
    where = own_device(device)
    members = split_meshes(meshes)
    generator = FrozenGenerator(zero123, where) if zero123 is not None else None
    data = {split: Scenes(files, training.scenes, cache, where, generator, log) for split, files in members.items()}
    log(f"{len(data['train'].files)} meshes to train on, {len(data['val'].files)} to validate")
    if generator is None:
        log("no Zero123: all views are rendered, and the reconstructor will trust drawn ones more than they are worth")
    torch.manual_seed(training.scenes.seed)
    network = SparseNeuS(training.volume.network).channels_last()
    begin_with_sphere(network.sdf_network_lod0.sdf_layer, training.volume.sphere)
    if start_from is not None:
        load_into(network, start_from)
    weights = output / f"{NAME}.safetensors"
    run_loop(
        VolumeObjective(network, training.volume).to(where),
        data["train"],
        data["val"],
        LoopConfig(
            minutes,
            training.batch_size,
            training.learning_rate,
            ema_half_life=training.ema_half_life,
            save_every_minutes=training.save_every_minutes,
            precision="no",  # statistics over all views do not bear half precision
            seed=training.scenes.seed,
            steps=training.steps,
            log_every=training.log_every,
            half=False,
        ),
        output / NAME,
        weights,
        training.volume.network,
        optimizers_for=training.adam,
        schedule=training.cosine,
        log=log,
    )
    return weights


def installed_zero123() -> Path | None:
    """The folder of the first Zero123 in the catalogue that is installed."""
    entries = (entry for entry in catalogue() if entry.layout == "zero123" and is_present(entry))
    return next((weights_folder(entry) for entry in entries), None)
