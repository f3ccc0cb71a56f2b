"""Stochastic conditioning (Watson et al. 2022, section 3.1): views that agree because each has looked at the others.

The network knows one picture at a time. At every denoising step it is given another, drawn from all that are there: the
input pictures and the views that are finished. So a view comes to be consistent with all of them.

The paper draws evenly. A small network's views are not as good as pictures, and little of them can be told from far:
drawn evenly, most steps would look at a view that is both. `anchored` has half of the steps look at the input pictures,
and the others at the views that are nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.devices import sampling_dtype
from backend.generators.noise import noise_source
from backend.geometry import batched
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Preview, Progress

from .conditioning import ray_encoding, turn_to_input
from .config import XUNetConfig
from .diffusion import Sampler
from .encoding import decode_images, encode_images
from .generator import PREVIEW_EVERY, load_xunet, view_noise
from .network import XUNet
from .sampling import Given, draw_noise, walk
from .worlds import World, cameras_in_world, told_intrinsics

Conditioning = Literal["stochastic", "anchored", "input"]
"""What a view is conditioned on: the whole pool, evenly or not, or what it began with."""

NEARNESS = 20.0
"""A picture counts exp(NEARNESS cos(angle between its direction and the view's)) in `shares`: at 20 degrees a third of
what it counts at 0, at 45 hardly anything."""

PAPER_STEPS = 256
"""With the sampler "ancestral"."""

POSES_BYTES = {"cpu": 256 << 20}
"""Most memory that embedded poses are kept in; recomputing them costs a tenth of a step."""

LARGE_POSES_BYTES = 4 << 30
"""The same on any other device."""


class PoolGenerator:
    """Draws views from a pool of pictures with an X-UNet that needs no maps.

    Args:
        weights: safetensors with the network's config; or a network, ready to draw.
        device: torch device.
        dtype: to compute in; None takes `sampling_dtype`.

    Raises:
        TurnaroundError: as `load_xunet`.
    """

    def __init__(self, weights: Path | XUNet, device: str = "cpu", *, dtype: torch.dtype | None = None) -> None:
        self.device = torch.device(device)
        network = load_xunet(weights) if isinstance(weights, Path) else weights
        if network.config.map_channels:
            raise ValueError("this network needs maps of a known shape")
        self.network = network.to(self.device, dtype or sampling_dtype(self.device))

    @property
    def config(self) -> XUNetConfig:
        """The network's."""
        return self.network.config

    @torch.inference_mode()
    def draw(
        self,
        pool: ViewSet,
        cameras: Sequence[Camera],
        *,
        seed: int,
        steps: int,
        guidance: float,
        progress: Progress,
        sampler: Sampler = "ddim",
        conditioning: Conditioning = "stochastic",
        given: int | None = None,
        batch: int = 1,
        world: World = World(),
    ) -> ViewSet:
        """The object of the pool's pictures from each of `cameras`, in this order.

        A finished view enters the pool as a picture of 8 bits: views that are drawn at once, and views that are drawn
        one by one with the earlier ones handed in as pictures, are the same. A view's noise and its choices among the
        pool have sources of their own, which depend on the seed and its turn from the pool's first camera alone.

        `batch` targets advance together and do not see each other: larger is faster and less consistent. At 1, as in
        the paper, every view sees all before it; with a batch of all they see the pool's first pictures alone.

        Args:
            pool: at least one picture, framed, straight alpha; of any size.
            cameras: where to draw from. The order matters: later views look at earlier ones.
            seed: the same seed draws the same views.
            steps: denoising steps of each view.
            guidance: weight w of (1 + w) conditional - w unconditional; 0 is none and halves the work.
            progress: reported to, and asked whether to stop, at every denoising step; gets previews of the views.
            sampler: see `make_sampler`. "dpmsolver++" extrapolates from the estimates of two steps, which amplifies
                the difference between the two pictures that they were conditioned on: it is for one picture only.
            conditioning: how the pool is drawn from, see `shares`; "input" leaves finished views out of it.
            given: how many of the pool's pictures are no drawn views, first of all; None is all.
            batch: targets that advance together.
            world: where the pool's first camera stands in the world that the network knows.

        Returns:
            The drawn views at the network's size, straight alpha; opaque on white from networks without alpha.

        Raises:
            CancelledError: the job was cancelled.
            ValueError: an empty pool, a batch below 1, or a sampler that the conditioning cannot use.
        """
        changing = conditioning != "input" or len(pool) > 1
        if not len(pool) or batch < 1 or (changing and sampler == "dpmsolver++"):
            raise ValueError(f"{len(pool)} pictures, batch {batch}, {sampler} with {conditioning} conditioning")
        every, given = (*pool.cameras, *cameras), len(pool) if given is None else given
        poses = PairPoses(self.network, every, world)
        drawn = np.zeros((0, self.config.size, self.config.size, 4), np.uint8)
        known = self._encode(pool.images)
        groups = [range(start, min(start + batch, len(cameras))) for start in range(0, len(cameras), batch)]
        total = steps * len(groups)
        progress.step(0, total)
        for start, group in zip(range(0, total, steps), groups, strict=True):
            noises = [view_noise(seed, pool.cameras[0], cameras[target]) for target in group]
            places = [len(pool) + target for target in group]
            chosen = torch.stack(
                [
                    choices(noise, shares(every[: len(known)], given, cameras[target], conditioning), steps)
                    for noise, target in zip(noises, group, strict=True)
                ],
                dim=1,
            )
            drawing = self._together(known, chosen, poses, places, noises, guidance=guidance, sampler=sampler)
            for step, (z, estimate) in enumerate(drawing, start=1):  # noqa: B007  (the last one drawn is the result)
                show = step % PREVIEW_EVERY == 0 or step == steps
                preview = Preview(views=np.concatenate([drawn, decode_images(estimate)])) if show else None
                progress.step(start + step, total, preview)
            drawn = np.concatenate([drawn, decode_images(z)])
            if conditioning != "input":
                known = torch.cat([known, self._encode(drawn[group.start :])])
            poses.forget()
        return ViewSet(drawn, tuple(cameras))

    def _together(
        self,
        known: Tensor,
        chosen: Tensor,
        poses: PairPoses,
        places: Sequence[int],
        noises: Sequence[torch.Generator],
        *,
        guidance: float,
        sampler: Sampler,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws views at `places` of the cameras that do not see each other; yields as `denoise` does.

        Args:
            known: the pool, [P, C, S, S].
            chosen: what each step gives each view of it, [steps, N].
            poses: of all cameras.
            places: N.
            noises: N.
            guidance: see `draw`.
            sampler: see `draw`.
        """
        z = draw_noise(self.config, noises, self.device)
        unconditional = draw_noise(self.config, noises, self.device) if guidance else z[:0]

        def given(step: int) -> Given:
            pairs = [*zip(chosen[step].tolist(), places, strict=True), *[None] * len(unconditional)]
            pictures = torch.cat([known[chosen[step].to(self.device)], unconditional])
            return Given(pictures.to(poses.dtype), poses.embed(pairs))

        return walk(self.network, z, given, noises, steps=len(chosen), guidance=guidance, sampler=sampler)

    def _encode(self, images: np.ndarray) -> Tensor:
        """uint8 [P, S, S, 4] to [P, C, size, size]."""
        pictures = encode_images(torch.from_numpy(np.ascontiguousarray(images)), self.config.image_channels)
        if pictures.shape[-1] != self.config.size:
            pictures = F.interpolate(pictures, (self.config.size,) * 2, mode="bilinear", antialias=True)
        return pictures.to(self.device)


def choices(source: torch.Generator, weights: Tensor, steps: int) -> Tensor:
    """Which of the pool's pictures a view is given at each step, [steps] int64.

    Args:
        source: of the view's noise; its seed alone is looked at, so that the noise does not depend on the pool.
        weights: of the pictures, see `shares`.
        steps: denoising steps.
    """
    return torch.multinomial(weights, steps, replacement=True, generator=noise_source(source.initial_seed()))


def shares(pictures: Sequence[Camera], given: int, view: Camera, conditioning: Conditioning) -> Tensor:
    """How often each picture of a pool is to be looked at while a view is drawn, float64 [P], adding up to 1.

    Args:
        pictures: their P cameras.
        given: how many of them are no drawn views, first of all.
        view: that is drawn.
        conditioning: "anchored" gives half to the given pictures and half to the drawn views, if there are any, and
            of either most to the nearest; any other is even.
    """
    if conditioning != "anchored":
        return torch.full((len(pictures),), 1 / len(pictures), dtype=torch.float64)
    directions = np.stack([camera.position / camera.distance for camera in (*pictures, view)])
    near = torch.from_numpy(np.exp(NEARNESS * (directions[:-1] @ directions[-1])))
    parts = [part / part.sum() for part in (near[:given], near[given:]) if len(part)]
    return torch.cat(parts) / len(parts)


class PairPoses:
    """Embedded poses of pairs of cameras: what the network is told of them, computed once while memory allows.

    Args:
        network: whose embedding it is.
        cameras: that pairs name by their places.
        world: see `cameras_in_world`.
    """

    def __init__(self, network: XUNet, cameras: Sequence[Camera], world: World = World()) -> None:
        self._network, self._processor = network, network.conditioningprocessor
        self.dtype, self.device = network.lastconv.weight.dtype, network.lastconv.weight.device
        self._cameras = cameras_in_world(batched.camera_tensor(cameras), network.config, world)
        self._kept: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._left = POSES_BYTES.get(self.device.type, LARGE_POSES_BYTES)

    def embed(self, pairs: Sequence[tuple[int, int] | None]) -> tuple[Tensor, ...]:
        """As `ConditioningProcessor.embed_poses`, of pairs of places (picture, view); None is the unconditional."""
        return tuple(torch.cat(level) for level in zip(*map(self._of, pairs), strict=True))

    def forget(self) -> None:
        """Lets go of all pairs."""
        self._left += sum(map(_nbytes, self._kept.values()))
        self._kept.clear()

    def _of(self, pair: tuple[int, int] | None) -> tuple[Tensor, ...]:
        key = pair or (-1, -1)
        if key in self._kept:
            return self._kept[key]
        config = self._network.config
        if pair is None:
            shape = (1, 2, config.ray_channels, config.inner_size, config.inner_size)
            rays = torch.zeros(shape, device=self.device)
        else:
            cameras = self._cameras[list(pair)][None]
            poses = batched.world_from_camera(cameras)
            if config.turn_to_input:
                poses, _ = turn_to_input(poses)
            intrinsics = told_intrinsics(cameras, config)
            rays = ray_encoding(config, poses.to(self.device), intrinsics.to(self.device))
        embedded = tuple(self._processor.embed_poses(rays))
        if _nbytes(embedded) <= self._left:
            self._left -= _nbytes(embedded)
            self._kept[key] = embedded
        return embedded


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
