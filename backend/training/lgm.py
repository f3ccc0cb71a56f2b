"""What the Gaussian reconstructor is trained for: to look right from where its views are and from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.render import render
from backend.reconstructors.lgm.network import LGM
from backend.reconstructors.lgm.rays import network_input
from backend.training.orbits import OrbitBatch, OrbitTensors

DEPTH_WEIGHT = 0.5
"""Of the depth loss, which LGM does without: it is given 80,000 objects and weeks of GPUs to find depth by itself."""


@dataclass(frozen=True)
class Judged:
    """Gaussians seen from some of a batch's views.

    Attributes:
        colors: [B, V, S, S, 3] on white.
        parts: of the loss.
    """

    colors: Tensor
    parts: dict[str, Tensor]


def reconstruct(network: LGM, batch: OrbitBatch, pictures: Tensor, timestep: Tensor | None = None) -> Gaussians:
    """Gaussians of an orbit's pictures [B, F, 3, S, S] in 0..1, true or drawn, in the frame of the first camera."""
    frames = pictures.shape[1]
    config = network.config
    timestep = timestep if timestep is not None else pictures.new_zeros(len(pictures))
    images = network_input(pictures, batch.world_from_camera[:, :frames], batch.intrinsics[:, :frames], config)
    return network(images, timestep if config.time_channels else None)


def judge(gaussians: Gaussians, batch: OrbitBatch, views: Tensor) -> Judged:
    """How far the Gaussians are from what the chosen views [B, v] truly show.

    Squared errors of colour on white and of opacity (LGM, section 3.4), and the error of depth within the object.
    """
    sample = torch.arange(len(views), device=views.device)[:, None]
    size = batch.images.shape[2]
    pixels = batch.intrinsics[sample, views].clone()
    pixels[..., :2, :] *= size
    seen = render(gaussians, batch.world_from_camera[sample, views], pixels, size)
    truth = batch.pictures[sample, views].movedim(2, -1)
    alphas = batch.images[sample, views][..., 3].float() / 255
    depths = batch.depths[sample, views] * (alphas > 0.5)
    parts = {
        "color": (seen.colors - truth).square().mean(),
        "alpha": (seen.alphas - alphas).square().mean(),
        "depth": (seen.depths - depths).abs().mul(alphas > 0.5).mean(),
    }
    return Judged(seen.colors, parts)


def total(parts: dict[str, Tensor]) -> Tensor:
    """Weighted sum of a judgement's parts."""
    return parts["color"] + parts["alpha"] + DEPTH_WEIGHT * parts["depth"]


class LGMObjective(nn.Module):
    """The reconstructor alone, on true views.

    Args:
        network: to train.
        judged: how many views of each object to judge by.
    """

    def __init__(self, network: LGM, judged: int = 5) -> None:
        super().__init__()
        self.network, self.judged, self.step = network, judged, 0

    def draw(self, data: OrbitTensors, size: int, generator: torch.Generator) -> tuple[OrbitBatch, Tensor]:
        """A batch and the views to judge by: any, those that the network does not see included."""
        batch = data.batch(size, generator)
        count = batch.images.shape[1]
        views = torch.rand(size, count, generator=generator).argsort(1)[:, : self.judged]
        return batch, views.to(batch.images.device)

    def forward(self, batch: OrbitBatch, views: Tensor) -> dict[str, Tensor]:
        """The parts of the loss."""
        frames = self.network.config.cameras
        return judge(reconstruct(self.network, batch, batch.pictures[:, :frames]), batch, views).parts

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """See `total`."""
        return total(parts)

    @torch.no_grad()
    def score(self, data: OrbitTensors, *, objects: int = 32) -> dict[str, float]:
        """PSNR in dB from views that the network sees, and from those that it does not."""
        batch = data.first(slice(0, objects))
        frames, views = self.network.config.cameras, batch.images.shape[1]
        gaussians = reconstruct(self.network, batch, batch.pictures[:, :frames])
        every = torch.arange(views, device=batch.images.device).expand(len(batch.images), views)
        truth = batch.pictures.movedim(2, -1)
        error = (judge(gaussians, batch, every).colors - truth).square().mean(dim=(-1, -2, -3))
        psnr = -10 * error.clamp(min=1e-10).log10()
        seen = list(self.network.config.views)
        others = [view for view in range(views) if view not in seen]
        return {"psnr": float(psnr[:, seen].mean()), "novel_psnr": float(psnr[:, others].mean())}
