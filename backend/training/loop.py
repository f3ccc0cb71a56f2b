"""One training loop for all networks: accelerate, autocast, accumulated gradients, EMA, resumable to the step."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, broadcast
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from backend.training.optimizers import make_optimizers
from backend.weights.store import save_weights


class Data(Protocol):
    """What an objective draws its batches from."""

    device: torch.device


class Objective(Protocol):
    """A network with the loss that it is trained for: an nn.Module whose forward returns the loss's parts."""

    network: nn.Module
    step: int
    """Steps taken so far, told by the loop before each batch."""

    def draw(self, data: Any, size: int, generator: torch.Generator) -> tuple[Any, ...]:
        """A batch and whatever else `forward` takes."""

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the parts."""

    def score(self, data: Any) -> dict[str, float]:
        """How good the network is on validation episodes."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        minutes: of training in all, resumed runs counted in; the learning rate falls to 2% over them.
        batch_size: objects of a batch.
        learning_rate: the highest, reached after `warmup_steps`.
        ema_half_life: in steps; None keeps no average, and stores the weights as they are.
        save_every_minutes: between checkpoints and scores.
        precision: "bf16" or "no".
        seed: of the batches; batch k is the same whether or not the run was interrupted before it.
        steps: the most in all, resumed runs counted in; None for as many as the minutes allow.
        log_every: steps between looks at the loss, each of which waits for the device.
        half: store the weights as float16.
        accumulate: batches a step, whose gradients are averaged.
    """

    minutes: float
    batch_size: int = 8
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    ema_half_life: int | None = 400
    save_every_minutes: float = 5.0
    weight_decay: float = 0.01
    precision: str = "bf16"
    seed: int = 0
    steps: int | None = None
    log_every: int = 10
    half: bool = True
    accumulate: int = 1


MakeOptimizers = Callable[[nn.Module, LoopConfig], list[torch.optim.Optimizer]]
"""Optimizers that together step every parameter once, at their highest learning rates."""

Schedule = Callable[[LoopConfig, int, float], float]
"""Share of the highest learning rate at a step, with this share of the minutes gone."""

Write = Callable[[nn.Module, Path, Any, bool], None]
"""Writes a network to a path, with its config, in half precision or not."""


def muon_and_adamw(objective: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """See `make_optimizers`."""
    return make_optimizers(objective, config.learning_rate, config.weight_decay)


def cosine_over_minutes(config: LoopConfig, step: int, progress: float) -> float:
    """A warm-up in steps, then a cosine down to 2% when the minutes are used up."""
    share = min(1.0, (step + 1) / config.warmup_steps)
    return share * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def one_file(network: nn.Module, path: Path, config: Any, half: bool) -> None:
    """See `save_weights`."""
    save_weights(path, network.state_dict(), asdict(config), half=half)


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
    train_data: Data,
    val_data: Data,
    config: LoopConfig,
    folder: Path,
    weights_path: Path,
    network_config: Any,
    *,
    optimizers_for: MakeOptimizers = muon_and_adamw,
    schedule: Schedule = cosine_over_minutes,
    write: Write = one_file,
    log: Callable[[str], None] = print,
) -> None:
    """Trains until the minutes are used up or the steps taken; call again with the same folder to go on.

    Args:
        objective: an nn.Module that follows `Objective`.
        train_data: episodes to learn from.
        val_data: episodes to score with, never learned from.
        config: how long and how fast.
        folder: checkpoints and `log.jsonl`.
        weights_path: where the weights go at every save, averaged if there is an average.
        network_config: dataclass stored in the weights' metadata.
        optimizers_for: makes the optimizers.
        schedule: of their learning rates.
        write: writes the weights.
        log: receives a line now and then.
    """
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.accumulate),
        cpu=train_data.device.type == "cpu",
    )
    optimizers = optimizers_for(objective, config)
    highest = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    model, *optimizers = accelerator.prepare(objective, *optimizers)
    core = accelerator.unwrap_model(model)
    ema, state = None, _State()
    if config.ema_half_life is not None:
        decay = 0.5 ** (1 / config.ema_half_life)
        ema = EMAModel(core.network.parameters(), decay=decay, use_ema_warmup=True, power=0.8)
        ema.to(train_data.device)
        accelerator.register_for_checkpointing(ema)
    accelerator.register_for_checkpointing(state)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint"
    if (checkpoint / "complete").is_file():
        accelerator.load_state(str(checkpoint))
        accelerator.step = 0  # its count of batches: a run may go on with another number of them a step
        log(f"going on from step {state.step}, {state.elapsed / 60:.1f} minutes in")

    resumed, started = state.elapsed, time.monotonic()
    budget, saved = config.minutes * 60, resumed

    def elapsed() -> float:
        """Seconds of training, by the main process's clock: all have to save and to stop at the same step."""
        now = resumed + time.monotonic() - started
        if accelerator.num_processes == 1:
            return now
        return float(broadcast(torch.tensor(now, dtype=torch.float64, device=accelerator.device)))

    sums: dict[str, float] = {}
    count = 0
    most = math.inf if config.steps is None else config.steps
    while state.elapsed < budget and state.step < most:
        share = schedule(config, state.step, state.elapsed / budget)
        groups = (group for optimizer in optimizers for group in optimizer.param_groups)
        for group, rate in zip(groups, highest, strict=True):
            group["lr"] = rate * share
        core.step = state.step
        for batch in range(state.step * config.accumulate, (state.step + 1) * config.accumulate):
            generator = torch.Generator().manual_seed(
                (config.seed << 32) + batch * accelerator.num_processes + accelerator.process_index
            )
            inputs = core.draw(train_data, config.batch_size, generator)
            with accelerator.accumulate(model):  # gradients are exchanged and optimizers step after the last batch
                with accelerator.autocast():
                    parts = model(*inputs)
                    loss = core.total(parts)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            if (state.step + 1) % config.log_every == 0:  # reading a loss waits for the device
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach())
                count += 1
        if ema is not None:
            ema.step(core.network.parameters())
        state.step += 1
        state.elapsed = elapsed()
        due = state.elapsed - saved > config.save_every_minutes * 60
        if due or state.elapsed >= budget or state.step >= most:
            if accelerator.is_main_process:
                losses = {name: value / max(count, 1) for name, value in sums.items()}
                keep = partial(write, core.network, weights_path, network_config, config.half)
                _save(accelerator, core, ema, val_data, folder, keep, state, losses, log)
            accelerator.wait_for_everyone()
            sums, count, saved = {}, 0, elapsed()


def _save(
    accelerator: Accelerator,
    core: Any,
    ema: EMAModel | None,
    val_data: Data,
    folder: Path,
    keep: Callable[[], None],
    state: _State,
    losses: dict[str, float],
    log: Callable[[str], None],
) -> None:
    checkpoint = folder / "checkpoint"
    (checkpoint / "complete").unlink(missing_ok=True)
    accelerator.save_state(str(checkpoint), safe_serialization=True)
    (checkpoint / "complete").touch()
    if ema is not None:
        ema.store(core.network.parameters())
        ema.copy_to(core.network.parameters())
    core.eval()
    with accelerator.autocast():
        scores = core.score(val_data)
    keep()
    core.train()
    if ema is not None:
        ema.restore(core.network.parameters())
    row = {"step": state.step, "minutes": round(state.elapsed / 60, 2), **losses, **scores}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    log("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
