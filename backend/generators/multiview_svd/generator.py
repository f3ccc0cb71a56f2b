"""The generator as a pipeline wants it: a picture and its camera in, steps of all views out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.devices import sampling_dtype
from backend.generators.noise import noise_source
from backend.generators.zero123.preprocessing import on_white, signed, unsigned
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet

from .cameras import network_cameras, orbit
from .conditioning import Condition, make_condition
from .config import MultiviewConfig
from .loading import load_published, load_stored
from .model import MultiviewModel
from .sampling import Feedback, Step, denoise


class MultiviewGenerator:
    """Draws the views of an orbit together.

    Args:
        model: see `loading`; its weights have the type to compute in.
        device: torch device.
    """

    def __init__(self, model: MultiviewModel, device: str = "cpu") -> None:
        self.model = model.to(device)

    @classmethod
    def stored(cls, path: Path, device: str = "cpu", *, dtype: torch.dtype | None = None) -> MultiviewGenerator:
        """One that this project trained; `dtype` None takes the fastest that is good enough for the U-Net.

        Raises:
            TurnaroundError: as `load_stored`.
        """
        model = load_stored(path)
        model.network.to(dtype or sampling_dtype(torch.device(device)))
        return cls(model, device)

    @classmethod
    def published(
        cls, video: Path, weights: Path, device: str = "cpu", *, dtype: torch.dtype | None = None
    ) -> MultiviewGenerator:
        """The published one.

        Raises:
            TurnaroundError: as `load_published`.
        """
        return cls(load_published(video, weights, dtype or sampling_dtype(torch.device(device))), device)

    @property
    def config(self) -> MultiviewConfig:
        """The model's."""
        return self.model.config

    def cameras(self, camera: Camera) -> tuple[Camera, ...]:
        """Where the views of a picture from `camera` are drawn from, in the object frame."""
        return orbit(self.config, camera)

    @torch.no_grad()
    def condition(self, image: NDArray[np.uint8], camera: Camera, *, seed: int) -> Condition:
        """What the U-Net is given of a picture.

        Args:
            image: uint8 [S, S, 4], straight-alpha sRGB, framed.
            camera: where it was taken from.
            seed: of the little noise on it.
        """
        picture = signed(np.stack([on_white(image, self.config.size)]))
        noise = torch.randn(picture.shape, generator=noise_source(seed, 1))
        return make_condition(self.model, picture, network_cameras(self.config, [camera.elevation_deg]), noise)

    def draw(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        *,
        seed: int,
        steps: int | None = None,
        guidance: tuple[float, float] | None = None,
        feedback: Feedback | None = None,
    ) -> Iterator[Step]:
        """Draws the views, step by step; whoever asks for the next step reports progress and may stop instead.

        Args:
            image: uint8 [S, S, 4], straight-alpha sRGB, framed.
            camera: where it was taken from.
            seed: the same seed draws the same views.
            steps: denoising steps, None for the config's.
            guidance: weights of the condition for the first view and the last, None for the config's.
            feedback: what the next step is shown of the reconstruction, see `sampling`.

        Raises:
            TurnaroundError: `views.diverged`.
        """
        condition = self.condition(image, camera, seed=seed)
        yield from denoise(
            self.model, condition, [noise_source(seed, 0)], steps=steps, guidance=guidance, feedback=feedback
        )

    def views(self, step: Step, camera: Camera) -> ViewSet:
        """The views as they are after a step, opaque on white."""
        return ViewSet(unsigned(step.images[0]), self.cameras(camera))
