"""What Ouroboros3D is trained for (section 3.3): to draw an orbit while it looks at its own reconstruction of it.

With a probability of one half the generator draws twice: without feedback, then, from the same noise, with maps of the
Gaussians that the reconstructor makes of the first drawing, and the second drawing's loss is what counts. The
reconstructor learns from drawn views, told how noisy they were, and from clean ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.generators.multiview_svd.config import MultiviewConfig
from backend.generators.multiview_svd.model import MultiviewModel
from backend.generators.multiview_svd.network import Cameras
from backend.generators.multiview_svd.sampling import no_feedback
from backend.pipelines.ouroboros3d.feedback import maps_of
from backend.reconstructors.lgm.config import LGMConfig
from backend.reconstructors.lgm.network import LGM
from backend.training import lgm
from backend.training.multiview_svd import NoiseLevels, Orbits, add_noise, denoising_loss
from backend.training.orbits import OrbitBatch, OrbitTensors


class MultiviewObjective(nn.Module):
    """The generator alone, without feedback: the first part of a small one's training.

    Args:
        network: to train.
    """

    def __init__(self, network: MultiviewModel) -> None:
        super().__init__()
        self.network, self.step = network, 0

    def draw(
        self, data: OrbitTensors, size: int, generator: torch.Generator
    ) -> tuple[OrbitBatch, Orbits, torch.Generator]:
        """A batch and the source of its noise."""
        batch = data.batch(size, generator)
        return batch, orbits_of(batch, self.network.config), generator

    def forward(self, batch: OrbitBatch, orbits: Orbits, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss under its name."""
        noised = add_noise(self.network, orbits, generator)
        none = no_feedback(self.network.config, len(orbits.views), orbits.views.device)
        return {"denoising": denoising_loss(self.network, noised, none)[0].mean()}

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """The one part."""
        return parts["denoising"]

    @torch.no_grad()
    def score(self, data: OrbitTensors, *, objects: int = 32) -> dict[str, float]:
        """PSNR in dB of views drawn in one step from noise of given strengths, the input's own left out."""
        return {f"psnr_{sigma:g}": _psnr(self.network, None, data, objects, sigma) for sigma in SCORED_SIGMAS}


SCORED_SIGMAS = (20.0, 2.0)
FROM_DRAWN = 0.5
"""Share of the steps in which the reconstructor learns from drawn views, told how noisy they were; in the others from
clean ones. Published is the mean of both at every step, which is the same on average and takes twice the time."""


@dataclass(frozen=True)
class Ouroboros3DConfig:
    """Of both networks."""

    generator: MultiviewConfig
    reconstructor: LGMConfig


class Ouroboros3D(nn.Module):
    """Both networks, trained and stored together."""

    def __init__(self, generator: MultiviewModel, reconstructor: LGM) -> None:
        super().__init__()
        self.generator, self.reconstructor = generator, reconstructor


class Ouroboros3DObjective(nn.Module):
    """Both networks, each learning from the other.

    Args:
        network: both.
        self_conditioning: probability of the second pass; 0.5 is published.
        judged: views of each object by which Gaussians are judged.
    """

    def __init__(self, network: Ouroboros3D, *, self_conditioning: float = 0.5, judged: int = 4) -> None:
        super().__init__()
        self.network, self.self_conditioning, self.judged, self.step = network, self_conditioning, judged, 0

    def draw(
        self, data: OrbitTensors, size: int, generator: torch.Generator
    ) -> tuple[OrbitBatch, Orbits, Tensor, torch.Generator]:
        """A batch, the views to judge its Gaussians by, and the source of all that is random."""
        batch = data.batch(size, generator)
        count = batch.images.shape[1]
        views = torch.rand(size, count, generator=generator).argsort(1)[:, : self.judged]
        orbits = orbits_of(batch, self.network.generator.config)
        return batch, orbits, views.to(batch.images.device), generator

    def forward(
        self, batch: OrbitBatch, orbits: Orbits, views: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The parts of the loss."""
        network, reconstructor = self.network.generator, self.network.reconstructor
        noised = add_noise(network, orbits, generator)
        feedback = no_feedback(network.config, len(views), views.device)
        if float(torch.rand(1, generator=generator)) < self.self_conditioning:
            with torch.no_grad():
                _, first = denoising_loss(network, noised, feedback)
                gaussians = lgm.reconstruct(reconstructor, batch, unit(first), noised.timestep)
                feedback = maps_of(gaussians, orbits.cameras, network.config.size, reconstructor.config)
        error, drawn = denoising_loss(network, noised, feedback)
        if float(torch.rand(1, generator=generator)) < FROM_DRAWN:
            gaussians = lgm.reconstruct(reconstructor, batch, unit(drawn), noised.timestep)
        else:
            gaussians = lgm.reconstruct(reconstructor, batch, unit(orbits.views))
        return {"denoising": error.mean(), **lgm.judge(gaussians, batch, views).parts}

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """Both losses, of equal weight as published."""
        return parts["denoising"] + lgm.total(parts)

    @torch.no_grad()
    def score(self, data: OrbitTensors, *, objects: int = 32) -> dict[str, float]:
        """PSNR in dB of views drawn in one step, without feedback and after it, and of the reconstruction."""
        network, scores = self.network, {}
        for sigma in SCORED_SIGMAS:
            scores[f"psnr_{sigma:g}"] = _psnr(network.generator, None, data, objects, sigma)
            scores[f"fed_{sigma:g}"] = _psnr(network.generator, network.reconstructor, data, objects, sigma)
        return {**scores, **lgm.LGMObjective(network.reconstructor).score(data, objects=objects)}


def orbits_of(batch: OrbitBatch, config: MultiviewConfig) -> Orbits:
    """The orbit of a batch as the generator takes it."""
    frames = config.frames
    cameras = Cameras(batch.world_from_camera[:, :frames], batch.intrinsics[:, :frames])
    return Orbits(batch.pictures[:, :frames] * 2 - 1, cameras)


def unit(views: Tensor) -> Tensor:
    """Pictures about -1..1 as 0..1."""
    return (views / 2 + 0.5).clamp(0, 1)


def _psnr(model: MultiviewModel, reconstructor: LGM | None, data: OrbitTensors, objects: int, sigma: float) -> float:
    """Of all views but the first, one step from noise; with a reconstructor after a first pass that it has seen."""
    batch = data.first(slice(0, objects))
    orbits = orbits_of(batch, model.config)
    level = NoiseLevels(mean=math.log(sigma), std=0.0, dropout=0.0)
    noised = add_noise(model, orbits, torch.Generator().manual_seed(0), level)
    feedback = no_feedback(model.config, len(orbits.views), orbits.views.device)
    _, drawn = denoising_loss(model, noised, feedback)
    if reconstructor is not None:
        gaussians = lgm.reconstruct(reconstructor, batch, unit(drawn), noised.timestep)
        feedback = maps_of(gaussians, orbits.cameras, model.config.size, reconstructor.config)
        _, drawn = denoising_loss(model, noised, feedback)
    error = (unit(drawn) - unit(orbits.views))[:, 1:].square().mean(dim=(-1, -2, -3))
    return float((-10 * error.clamp(min=1e-10).log10()).mean())
