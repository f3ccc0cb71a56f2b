"""From noise to latents: schedules, guidance in the same batch, and batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from backend.devices import empty_cache, is_out_of_memory

from .components import NoiseConfig

Schedule = Literal["dpmsolver++", "ddim", "ldm"]
"""How noise is taken off.

dpmsolver++: DPM-Solver++ (2M) in even steps of the log-SNR; few steps, 14 are enough.
ddim: DDIM without added noise, as diffusers' Zero123 does it by default; 50 steps.
ldm: DDIM that adds noise (eta 1), in the original code's steps, of which asking for 75 gives 77; One-2-3-45's.
"""

DEFAULT_SCHEDULE: Schedule = "dpmsolver++"
DEFAULT_STEPS = 14


def make_scheduler(noise: NoiseConfig, schedule: Schedule, steps: int) -> tuple[Any, dict[str, Any]]:
    """diffusers' scheduler with its timesteps set, and what each of its steps is to be told besides.

    Args:
        noise: what the network was trained on.
        schedule: which.
        steps: how many to ask for; "ldm" may take a few more.
    """
    if not 1 <= steps <= noise.num_train_timesteps:
        raise ValueError(f"steps must be 1 to {noise.num_train_timesteps}, not {steps}")
    trained = {
        "num_train_timesteps": noise.num_train_timesteps,
        "beta_start": noise.beta_start,
        "beta_end": noise.beta_end,
        "beta_schedule": noise.beta_schedule,
    }
    if schedule == "dpmsolver++":
        scheduler: Any = DPMSolverMultistepScheduler(**trained, use_lu_lambdas=True)
        scheduler.set_timesteps(steps)
        return scheduler, {}
    scheduler = DDIMScheduler(**trained, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    stride = noise.num_train_timesteps // steps
    if schedule == "ldm":  # the original takes every stride-th timestep there is, however many that makes
        scheduler.timesteps = torch.arange(1, noise.num_train_timesteps + 1, stride).flip(0)
    # With some numbers of steps, the first would lie beyond the training's, and both codes fail there.
    scheduler.timesteps = scheduler.timesteps[scheduler.timesteps < noise.num_train_timesteps]
    return scheduler, {"eta": 1.0 if schedule == "ldm" else 0.0}


# --------------------------------------------------------------------------------------------------------- batches


@dataclass
class Batches:
    """Works through a batch in parts, and makes these smaller when memory runs out.

    Attributes:
        size: the most items in one part; what it has been lowered to stays.
        check: called between parts; may raise to stop.
    """

    size: int
    check: Callable[[], None]

    def run(self, compute: Callable[[slice], Tensor], count: int) -> Tensor:
        """`compute` of the whole of `count` items, put together along the first axis.

        Raises:
            RuntimeError: memory is short even for a single item; whatever else `compute` raises.
        """
        parts: list[Tensor] = []
        start = 0
        while start < count:
            if parts:
                self.check()
            part = slice(start, min(start + self.size, count))
            result = _attempt(compute, part)
            if result is None:
                self.size = (part.stop - part.start) // 2
                empty_cache()
            else:
                parts.append(result)
                start = part.stop
        return torch.cat(parts)


def _attempt(compute: Callable[[slice], Tensor], part: slice) -> Tensor | None:
    """The result, or None where memory ran out: by then the error's frames, and the tensors in them, are gone."""
    try:
        return compute(part)
    except (RuntimeError, MemoryError) as error:
        if part.stop - part.start == 1 or not is_out_of_memory(error):
            raise
    return None


# ------------------------------------------------------------------------------------------------------- denoising


@dataclass(frozen=True)
class Condition:
    """What the U-Net is given besides the noisy latents.

    Attributes:
        context: [N, 1, C], what the picture shows and where to turn.
        latents: [N, 4, h, w], the picture's, without the scaling that the noisy ones have.
    """

    context: Tensor
    latents: Tensor


def predict_noise(unet: Any, z: Tensor, timestep: Tensor, condition: Condition, scale: float) -> Tensor:
    """The noise in latents z, float32 [N, 4, h, w], with classifier-free guidance in the same batch.

    The unconditional half has zeros for its context, after the projection, and for the picture's latents. A scale of
    1 leaves it out.
    """
    context, latents = condition.context, condition.latents
    if scale != 1:
        z, latents = torch.cat([z, z]), torch.cat([latents, torch.zeros_like(latents)])
        context = torch.cat([context, torch.zeros_like(context)])
    both = torch.cat([z, latents], dim=1).to(unet.dtype)
    noise: Tensor = unet(both, timestep, encoder_hidden_states=context.to(unet.dtype), return_dict=False)[0].float()
    if scale == 1:
        return noise
    conditional, unconditional = noise.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def denoise(
    unet: Any,
    scheduler: Any,
    condition: Condition,
    sources: Sequence[torch.Generator],
    batches: Batches,
    *,
    scale: float,
    step_options: dict[str, Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws one latent per condition, step by step, all of them in step with one another.

    Args:
        unet: computes in the type of its weights.
        scheduler: as `make_scheduler` gives it.
        condition: N of them, float32, on the U-Net's device.
        sources: N, one per view: for the first noise and for what the schedule adds.
        batches: how many views the U-Net gets at once.
        scale: guidance s of unconditional + s (conditional - unconditional); 1 is none.
        step_options: as `make_scheduler` gives them.

    Yields:
        After each step, float32 [N, 4, h, w] twice: the latents with the noise that is left, and the present estimate
        of them without.
    """
    if "eta" in step_options:
        step_options = {**step_options, "generator": list(sources)}
    shape = condition.latents.shape[1:]
    z = torch.stack([torch.randn(shape, generator=source) for source in sources]).to(condition.latents.device)
    for timestep in scheduler.timesteps:

        def compute(part: slice, z: Tensor = z, timestep: Tensor = timestep) -> Tensor:
            chosen = Condition(condition.context[part], condition.latents[part])
            return predict_noise(unet, z[part], timestep, chosen, scale)

        noise = batches.run(compute, len(z))
        signal = scheduler.alphas_cumprod[int(timestep)].item()
        estimate = (z - (1 - signal) ** 0.5 * noise) / signal**0.5
        z = scheduler.step(noise, timestep, z, **step_options).prev_sample
        yield z, estimate
