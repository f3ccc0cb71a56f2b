"""From noise to views: the denoising steps, one batch for all views and both halves of the guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .conditioning import ray_encoding, turn_to_input
from .config import XUNetConfig
from .diffusion import Sampler, clean_image, guided, logsnr_table, make_sampler
from .encoding import encode_images, encode_maps
from .network import XUNet


@dataclass(frozen=True)
class Condition:
    """What the network is given besides the noisy views.

    Attributes:
        pictures: [N, C, S, S], the input picture of each view.
        rays: float32 [N, 2, ray_channels, h, h].
        maps: [N, 2, 7, S, S], or None for networks without.
    """

    pictures: Tensor
    rays: Tensor
    maps: Tensor | None

    def dropped(self, keep: Tensor, noise: Tensor) -> Condition:
        """Without what is not to be kept: noise for its picture, zeros for the rest.

        Args:
            keep: bool [N].
            noise: [N, C, S, S].
        """
        kept = keep[:, None, None, None]
        return Condition(
            torch.where(kept, self.pictures, noise.to(self.pictures.dtype)),
            self.rays * kept[:, None],
            None if self.maps is None else self.maps * kept[:, None],
        )

    def beside(self, other: Condition) -> Condition:
        """Both in one batch, this first."""
        maps = None if self.maps is None or other.maps is None else torch.cat([self.maps, other.maps])
        return Condition(torch.cat([self.pictures, other.pictures]), torch.cat([self.rays, other.rays]), maps)


class Given(NamedTuple):
    """A condition as the network takes it, in its type; where there is guidance, the unconditional half comes second.

    Attributes:
        pictures: [N, C, S, S].
        poses: of `ConditioningProcessor.embed_poses`.
        maps: [N, 2, 7, S, S], or None.
    """

    pictures: Tensor
    poses: tuple[Tensor, ...]
    maps: Tensor | None = None


def make_condition(
    config: XUNetConfig, images: Tensor, world_from_camera: Tensor, intrinsics: Tensor, maps: Tensor | None = None
) -> Condition:
    """The condition of pairs of an input picture and a view, from tensors on one device.

    Args:
        config: the network's.
        images: uint8 [N, H, H, 4], straight-alpha sRGB; resized to `config.size`.
        world_from_camera: [N, 2, 4, 4], OpenCV axes, object frame: the picture's camera, then the view's.
        intrinsics: [N, 2, 3, 3] for pictures of `config.size` pixels.
        maps: [N, 2, size, size, 7] as in `encoding`; just when the network has map channels.
    """
    shape = (len(images), 2, config.size, config.size, config.map_channels) if config.map_channels else None
    if (None if maps is None else tuple(maps.shape)) != shape:
        raise ValueError(f"maps must be {shape}, not {None if maps is None else tuple(maps.shape)}")
    pictures = encode_images(images, config.image_channels)
    if pictures.shape[-1] != config.size:
        pictures = F.interpolate(pictures, (config.size, config.size), mode="bilinear", antialias=True)
    if config.turn_to_input:
        world_from_camera, maps = turn_to_input(world_from_camera, maps)
    rays = ray_encoding(config, world_from_camera, intrinsics)
    return Condition(pictures, rays, None if maps is None else encode_maps(maps))


def draw_noise(config: XUNetConfig, sources: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Noise [N, C, S, S], each from its own source."""
    shape = (config.image_channels, config.size, config.size)
    return torch.stack([torch.randn(shape, generator=source) for source in sources]).to(device)


@torch.no_grad()
def denoise(
    network: XUNet,
    condition: Condition,
    sources: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float = 0.0,
    sampler: Sampler = "dpmsolver++",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws one view per condition, step by step.

    Args:
        network: computes on the device and in the type of its weights.
        condition: N of them, on the network's device.
        sources: N CPU generators, one per view, so that a view's noise is its own.
        steps: denoising steps.
        guidance: weight w of (1 + w) conditional - w unconditional; 0 leaves the second half out.
        sampler: see `make_sampler`.

    Yields:
        After each step, float32 [N, C, S, S] twice: the views with the noise that is left (none after the last step),
        and the network's present estimate of them.
    """
    dtype = network.lastconv.weight.dtype
    z = draw_noise(network.config, sources, condition.pictures.device)
    if guidance:
        none = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        condition = condition.beside(condition.dropped(none, draw_noise(network.config, sources, z.device)))
    given = Given(
        condition.pictures.to(dtype),
        network.conditioningprocessor.embed_poses(condition.rays),
        None if condition.maps is None else condition.maps.to(dtype),
    )
    yield from walk(network, z, lambda step: given, sources, steps=steps, guidance=guidance, sampler=sampler)


@torch.no_grad()
def walk(
    network: XUNet,
    z: Tensor,
    given: Callable[[int], Given],
    sources: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float,
    sampler: Sampler,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`denoise` from noise z float32 [N, C, S, S], asking anew at each step, from 0, what the network is given."""
    config = network.config
    device, dtype = network.lastconv.weight.device, network.lastconv.weight.dtype
    scheduler = make_sampler(config, sampler)
    scheduler.set_timesteps(steps)
    table = logsnr_table(config)
    per_step = {"generator": list(sources)} if sampler == "ancestral" else {}
    for step, timestep in enumerate(scheduler.timesteps):
        logsnr = torch.tensor([config.logsnr_max, table[int(timestep)]], dtype=torch.float32, device=device)
        noisy = torch.cat([z, z]) if guidance else z
        pictures, poses, maps = given(step)
        output = network.denoise(pictures, noisy.to(dtype), logsnr.expand(len(noisy), 2), poses, maps).float()
        if guidance:
            conditional, unconditional = output.chunk(2)
            output = guided(conditional, unconditional, guidance)
        estimate = clean_image(config.prediction, output, z, logsnr[1])
        z = scheduler.step(output, timestep, z, **per_step).prev_sample
        yield z, estimate
