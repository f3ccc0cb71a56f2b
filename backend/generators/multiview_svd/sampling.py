"""From noise to views, all of them together, step by step; after each the feedback for the next is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from protocol.errors import TurnaroundError

from .conditioning import Condition
from .config import MultiviewConfig
from .model import MultiviewModel
from .network import Maps

LARGEST = 100.0
"""Root mean square of estimated latents, which is about 1, beyond which the drawing has exploded."""


class Step(NamedTuple):
    """The state after one step.

    Attributes:
        number: of the step, from 1.
        total: how many there are.
        sigma: the noise that the step began with.
        timestep: [B], what the network was told of it; the reconstructor is told the same.
        images: float32 [B, F, 3, S, S], about -1..1, the present estimate of the views; that of the last step is the
            result.
    """

    number: int
    total: int
    sigma: float
    timestep: Tensor
    images: Tensor


Feedback = Callable[[Step], Maps | None]
"""Told each step but the last, gives the maps that the next one is shown; None shows it none."""


def make_scheduler(config: MultiviewConfig, steps: int) -> Any:
    """Stable Video Diffusion's scheduler: Karras' noise levels, velocities, timesteps of 0.25 ln sigma."""
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def no_feedback(config: MultiviewConfig, batch: int, device: torch.device) -> Maps:
    """What the network is shown where there is no reconstruction: zeros, which its adapters see."""
    shape = (batch, config.frames, 3, config.size, config.size)
    return Maps(torch.zeros(shape, device=device), torch.zeros(shape, device=device))


@torch.no_grad()
def denoise(
    model: MultiviewModel,
    condition: Condition,
    sources: Sequence[torch.Generator],
    *,
    steps: int | None = None,
    guidance: tuple[float, float] | None = None,
    feedback: Feedback | None = None,
) -> Iterator[Step]:
    """Draws the views of B pictures.

    Args:
        model: computes on its device and in the type of its weights.
        condition: of B pictures.
        sources: B generators on the CPU, of the first noise.
        steps: None takes the config's.
        guidance: weight of the condition for the first view and for the last, in between evenly spaced; None takes the
            config's, (1, 1) halves the work.
        feedback: None shows the network none at any step.

    Yields:
        After each step, before `feedback` is asked about it.

    Raises:
        TurnaroundError: `views.diverged`.
    """
    config, device, batch = model.config, model.device, len(condition.context)
    scheduler = make_scheduler(config, steps or config.steps)
    low, high = guidance or config.guidance
    scale = torch.linspace(low, high, config.frames, device=device)[None, :, None, None, None]
    halves = _halves(condition) if (low, high) != (1.0, 1.0) else condition
    beside = halves.latents[:, None].expand(-1, config.frames, -1, -1, -1)
    repeats = len(halves.context) // batch

    shape = (config.frames, config.latent_channels, config.latent_size, config.latent_size)
    z = torch.stack([torch.randn(shape, generator=source) for source in sources]).to(device)
    z = z * scheduler.init_noise_sigma
    none = no_feedback(config, batch, device)
    maps, total = none, len(scheduler.timesteps)
    for number, timestep in enumerate(scheduler.timesteps, start=1):
        noisy = scheduler.scale_model_input(z, timestep).repeat(repeats, 1, 1, 1, 1)
        sigma = float(scheduler.sigmas[scheduler.step_index])
        times = timestep.to(device).expand(len(noisy))
        output = model.network(
            torch.cat([noisy, beside], dim=2), times, halves.context, halves.added_time_ids, condition.cameras, maps
        ).float()
        if repeats == 2:
            unconditional, conditional = output.chunk(2)
            output = unconditional + scale * (conditional - unconditional)
        velocity = output if config.prediction == "v_prediction" else velocity_of(output, z, sigma)
        result = scheduler.step(velocity, timestep, z)
        z = result.prev_sample
        check(result.pred_original_sample)
        step = Step(number, total, sigma, times[:batch], model.pictures(result.pred_original_sample))
        check(step.images)
        yield step
        if feedback is not None and number < total:
            maps = feedback(step) or none


def velocity_of(clean: Tensor, noisy: Tensor, sigma: float) -> Tensor:
    """The velocity that stands for clean latents, where the noisy ones are z = x + sigma e."""
    power = sigma**2 + 1
    return (noisy / power - clean) * power**0.5 / sigma


def check(estimate: Tensor) -> None:
    """Stops a drawing that has come apart.

    Raises:
        TurnaroundError: `views.diverged`, if a number is not finite or the whole is far too large.
    """
    size = float(estimate.square().mean().sqrt())
    if not size <= LARGEST:  # not a number is not less either
        raise TurnaroundError(
            "views.diverged",
            "The drawing came apart: the views no longer hold colours.",
            "Try another seed or less guidance; if it stays so, the weights may be damaged.",
            details=f"root mean square {size}",
        )


def _halves(condition: Condition) -> Condition:
    """Without the picture, then with it; cameras are for both and are not repeated."""
    none = torch.zeros_like(condition.context[:, 0, 0], dtype=torch.bool)
    without = condition.keep(none, none)
    return Condition(
        torch.cat([without.context, condition.context]),
        torch.cat([without.latents, condition.latents]),
        condition.added_time_ids.repeat(2, 1),
        condition.cameras,
    )
