"""What the view generator is trained for: to clean a noisy view, given a picture from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.generators.xunet.config import Prediction, XUNetConfig
from backend.generators.xunet.diffusion import add_noise, logsnr_at, target
from backend.generators.xunet.encoding import decode_images, encode_images
from backend.generators.xunet.network import XUNet
from backend.generators.xunet.sampling import denoise, make_condition
from backend.geometry import batched
from backend.training.batches import Batch, EpisodeTensors


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
        inputs, views = batch["images"].unbind(1)
        maps = batch["maps"] if config.map_channels else None
        condition = make_condition(config, inputs, batch["world_from_camera"], batch["intrinsics"], maps)
        targets = encode_images(views, config.image_channels)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(device)

        def normal() -> Tensor:
            return torch.randn(targets.shape, generator=generator, device=generator.device).to(device)

        # levels spread evenly over the batch, with a common random offset: less variance than drawing each alone
        t = (uniform(1) + torch.arange(len(targets), device=device) / len(targets)) % 1.0
        logsnr = logsnr_at(t, config)
        noise = normal()
        noisy = add_noise(targets, noise, logsnr)
        condition = condition.dropped(uniform(len(targets)) >= self.condition_dropout, normal())

        levels = torch.stack([torch.full_like(logsnr, config.logsnr_max), logsnr], dim=1)
        output = network(condition.pictures, noisy, levels, condition.rays, condition.maps).float()
        error = (output - target(config.prediction, targets, noise, logsnr)).square().mean(dim=(1, 2, 3))
        return (error * output_weight(config.prediction, logsnr, self.least_weight, self.most_weight)).mean()


class XUNetObjective(nn.Module):
    """The X-UNet as the training loop wants it.

    Args:
        network: to train; one with map channels takes the episodes' feedback.
        loss: None takes the defaults.
        near_share: of pairs without maps, those from directions near each other: how colours come across is learned
            from these first, and a small budget does not get much further.
    """

    def __init__(self, network: XUNet, loss: XUNetStep | None = None, *, near_share: float = 0.0) -> None:
        super().__init__()
        self.network, self.near_share = network, near_share
        self.loss = loss or XUNetStep(network.config)

    def draw(
        self, data: EpisodeTensors, size: int, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], torch.Generator]:
        """Pairs of a known view and another, and the source of their noise.

        Without maps the known view is any: stochastic conditioning shows the network whatever is in its pool. Maps are
        made from the input picture, so that it is the known view there.
        """
        if self.network.config.map_channels:
            return self.tensors(data.batch(size, 2, generator, surface_points=1)), generator
        return self.tensors(data.pairs(size, generator, near_share=self.near_share)), generator

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The loss under its name."""
        return {"denoising": self.loss(self.network, batch, generator)}

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """The one part."""
        return parts["denoising"]

    @torch.no_grad()
    def score(self, data: EpisodeTensors, *, objects: int = 64, steps: int = 8) -> dict[str, float]:
        """Drawn views of validation objects against the true ones, and the same for the input picture in their place.

        PSNR in dB on white, IoU of silhouettes; of the second view of each object's first episode.
        """
        network = self.network
        tensors = self.examples(data, objects)
        inputs, truth = tensors["images"].unbind(1)
        condition = make_condition(
            network.config, inputs, tensors["world_from_camera"], tensors["intrinsics"], tensors.get("maps")
        )
        sources = [torch.Generator().manual_seed(i) for i in range(len(truth))]
        for drawn, _ in denoise(network, condition, sources, steps=steps):
            views = torch.from_numpy(decode_images(drawn)).to(truth.device)
        return {
            "psnr": psnr_on_white(views, truth),
            "iou": silhouette_iou(views, truth),
            "input_psnr": psnr_on_white(inputs, truth),
            "input_iou": silhouette_iou(inputs, truth),
        }

    def examples(self, data: EpisodeTensors, objects: int) -> dict[str, Tensor]:
        """A pair of views of each of the first objects, as `XUNetStep` takes it."""
        return self.tensors(data.first(slice(0, objects), 2))

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """A batch of two views as `XUNetStep` takes it."""
        tensors = {
            "images": batch.images,
            "world_from_camera": batched.world_from_camera(batch.cameras),
            "intrinsics": batched.intrinsics(batch.cameras, batch.images.shape[2]),
        }
        if self.network.config.map_channels:
            if batch.feedback is None:
                raise ValueError("this network needs episodes with feedback")
            tensors["maps"] = batch.feedback
        return tensors


def psnr_on_white(images: Tensor, truth: Tensor) -> float:
    """Mean PSNR in dB of uint8 straight-alpha pictures [B, S, S, 4] on white."""
    errors = (encode_images(images, 3) - encode_images(truth, 3)).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * torch.log10(errors.clamp(min=1e-10))).mean())


def silhouette_iou(images: Tensor, truth: Tensor) -> float:
    """Mean intersection over union of alpha above one half; uint8 [B, S, S, 4]."""
    a, b = images[..., 3] > 127, truth[..., 3] > 127
    return float(((a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)).mean())
