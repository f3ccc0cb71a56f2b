"""What the multi-view generator is trained for: to clean the views of an orbit, given the first and the feedback.

Noise and weights are those of the published training: z = x + sigma e, ln sigma normal, the error of the clean latents
weighted by (1 + sigma^2) / sigma^2, which makes it the velocity's (Karras et al. 2022, table 1, with unit data
variance).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.generators.multiview_svd.conditioning import Condition, make_condition
from backend.generators.multiview_svd.model import MultiviewModel
from backend.generators.multiview_svd.network import Cameras, Maps

MOST_WEIGHT = 5.0
"""Of clean latents that are predicted as such."""

CONDITION_NOISE = (-3.0, 0.5)
"""Mean and standard deviation of the logarithm of the noise on the picture."""


@dataclass(frozen=True)
class Orbits:
    """Objects to learn from, on the model's device.

    Attributes:
        views: float32 [B, F, 3, S, S] in -1..1, on white; the first is the picture that the others are drawn from.
        cameras: of the views, in the network's frame, see `network_cameras`.
    """

    views: Tensor
    cameras: Cameras


@dataclass(frozen=True)
class NoiseLevels:
    """How much noise there is in training.

    Attributes:
        mean: of ln sigma.
        std: of ln sigma.
        dropout: share of samples without the embedding alone; as many are without the latents alone, and without both.
    """

    mean: float = 1.0
    std: float = 1.6
    dropout: float = 0.1


@dataclass(frozen=True)
class Noised:
    """One draw of noise, which both passes of self-conditioning share.

    Attributes:
        clean: float32 [B, F, C, h, w], scaled latents.
        noisy: likewise.
        sigma: [B].
        condition: of the pictures, dropped where it is to be.
    """

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    condition: Condition

    @property
    def timestep(self) -> Tensor:
        """What the networks are told of the noise, [B]."""
        return 0.25 * self.sigma.log()


def add_noise(
    model: MultiviewModel, orbits: Orbits, generator: torch.Generator, levels: NoiseLevels | None = None
) -> Noised:
    """Encodes, draws the noise and drops conditions; gradients reach the image encoder, if it is trained.

    Args:
        model: whose encoders are used.
        orbits: B of them.
        generator: source of all that is drawn; on any device.
        levels: None takes the published.
    """
    levels, config, device = levels or NoiseLevels(), model.config, orbits.views.device
    batch = len(orbits.views)

    def uniform() -> Tensor:
        # spread evenly over the batch, with a common random offset: less variance than drawing each alone
        first = torch.rand(1, generator=generator, device=generator.device)
        return ((first.to(device) + torch.arange(batch, device=device) / batch) % 1.0).clamp(1e-5, 1 - 1e-5)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=generator.device).to(device)

    sigma = torch.exp(levels.mean + levels.std * torch.special.ndtri(uniform()))
    sigma = sigma.clamp(config.sigma_min, config.sigma_max)
    with torch.no_grad():
        clean = model.latents(orbits.views).float()
    noisy = clean + sigma[:, None, None, None, None] * normal(clean)

    picture = orbits.views[:, 0]
    strength = torch.exp(CONDITION_NOISE[0] + CONDITION_NOISE[1] * normal(sigma))
    condition = make_condition(model, picture, orbits.cameras, normal(picture), strength)
    share, chance = levels.dropout, torch.rand(batch, generator=generator, device=generator.device).to(device)
    condition = condition.keep(chance >= 2 * share, (chance < share) | (chance >= 3 * share))
    return Noised(clean, noisy, sigma, condition)


def denoise_once(model: MultiviewModel, noised: Noised, feedback: Maps) -> tuple[Tensor, Tensor]:
    """The loss and the latents as the model would have them.

    Args:
        model: to train.
        noised: see `add_noise`.
        feedback: what the network is shown; zeros in the first pass, see `no_feedback`.

    Returns:
        Weighted squared errors, float32 [B], and clean latents, float32 [B, F, C, h, w].
    """
    condition, sigma = noised.condition, noised.sigma[:, None, None, None, None]
    power = sigma.square() + 1
    beside = condition.latents[:, None].expand(-1, noised.noisy.shape[1], -1, -1, -1)
    output = model.network(
        torch.cat([noised.noisy / power.sqrt(), beside], dim=2),
        noised.timestep,
        condition.context,
        condition.added_time_ids,
        condition.cameras,
        feedback,
    ).float()
    weight = power / sigma.square()
    if model.config.prediction == "sample":  # what is nearly clean would drown the rest (Hang et al. 2023, "min-SNR")
        estimate, weight = output, weight.clamp(max=MOST_WEIGHT)
    else:
        estimate = noised.noisy / power - output * sigma / power.sqrt()
    error = (estimate - noised.clean).square() * weight
    return error.mean(dim=(1, 2, 3, 4)), estimate


def denoising_loss(model: MultiviewModel, noised: Noised, feedback: Maps) -> tuple[Tensor, Tensor]:
    """As `denoise_once`, but with pictures, float32 [B, F, 3, S, S], about -1..1; both can be learned from."""
    error, estimate = denoise_once(model, noised, feedback)
    return error, model.pictures(estimate)
