"""`turnaround train zero123`: a small Zero123 from nothing, or the U-Net of an installed one trained further.

The small one has the published classes and layout and differs in size alone, so that whatever is measured of Zero123's
sampling can be measured on trained weights. Three things are learned: an autoencoder of pictures, then, in its latents,
the U-Net, and with it the image encoder and the layer that takes the pose in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from backend.generators.zero123 import published
from backend.generators.zero123.components import Components, NoiseConfig, load_components
from backend.generators.zero123.pose import POSE_SIZE, pose_vector
from backend.generators.zero123.preprocessing import SIZE, clip_pixels
from backend.geometry.cameras import Camera
from backend.training.batches import EpisodeTensors
from backend.training.loop import LoopConfig
from backend.training.loop import train as run_loop
from backend.weights.store import load_into

NAME = "zero123"

CONTEXT = 128
SMALL_UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (48, 96, 144),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": CONTEXT,
    "norm_num_groups": 16,
}
SMALL_VAE: dict[str, Any] = published.VAE | {
    "block_out_channels": (8, 16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
SMALL_IMAGE_ENCODER: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 28,
    "projection_dim": CONTEXT - POSE_SIZE,
}
"""The published sizes are in `backend.generators.zero123.published`."""

AUTOENCODER_SHARE = 0.25
"""Of the minutes; the rest is the U-Net's."""
KL_WEIGHT = 1e-6
CONDITION_DROPOUT = 0.05
"""Each of: without the embedding, without the latent, without both (Zero123's training code)."""
MIN_SNR = 5.0
"""Where the weight of the noise's error stops growing with the SNR (Hang et al. 2023, "min-SNR")."""


def small_components() -> Components:
    """A Zero123 of the small sizes with random weights; its layer of the pose begins as the identity."""
    projection = nn.Linear(CONTEXT, CONTEXT)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return Components(
        unet=UNet2DConditionModel(**SMALL_UNET),
        vae=AutoencoderKL(**SMALL_VAE),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**SMALL_IMAGE_ENCODER)),
        cc_projection=projection,
        noise=NoiseConfig(**{name: published.SCHEDULER[name] for name in NoiseConfig.__struct_fields__}),
        pose="relative",
    )


def save_components(components: Components, folder: Path) -> None:
    """Writes a folder that `load_components` opens."""
    for name in ("unet", "vae", "image_encoder"):
        getattr(components, name).save_pretrained(folder / name)
    _scheduler(components.noise).save_pretrained(folder / "scheduler")
    place = folder / "cc_projection"
    place.mkdir(parents=True, exist_ok=True)
    layer = components.cc_projection
    tensors = {"cc_projection.weight": layer.weight.detach(), "cc_projection.bias": layer.bias.detach()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / "model.safetensors")
    config = {"channel": layer.in_features, "pose": components.pose}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")


