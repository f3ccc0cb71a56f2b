"""One training step of the X-UNet: a loss for a batch of picture pairs. The loop around it is not its business."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.generators.xunet.conditioning import ray_encoding, turn_to_input
from backend.generators.xunet.config import Prediction, XUNetConfig
from backend.generators.xunet.diffusion import add_noise, logsnr_at, target
from backend.generators.xunet.encoding import encode_images, encode_maps


def output_weight(prediction: Prediction, logsnr: Tensor, least: float, most: float) -> Tensor:
    """Weights of the output's squared error, for a clean picture's error that counts clamp(SNR, least, most).

    The noise's error is the clean picture's times sqrt(SNR), the velocity's is it times sqrt(SNR + 1).

    Args:
        prediction: the kind of output.
        logsnr: [B].
        least: 1 keeps the noisiest steps in play (Salimans & Ho 2022, "truncated SNR").
        most: 5 keeps the cleanest from drowning the rest (Hang et al. 2023, "min-SNR").

    Returns:
        [B].
    """
    weight = logsnr.exp().clamp(least, most)
    if prediction == "epsilon":
        return weight * torch.exp(-logsnr)
    if prediction == "v_prediction":
        return weight * torch.sigmoid(-logsnr)
    return weight


@dataclass(frozen=True)
class XUNetStep:
    """The loss of an X-UNet on a batch.

    A batch has `images` uint8 [B, 2, S, S, 4] (input and target, straight-alpha sRGB), `world_from_camera`
    float [B, 2, 4, 4] (OpenCV axes, object frame), `intrinsics` float [B, 2, 3, 3] for S pixels, and, for networks with
    map channels, `maps` float [B, 2, S, S, 7] as in `backend.generators.xunet.encoding`.

    Attributes:
        config: the network's.
        condition_dropout: share of samples that learn without their condition, for classifier-free guidance.
        least_weight: see `output_weight`; (0, inf) with "epsilon" is the paper's plain loss.
        most_weight: see `output_weight`.
    """

    config: XUNetConfig
    condition_dropout: float = 0.1
    least_weight: float = 1.0
    most_weight: float = 5.0

    @classmethod
    def published(cls, config: XUNetConfig) -> XUNetStep:
        """3DiM's own loss: the noise's mean squared error."""
        return cls(config, least_weight=0.0, most_weight=math.inf)

    def __call__(self, network: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """The mean weighted squared error, a scalar.

        Args:
            network: an `XUNet`, however it is wrapped.
            batch: on the network's device.
            generator: source of noise levels, noise and dropout; on any device.
        """
        config = self.config
        device = batch["images"].device
        inputs, targets = encode_images(batch["images"], config.image_channels).unbind(1)
        count = len(inputs)
        poses, maps = batch["world_from_camera"], batch["maps"] if config.map_channels else None
        if config.turn_to_input:
            poses, maps = turn_to_input(poses, maps)
        rays = ray_encoding(config, poses, batch["intrinsics"])

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(device)

        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, device=generator.device).to(device)

        # levels spread evenly over the batch, with a common random offset: less variance than drawing each alone
        t = (uniform(1) + torch.arange(count, device=device) / count) % 1.0
        logsnr = logsnr_at(t, config)
        noise = normal(targets)
        noisy = add_noise(targets, noise, logsnr)

        keep = (uniform(count) >= self.condition_dropout)[:, None, None, None]
        inputs = torch.where(keep, inputs, normal(inputs))
        rays = rays * keep[:, None]
        encoded_maps = None if maps is None else encode_maps(maps) * keep[:, None]

        levels = torch.stack([torch.full_like(logsnr, config.logsnr_max), logsnr], dim=1)
        output = network(inputs, noisy, levels, rays, encoded_maps).float()
        error = (output - target(config.prediction, targets, noise, logsnr)).square().mean(dim=(1, 2, 3))
        return (error * output_weight(config.prediction, logsnr, self.least_weight, self.most_weight)).mean()
