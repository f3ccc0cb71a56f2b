"""One training loop for all networks: accelerate, bf16 autocast, EMA, resumable to the step."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from backend.training.batches import EpisodeTensors
from backend.training.optimizers import make_optimizers
from backend.weights.store import save_weights


class Objective(Protocol):
    """A network with the loss that it is trained for: an nn.Module whose forward returns the loss's parts."""

    network: nn.Module

    def draw(self, data: EpisodeTensors, size: int, generator: torch.Generator) -> tuple[Any, ...]:
        """A batch and whatever else `forward` takes."""

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the parts."""

    def score(self, data: EpisodeTensors) -> dict[str, float]:
        """How good the network is on validation episodes."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        minutes: of training in all, resumed runs counted in; the learning rate falls to 2% over them.
        batch_size: objects a step.
        learning_rate: the highest, reached after `warmup_steps`.
        ema_half_life: in steps.
        save_every_minutes: between checkpoints and scores.
        precision: "bf16" or "no".
        seed: of the batches; batch k is the same whether or not the run was interrupted before it.
    """

    minutes: float
    batch_size: int = 8
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    ema_half_life: int = 400
    save_every_minutes: float = 5.0
    weight_decay: float = 0.01
    precision: str = "bf16"
    seed: int = 0


class _State:
    """What a resumed run has to know beside the weights."""

    def __init__(self) -> None:
        self.step, self.elapsed = 0, 0.0

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "elapsed": self.elapsed}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self.elapsed = int(state["step"]), float(state["elapsed"])


def train(
    objective: Any,
    train_data: EpisodeTensors,
    val_data: EpisodeTensors,
    config: LoopConfig,
    folder: Path,
    weights_path: Path,
    network_config: Any,
    *,
    log: Callable[[str], None] = print,
) -> None:
    """Trains until the minutes are used up; call again with the same folder to go on.

    Args:
        objective: an nn.Module that follows `Objective`.
        train_data: episodes to learn from.
        val_data: episodes to score with, never learned from.
        config: how long and how fast.
        folder: checkpoints and `log.jsonl`.
        weights_path: where the averaged weights go at every save, fp16 safetensors with the network's config.
        network_config: dataclass stored in the weights' metadata.
        log: receives a line now and then.
    """
    accelerator = Accelerator(mixed_precision=config.precision, cpu=train_data.device.type == "cpu")
    optimizers = make_optimizers(objective, config.learning_rate, config.weight_decay)
    highest = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    model, *optimizers = accelerator.prepare(objective, *optimizers)
    core = accelerator.unwrap_model(model)
    ema = EMAModel(core.network.parameters(), decay=0.5 ** (1 / config.ema_half_life), use_ema_warmup=True, power=0.8)
    ema.to(train_data.device)
    state = _State()
    accelerator.register_for_checkpointing(ema, state)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint"
    if (checkpoint / "complete").is_file():
        accelerator.load_state(str(checkpoint))
        log(f"going on from step {state.step}, {state.elapsed / 60:.1f} minutes in")

    budget, last_save = config.minutes * 60, time.monotonic()
    resumed, started = state.elapsed, time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    while state.elapsed < budget:
        progress = state.elapsed / budget
        share = min(1.0, (state.step + 1) / config.warmup_steps)
        share *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        groups = (group for optimizer in optimizers for group in optimizer.param_groups)
        for group, rate in zip(groups, highest, strict=True):
            group["lr"] = rate * share
        generator = torch.Generator().manual_seed(
            (config.seed << 32) + state.step * accelerator.num_processes + accelerator.process_index
        )
        inputs = core.draw(train_data, config.batch_size, generator)
        with accelerator.autocast():
            parts = model(*inputs)
            loss = core.total(parts)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        ema.step(core.network.parameters())
        state.step += 1
        state.elapsed = resumed + time.monotonic() - started
        if state.step % 10 == 0:  # reading a loss waits for the device
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            count += 1
        due = time.monotonic() - last_save > config.save_every_minutes * 60
        if due or state.elapsed >= budget:
            if accelerator.is_main_process:
                _save(accelerator, core, ema, val_data, folder, weights_path, network_config, state, sums, count, log)
            accelerator.wait_for_everyone()
            sums, count, last_save = {}, 0, time.monotonic()


def _save(
    accelerator: Accelerator,
    core: Any,
    ema: EMAModel,
    val_data: EpisodeTensors,
    folder: Path,
    weights_path: Path,
    network_config: Any,
    state: _State,
    sums: dict[str, float],
    count: int,
    log: Callable[[str], None],
) -> None:
    checkpoint = folder / "checkpoint"
    (checkpoint / "complete").unlink(missing_ok=True)
    accelerator.save_state(str(checkpoint), safe_serialization=True)
    (checkpoint / "complete").touch()
    ema.store(core.network.parameters())
    ema.copy_to(core.network.parameters())
    core.eval()
    with accelerator.autocast():
        scores = core.score(val_data)
    save_weights(weights_path, core.network.state_dict(), asdict(network_config), half=True)
    core.train()
    ema.restore(core.network.parameters())
    losses = {name: value / max(count, 1) for name, value in sums.items()}
    row = {"step": state.step, "minutes": round(state.elapsed / 60, 2), **losses, **scores}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    log("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
