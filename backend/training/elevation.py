"""What the elevation regressor is trained for: the likelihood of the true elevation of a framed picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.elevation.regressor import ElevationNet
from backend.preparation.framing import FILL
from backend.reconstructors.sparseneus.adapter import network_images
from backend.reconstructors.sparseneus.config import TINY
from backend.training.batches import EpisodeTensors, recolored


class ElevationObjective(nn.Module):
    """Gaussian negative log-likelihood; every picture of an episode serves, framed anew."""

    def __init__(self, network: ElevationNet) -> None:
        super().__init__()
        self.network = network

    def draw(self, data: EpisodeTensors, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures [B, 4, S, S] and their elevations [B]."""
        views = data.images.shape[2]

        def draw(high: int) -> Tensor:
            return torch.randint(high, (size,), generator=generator).to(data.device)

        objects, episodes, view = draw(len(data)), draw(data.images.shape[1]), draw(views)
        view = torch.where(torch.rand(size, generator=generator).to(data.device) < 0.5, 0, view)
        images = recolored(data.images[objects, episodes, view][:, None], generator)[:, 0]
        flip = (torch.rand(size, generator=generator) < 0.5).to(data.device)
        images = torch.where(flip[:, None, None, None], images.flip(2), images)
        return framed(network_images(images, TINY)), data.cameras[objects, episodes, view, 0]

    def forward(self, images: Tensor, elevation: Tensor) -> dict[str, Tensor]:
        """The loss."""
        mean, spread = self.network(images)
        return {"likelihood": (0.5 * ((elevation - mean) / spread).square() + spread.log()).mean()}

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """The one part."""
        return parts["likelihood"]

    @torch.no_grad()
    def score(self, data: EpisodeTensors) -> dict[str, float]:
        """Mean and median absolute error in degrees over all input pictures."""
        images = network_images(data.images[:, :, 0].flatten(0, 1), TINY)
        truth = data.cameras[:, :, 0, 0].flatten()
        mean = torch.cat([self.network(chunk)[0] for chunk in images.split(128)])
        error = (mean - truth).abs()
        return {"error_mean": float(error.mean()), "error_median": float(error.median())}


def framed(images: Tensor) -> Tensor:
    """Pictures resampled so that the subject's longer side fills `FILL`, as preparation.framing does: [B, 4, S, S]."""
    size = images.shape[-1]
    solid = images[:, 3] > 0.5
    centers, sides = [], []
    for axis in (2, 1):  # columns give x, rows give y
        line = solid.any(3 - axis)
        index = torch.arange(size, device=images.device)
        low = torch.where(line, index, size).amin(1)
        high = torch.where(line, index, -1).amax(1)
        low, high = torch.minimum(low, high), torch.maximum(high, low)
        centers.append((low + high + 1) / size - 1)
        sides.append((high - low + 1) / size)
    zoom = (torch.stack(sides, -1).amax(-1) / FILL).clamp(0.2, 2.0)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = torch.stack(centers, -1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