def pictures_on_white(images: Tensor) -> Tensor:
    """uint8 [N, S, S, 4], straight alpha, as [N, 3, 256, 256] in -1..1."""
    values = images.permute(0, 3, 1, 2).float() / 255
    white = values[:, :3] * values[:, 3:] + 1 - values[:, 3:]
    if white.shape[-1] != SIZE:
        white = F.interpolate(white, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return white * 2 - 1


class AutoencoderObjective(nn.Module):
    """Pictures through few numbers and back: squared error and a little of the KL divergence.

    Args:
        network: an AutoencoderKL.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.step = network, 0

    def draw(self, data: EpisodeTensors, size: int, generator: torch.Generator) -> tuple[Tensor]:
        """A quarter of each of two views of `size` objects: what is learned is local."""
        pictures = pictures_on_white(data.batch(size, 2, generator, surface_points=1).images.flatten(0, 1))
        top, left = torch.randint(SIZE // 2 + 1, (2,), generator=generator).tolist()
        return (pictures[..., top : top + SIZE // 2, left : left + SIZE // 2],)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """The parts of the loss of pictures [N, 3, H, W]."""
        posterior = self.network.encode(pictures).latent_dist
        drawn = self.network.decode(posterior.sample()).sample.float()
        # edges as well, since a narrow autoencoder that is asked for colours alone blurs them
        edges = sum((drawn.diff(dim=d) - pictures.diff(dim=d)).abs().mean() for d in (-1, -2))
        return {
            "error": (drawn - pictures).square().mean(),
            "edges": torch.as_tensor(edges),
            "kl": posterior.kl().mean(),
        }

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """Weighted sum."""
        return parts["error"] + 0.1 * parts["edges"] + KL_WEIGHT * parts["kl"]

    @torch.no_grad()
    def score(self, data: EpisodeTensors, *, objects: int = 32) -> dict[str, float]:
        """PSNR in dB of validation pictures that went through."""
        pictures = pictures_on_white(data.first(slice(0, objects), 1).images[:, 0])
        drawn = self.network.decode(self.network.encode(pictures).latent_dist.mode()).sample.float()
        error = (drawn - pictures).square().mean(dim=(1, 2, 3)) / 4
        return {"psnr": float((-10 * error.log10()).mean())}


class Zero123Objective(nn.Module):
    """The noise of a view's latent, predicted from a picture and how far the camera turned.

    Args:
        components: a Zero123 whose autoencoder is trained; it stays as it is.
        train_image_encoder: whether the image encoder learns as well; Zero123's own did not.
    """

    def __init__(self, components: Components, *, train_image_encoder: bool) -> None:
        super().__init__()
        parts = {"unet": components.unet, "cc_projection": components.cc_projection}
        self.frozen: tuple[Any, ...] = (components.vae,)  # in a tuple: not among what is trained and saved
        if train_image_encoder:
            parts["image_encoder"] = components.image_encoder
        else:
            self.frozen += (components.image_encoder,)
        self.network, self.step = nn.ModuleDict(parts).requires_grad_(True), 0
        self.encoder, self.components = (components.image_encoder,), (components,)
        self.signal: Tensor
        self.register_buffer("signal", _scheduler(components.noise).alphas_cumprod, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for network in self.frozen:
            network._apply(fn)
        return super()._apply(fn, recurse)

    def draw(
        self, data: EpisodeTensors, size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, torch.Generator]:
        """Pairs of pictures [B, 2, 3, 256, 256], poses [B, 4] and the source of their noise."""
        batch = data.batch(size, 2, generator, surface_points=1)
        return pictures_on_white(batch.images.flatten(0, 1)).unflatten(0, (size, 2)), poses(batch.cameras), generator

    def forward(self, pictures: Tensor, pose: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss under its name."""
        scaling = self.components[0].vae.config.scaling_factor
        with torch.no_grad():
            latents = self.components[0].vae.encode(pictures.flatten(0, 1)).latent_dist.mode().float()
        seen, clean = latents.unflatten(0, (-1, 2)).unbind(1)
        clean = clean * scaling
        count, device = len(clean), clean.device

        embedding = self.encoder[0](clip_pixels(pictures[:, 0], self._clip_size)).image_embeds.float()
        chance = torch.rand(count, generator=generator).to(device)
        keep_embedding = (chance >= 2 * CONDITION_DROPOUT).float()
        keep_latent = ((chance < CONDITION_DROPOUT) | (chance >= 3 * CONDITION_DROPOUT)).float()
        told = torch.cat([embedding * keep_embedding[:, None], pose], dim=1)
        context = self.network["cc_projection"](told)[:, None]

        timestep = torch.randint(len(self.signal), (count,), generator=generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        signal = self.signal[timestep][:, None, None, None]
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        given = torch.cat([noisy, seen * keep_latent[:, None, None, None]], dim=1)
        output = self.network["unet"](given, timestep, context).sample.float()
        snr = self.signal[timestep] / (1 - self.signal[timestep])
        error = (output - noise).square().mean(dim=(1, 2, 3))
        return {"noise": (error * (MIN_SNR / snr).clamp(max=1)).mean()}

    @property
    def _clip_size(self) -> int:
        return int(self.encoder[0].config.image_size)

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """The one part."""
        return parts["noise"]

    @torch.no_grad()
    def score(self, data: EpisodeTensors, *, objects: int = 64) -> dict[str, float]:
        """The loss on validation pairs, with the same noise every time."""
        generator = torch.Generator().manual_seed(0)
        batch = data.first(slice(0, objects), 2)
        pictures = pictures_on_white(batch.images.flatten(0, 1)).unflatten(0, (-1, 2))
        return {"val_noise": float(self(pictures, poses(batch.cameras), generator)["noise"])}


def poses(cameras: Tensor) -> Tensor:
    """`pose_vector` of pairs of cameras [B, 2, 4]: float32 [B, 4]."""
    vectors = [pose_vector(Camera(*picture), Camera(*target)) for picture, target in cameras.tolist()]
    return torch.from_numpy(np.stack(vectors)).to(cameras.device)


def _scheduler(noise: NoiseConfig) -> Any:
    return DDIMScheduler(**published.SCHEDULER | {name: getattr(noise, name) for name in noise.__struct_fields__})


@dataclass(frozen=True)
class Zero123Training:
    """How a run is made.

    Attributes:
        minutes: in all.
        batch_size: objects a step.
        learning_rate: the highest.
    """

    minutes: float
    batch_size: int = 8
    learning_rate: float = 1e-3


def train_zero123(
    data: dict[str, EpisodeTensors],
    training: Zero123Training,
    output: Path,
    *,
    start_from: Path | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Trains on episodes; run again with the same output to go on.

    Args:
        data: of the splits "train" and "val".
        training: see there.
        output: folder for checkpoints and weights.
        start_from: folder of a Zero123, whose U-Net and pose layer are trained further; None begins a small one.
        log: receives a line now and then.

    Returns:
        The folder of the weights, which `Zero123Generator` opens.
    """
    device = data["train"].device
    torch.manual_seed(0)
    components = small_components() if start_from is None else load_components(start_from)
    minutes = training.minutes
    if start_from is None:
        log("the autoencoder of pictures")
        share = LoopConfig(minutes * AUTOENCODER_SHARE, training.batch_size, 2e-3, warmup_steps=50, ema_half_life=100)
        weights = output / "autoencoder.safetensors"
        vae = AutoencoderObjective(components.vae).to(device)
        run_loop(vae, data["train"], data["val"], share, output / "autoencoder", weights, _Config(), log=log)
        load_into(components.vae, weights)
        _scale(components.vae, data["train"])
        minutes -= share.minutes
    components.vae.eval().requires_grad_(False).to(device)
    log("the U-Net in its latents")
    objective = Zero123Objective(components, train_image_encoder=start_from is None).to(device)
    weights = output / f"{NAME}.safetensors"
    rates = LoopConfig(minutes, training.batch_size, training.learning_rate)
    run_loop(objective, data["train"], data["val"], rates, output / NAME, weights, _Config(), log=log)
    load_into(objective.network, weights)
    save_components(components, output / NAME / "weights")
    return output / NAME / "weights"


@dataclass(frozen=True)
class _Config:
    """Of files between two steps of a run: the sizes are in the folder that the run leaves."""

    of: str = NAME


@torch.no_grad()
def _scale(vae: Any, data: EpisodeTensors) -> None:
    """Sets the factor that brings latents to unit variance."""
    batch = data.batch(16, 2, torch.Generator().manual_seed(0), surface_points=1)
    latents = vae.encode(pictures_on_white(batch.images.flatten(0, 1))).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
