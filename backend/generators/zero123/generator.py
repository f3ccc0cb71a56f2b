"""Zero123 as a view generator: weights from a folder, cameras in, pictures out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.devices import sampling_dtype
from backend.generators.noise import noise_source, turn_noise
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Preview, Progress, digest

from .components import Components, load_components
from .pose import pose_vector
from .preprocessing import SIZE, clip_pixels, on_white, signed, unsigned
from .sampling import DEFAULT_SCHEDULE, Batches, Condition, Schedule, denoise, make_scheduler

PUBLISHED_GUIDANCE = 2.0
"""The scale of 3 that Zero123 and One-2-3-45 use, as `generate` counts it."""

LOW_MEMORY_BATCH = 8
"""Views at once where memory is short: half precision then stays well below 6 GB."""

ENCODINGS_KEPT = 64
"""Pictures whose encodings are kept, 20 kB of each: all that several objects' views are drawn from."""

PREVIEW_EVERY = 4
"""Denoising steps between previews."""


@dataclass(frozen=True)
class ViewRequest:
    """One view to draw.

    Attributes:
        image: the picture to draw from, uint8 [S, S, 4], straight-alpha sRGB, framed.
        camera: the camera of `image`.
        target: where to draw it from.
        index: chooses the view's noise, together with the seed; None takes how far the camera turns. Views of one
            index and seed begin with the same noise.
    """

    image: NDArray[np.uint8]
    camera: Camera
    target: Camera
    index: int | None = None

    def noise(self, seed: int) -> torch.Generator:
        """The view's own source of noise."""
        if self.index is not None:
            return noise_source(seed, self.index)
        elevation = self.target.elevation_deg - self.camera.elevation_deg
        azimuth = self.target.azimuth_deg - self.camera.azimuth_deg
        return turn_noise(seed, elevation, azimuth)


