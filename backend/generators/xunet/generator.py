"""Draws views with an X-UNet: all of them side by side in one batch, each from noise of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Preview, Progress, digest

from .checkpoint import load_xunet
from .conditioning import ray_encoding, turn_to_input
from .config import XUNetConfig
from .diffusion import Sampler, clean_image, guided, logsnr_table, make_sampler
from .encoding import decode_images, encode_images, encode_maps

PREVIEW_EVERY = 4
"""Denoising steps between previews."""


def sampling_dtype(device: torch.device) -> torch.dtype:
    """The fastest type that is good enough to draw in: half precision wherever the hardware multiplies it."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def camera_matrices(cameras: Sequence[Camera], size: int) -> tuple[Tensor, Tensor]:
    """`world_from_camera` [V, 4, 4] and intrinsics [V, 3, 3] of pictures of `size` pixels, float32."""
    poses = np.stack([camera.world_from_camera() for camera in cameras])
    intrinsics = np.stack([camera.intrinsics(size) for camera in cameras])
    return torch.from_numpy(poses).float(), torch.from_numpy(intrinsics).float()


def view_noise(seed: int, camera: Camera, target: Camera) -> torch.Generator:
    """A view's source of noise: a function of the seed and of how far the camera turned, and of nothing else."""
    turned = (target.azimuth_deg - camera.azimuth_deg, target.elevation_deg - camera.elevation_deg)
    millidegrees = [round(1000 * angle) % 360_000 for angle in turned]
    return torch.Generator().manual_seed(int(digest("view", seed, millidegrees)[:15], 16))


@dataclass(frozen=True)
class Condition:
    """What the network is given besides the noisy views.

    Attributes:
        pictures: [V, C, S, S], the input picture.
        rays: float32 [V, 2, ray_channels, h, h].
        maps: [V, 2, 7, S, S].
    """

    pictures: Tensor
    rays: Tensor
    maps: Tensor | None

    def beside_none(self, noise: Tensor) -> Condition:
        """This, and behind it in the batch the absence of a condition: noise for a picture, zeros for the rest."""
        return Condition(
            torch.cat([self.pictures, noise.to(self.pictures.dtype)]),
            torch.cat([self.rays, torch.zeros_like(self.rays)]),
            None if self.maps is None else torch.cat([self.maps, torch.zeros_like(self.maps)]),
        )


class XUNetGenerator:
    """A `ViewGenerator` on one set of weights.

    Args:
        weights: a file of `save_xunet`.
        device: torch device.
        dtype: to compute in; None takes `sampling_dtype`.
        sampler: which of diffusers' samplers, see `make_sampler`.

    Raises:
        TurnaroundError: the weights are missing or damaged.
    """

    def __init__(
        self,
        weights: Path,
        device: str = "cpu",
        *,
        dtype: torch.dtype | None = None,
        sampler: Sampler = "dpmsolver++",
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype or sampling_dtype(self.device)
        self.sampler: Sampler = sampler
        self.network = load_xunet(weights).to(self.device, self.dtype)

    @property
    def config(self) -> XUNetConfig:
        """The network's."""
        return self.network.config

    @torch.inference_mode()
    def generate(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        cameras: Sequence[Camera],
        *,
        seed: int,
        steps: int,
        guidance: float,
        progress: Progress,
        maps: NDArray[np.float32] | None = None,
    ) -> ViewSet:
        """The object of `image` from each of `cameras`, at the network's size.

        Args:
            image: uint8 [S, S, 4], straight-alpha sRGB, framed; resized to the network's size.
            camera: the camera of `image`.
            cameras: where to draw it from. A view depends on its own camera alone, not on which others are asked for.
            seed: the same seed draws the same views.
            steps: denoising steps.
            guidance: weight w of (1 + w) conditional - w unconditional; 0 is none and halves the work.
            progress: reported to, and asked whether to stop, at every denoising step; gets previews of the views.
            maps: float32 [1 + V, size, size, 7] as in `encoding`: the known shape seen from `camera` and from each of
                `cameras`. Needed by networks with map channels and by no other.

        Returns:
            The views, straight alpha. Networks without an alpha channel draw them opaque on white.

        Raises:
            CancelledError: the job was cancelled.
        """
        if not cameras:
            return ViewSet(np.zeros((0, self.config.size, self.config.size, 4), np.uint8), ())
        config = self.config
        sources = [view_noise(seed, camera, target) for target in cameras]
        condition = self._condition(image, camera, cameras, maps)
        z = self._noise(sources)
        if guidance:
            condition = condition.beside_none(self._noise(sources))
        poses = self.network.conditioningprocessor.embed_poses(condition.rays)

        sampler = make_sampler(config, self.sampler)
        sampler.set_timesteps(steps)
        table = logsnr_table(config)
        per_step = {"generator": sources} if self.sampler == "ancestral" else {}
        progress.step(0, steps)
        for step, timestep in enumerate(sampler.timesteps, start=1):
            logsnr = torch.tensor([config.logsnr_max, table[int(timestep)]], dtype=torch.float32, device=self.device)
            noisy = (torch.cat([z, z]) if guidance else z).to(self.dtype)
            output = self.network.denoise(
                condition.pictures, noisy, logsnr.expand(len(noisy), 2), poses, condition.maps
            ).float()
            if guidance:
                conditional, unconditional = output.chunk(2)
                output = guided(conditional, unconditional, guidance)
            preview = None
            if step % PREVIEW_EVERY == 0 and step < steps:
                preview = Preview(views=decode_images(clean_image(config.prediction, output, z, logsnr[1])))
            z = sampler.step(output, timestep, z, **per_step).prev_sample
            progress.step(step, steps, preview)
        return ViewSet(decode_images(z), tuple(cameras))

    def _condition(
        self, image: NDArray[np.uint8], camera: Camera, cameras: Sequence[Camera], maps: NDArray[np.float32] | None
    ) -> Condition:
        config, count = self.config, len(cameras)
        if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 4 or image.dtype != np.uint8:
            raise ValueError(f"the picture must be uint8 [S, S, 4], not {image.dtype} {image.shape}")
        expected = (1 + count, config.size, config.size, config.map_channels) if config.map_channels else None
        if (maps.shape if maps is not None else None) != expected:
            raise ValueError(f"maps must be {expected}, not {maps.shape if maps is not None else None}")

        picture = encode_images(torch.from_numpy(np.ascontiguousarray(image)), config.image_channels)[None]
        if picture.shape[-1] != config.size:
            picture = F.interpolate(picture, (config.size, config.size), mode="bilinear", antialias=True)
        poses, intrinsics = camera_matrices([camera, *cameras], config.size)
        pairs = torch.stack([torch.zeros(count, dtype=torch.long), torch.arange(1, count + 1)], dim=1)
        poses = poses[pairs]
        paired_maps = None if maps is None else torch.from_numpy(maps)[pairs]
        if config.turn_to_input:
            poses, paired_maps = turn_to_input(poses, paired_maps)
        rays = ray_encoding(config, poses, intrinsics[pairs])
        encoded_maps = None if paired_maps is None else encode_maps(paired_maps)
        return Condition(
            picture.expand(count, -1, -1, -1).to(self.device, self.dtype),
            rays.to(self.device),
            None if encoded_maps is None else encoded_maps.to(self.device, self.dtype),
        )

    def _noise(self, sources: Sequence[torch.Generator]) -> Tensor:
        shape = (self.config.image_channels, self.config.size, self.config.size)
        return torch.stack([torch.randn(shape, generator=source) for source in sources]).to(self.device)
