"""The X-UNet as a view generator: weights from a file, cameras in, pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.devices import sampling_dtype
from backend.generators.noise import turn_noise
from backend.geometry import batched
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Preview, Progress
from backend.weights.store import load_into, read_typed_config

from .config import XUNetConfig
from .diffusion import Sampler
from .encoding import decode_images
from .network import XUNet
from .sampling import denoise, make_condition

PREVIEW_EVERY = 4
"""Denoising steps between previews."""


def load_xunet(path: Path) -> XUNet:
    """The network of a weights file, in float32, on the CPU, ready to draw.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, or `weights.mismatch`, whose details name each key.
    """
    config = read_typed_config(path, XUNetConfig, "a view generator")
    network = XUNet(config)
    load_into(network, path)
    return network.eval()


def view_noise(seed: int, camera: Camera, target: Camera) -> torch.Generator:
    """A view's source of noise: a function of the seed and of how far the camera turned, and of nothing else."""
    return turn_noise(seed, target.azimuth_deg - camera.azimuth_deg, target.elevation_deg - camera.elevation_deg)


class XUNetGenerator:
    """A `ViewGenerator` on one set of weights.

    Args:
        weights: safetensors with the network's config, as `save_weights` writes them.
        device: torch device.
        dtype: to compute in; None takes `sampling_dtype`.
        sampler: which of diffusers' samplers, see `make_sampler`.

    Raises:
        TurnaroundError: as `load_xunet`.
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
        self.sampler: Sampler = sampler
        self.network = load_xunet(weights).to(self.device, dtype or sampling_dtype(self.device))

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
        size, count = self.config.size, len(cameras)
        if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 4 or image.dtype != np.uint8:
            raise ValueError(f"the picture must be uint8 [S, S, 4], not {image.dtype} {image.shape}")
        if maps is not None and len(maps) != 1 + count:
            raise ValueError(f"maps must be of the picture and of {count} views, not {len(maps)}")
        if not cameras:
            return ViewSet(np.zeros((0, size, size, 4), np.uint8), ())

        pairs = torch.stack([torch.zeros(count, dtype=torch.long), torch.arange(1, count + 1)], dim=1)
        views = batched.camera_tensor([camera, *cameras])[pairs]
        condition = make_condition(
            self.config,
            torch.from_numpy(np.ascontiguousarray(image)).expand(count, -1, -1, -1).to(self.device),
            batched.world_from_camera(views).to(self.device),
            batched.intrinsics(views, size).to(self.device),
            None if maps is None else torch.from_numpy(maps)[pairs].to(self.device),
        )
        sources = [view_noise(seed, camera, target) for target in cameras]
        progress.step(0, steps)
        drawing = denoise(self.network, condition, sources, steps=steps, guidance=guidance, sampler=self.sampler)
        for step, (drawn, estimate) in enumerate(drawing, start=1):  # noqa: B007  (the last one drawn is the result)
            show = step % PREVIEW_EVERY == 0 and step < steps
            progress.step(step, steps, Preview(views=decode_images(estimate)) if show else None)
        return ViewSet(decode_images(drawn), tuple(cameras))