class Zero123Generator:
    """A `ViewGenerator` on one Zero123.

    Args:
        weights: a folder in diffusers' layout, see `components`; or networks, which compute in their own types.
        device: torch device.
        dtype: to compute in what a folder holds; None takes the fastest that is good enough.
        low_memory: keep on the device only the network that is at work, and draw few views at once.
        compiled: compile the U-Net, which takes a minute or more at first and then draws faster.
        batch: the most views to draw at once; None for all. It shrinks by itself when memory runs out.

    Raises:
        TurnaroundError: as `load_components`.
    """

    def __init__(
        self,
        weights: Path | Components,
        device: str = "cpu",
        *,
        dtype: torch.dtype | None = None,
        low_memory: bool = False,
        compiled: bool = False,
        batch: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.low_memory = low_memory
        self.batch = batch or (LOW_MEMORY_BATCH if low_memory else None)
        if isinstance(weights, Path):
            weights = load_components(weights, dtype or sampling_dtype(self.device))
        self.components = weights
        self.components.cc_projection.to(self.device)
        for network in (self.components.unet, self.components.vae, self.components.image_encoder):
            network.to("cpu" if low_memory else self.device, memory_format=torch.channels_last)
        if compiled:
            self.components.unet.compile()
        self._encoded: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

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
        schedule: Schedule = DEFAULT_SCHEDULE,
    ) -> ViewSet:
        """The object of `image` from each of `cameras`: see `draw`, with `image` for all of them."""
        requests = [ViewRequest(image, camera, target) for target in cameras]
        return self.draw(requests, seed=seed, steps=steps, guidance=guidance, progress=progress, schedule=schedule)

    @torch.inference_mode()
    def draw(
        self,
        requests: Sequence[ViewRequest],
        *,
        seed: int,
        steps: int,
        guidance: float,
        progress: Progress,
        schedule: Schedule = DEFAULT_SCHEDULE,
    ) -> ViewSet:
        """Draws many views, of one picture or of several, in one batch.

        Args:
            requests: what to draw. A view does not depend on which others are asked for.
            seed: the same seed draws the same views.
            steps: denoising steps, see `Schedule` for how many each needs.
            guidance: weight w of (1 + w) conditional - w unconditional: the published scale of 3 is a weight of 2. 0
                is none and halves the work.
            progress: reported to, and asked whether to stop, at every denoising step, and between its parts where a
                step is too large for the memory; gets previews of the views.
            schedule: how noise is taken off.

        Returns:
            The views in the order of the requests, 256 pixels square, opaque on white.

        Raises:
            CancelledError: the job was cancelled.
            RuntimeError: the device has not even the memory for a single view.
        """
        if not requests:
            return ViewSet(np.zeros((0, SIZE, SIZE, 4), np.uint8), ())
        scheduler, step_options = make_scheduler(self.components.noise, schedule, steps)
        done, total = 0, len(scheduler.timesteps)

        def batches() -> Batches:
            return Batches(self.batch or len(requests), check=lambda: progress.step(done, total))

        progress.step(done, total)
        keys, pictures, of_request = _distinct(requests)
        embeddings, latents = self._encodings(keys, pictures, batches)
        poses = np.stack([pose_vector(r.camera, r.target, self.components.pose) for r in requests])
        seen = torch.cat([embeddings[of_request], torch.from_numpy(poses).to(self.device)], dim=1)
        condition = Condition(self.components.cc_projection(seen)[:, None], latents[of_request])
        colors = _latent_colors(latents * self._scaling, pictures)

        sources = [request.noise(seed) for request in requests]
        with self._on_device(self.components.unet) as unet:
            drawing = denoise(
                unet, scheduler, condition, sources, batches(), scale=1 + guidance, step_options=step_options
            )
            for done, (drawn, estimate) in enumerate(drawing, start=1):  # noqa: B007  (the last drawn is the result)
                show = done % PREVIEW_EVERY == 0 and done < total
                progress.step(done, total, Preview(views=_preview(estimate, colors)) if show else None)
        return ViewSet(self._decode(drawn, batches()), tuple(request.target for request in requests))

    def forget(self) -> None:
        """Lets go of the encodings of pictures that are kept."""
        self._encoded.clear()

    # ------------------------------------------------------------------------------------------------ the networks

    @contextmanager
    def _on_device(self, network: Any) -> Iterator[Any]:
        """Has a network on the device for as long as it is needed, or longer if memory is not short."""
        try:
            yield network.to(self.device)
        finally:
            if self.low_memory:
                network.to("cpu")

    @property
    def _scaling(self) -> float:
        return float(self.components.vae.config.scaling_factor)

    def _encodings(
        self, keys: Sequence[str], pictures: Tensor, batches: Callable[[], Batches]
    ) -> tuple[Tensor, Tensor]:
        """As `_encode`, of which only pictures are asked that it was not asked before: a job draws from one often."""
        missing = [place for place, key in enumerate(keys) if key not in self._encoded]
        if missing:
            new = zip(*self._encode(pictures[missing], batches), strict=True)
            for place, (embedding, latents) in zip(missing, new, strict=True):
                self._encoded[keys[place]] = embedding.clone(), latents.clone()  # not views that keep a batch alive
        for key in keys:
            self._encoded.move_to_end(key)
        embeddings, latents = zip(*(self._encoded[key] for key in keys), strict=True)
        while len(self._encoded) > ENCODINGS_KEPT:
            self._encoded.popitem(last=False)
        return torch.stack(embeddings), torch.stack(latents)

    def _encode(self, pictures: Tensor, batches: Callable[[], Batches]) -> tuple[Tensor, Tensor]:
        """Embeddings [P, E] and unscaled latents [P, 4, h, w] of pictures [P, 3, 256, 256]; float32, on the device."""
        encoder, vae = self.components.image_encoder, self.components.vae
        pixels = clip_pixels(pictures, encoder.config.image_size)

        def embed(part: slice) -> Tensor:
            return encoder(pixels[part].to(self.device, encoder.dtype)).image_embeds.float()

        def encode(part: slice) -> Tensor:
            return vae.encode(pictures[part].to(self.device, vae.dtype)).latent_dist.mode().float()

        with self._on_device(encoder):
            embeddings = batches().run(embed, len(pictures))
        with self._on_device(vae):
            return embeddings, batches().run(encode, len(pictures))

    def _decode(self, latents: Tensor, batches: Batches) -> NDArray[np.uint8]:
        """uint8 [N, 256, 256, 4] of scaled latents [N, 4, h, w]."""
        vae = self.components.vae

        def decode(part: slice) -> Tensor:
            pictures: Tensor = vae.decode((latents[part] / self._scaling).to(vae.dtype)).sample
            return pictures.cpu()

        with self._on_device(vae):
            return unsigned(batches.run(decode, len(latents)))


def _distinct(requests: Sequence[ViewRequest]) -> tuple[list[str], Tensor, list[int]]:
    """The different pictures among those of the requests, and which each request has.

    Returns:
        What each is known by [P], the pictures [P, 3, 256, 256] in -1..1, and of each request the place of its own.
    """
    place: dict[str, int] = {}
    pictures: list[NDArray[np.uint8]] = []
    of_request = []
    for request in requests:
        key = digest(request.image)
        if key not in place:
            place[key] = len(pictures)
            pictures.append(on_white(request.image))
        of_request.append(place[key])
    return list(place), signed(np.stack(pictures)), of_request


# ---------------------------------------------------------------------------------------------------------- preview


def _latent_colors(latents: Tensor, pictures: Tensor) -> Tensor:
    """The linear map [5, 3] from a latent and 1 to a colour that fits these pictures best.

    Latents are close enough to small pictures that it shows what is being drawn, at no cost.
    """
    small = F.interpolate(pictures, latents.shape[-2:], mode="area").permute(0, 2, 3, 1).reshape(-1, 3)
    return torch.linalg.lstsq(_with_one(latents).reshape(len(small), -1).cpu(), small).solution


def _preview(latents: Tensor, colors: Tensor) -> NDArray[np.uint8]:
    """uint8 [N, h, w, 4] of scaled latents [N, 4, h, w]."""
    return unsigned((_with_one(latents).cpu() @ colors).permute(0, 3, 1, 2))


def _with_one(latents: Tensor) -> Tensor:
    return F.pad(latents, (0, 0, 0, 0, 0, 1), value=1.0).permute(0, 2, 3, 1)
