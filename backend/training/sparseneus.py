"""What the reconstructor is trained for: the true solid, from one view or many, and the true colours of its surface.

The published training renders volumes against pictures alone; ours has the meshes, so the signed distance is supervised
where it is asked for, at a hundredth of the cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.geometry import batched
from backend.reconstructors.sparseneus.adapter import network_images, unit_projections
from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.network import Conditional, SparseNeuS
from backend.training.batches import Batch, EpisodeTensors, uniform_points
from backend.training.data.meshes import TRUNCATION

VIEW_COUNTS = (1, 1, 1, 1, 1, 1, 1, 3, 6)
"""Views of a step, drawn evenly: mostly the input alone, since that is the hardest and the first thing shown."""
DRAWN_VIEW_COUNTS = (1, 1, 4, 8)
"""The same where there are drawn views to learn the worth of."""
DRAWN_SHARE = 0.8
"""Of the steps with several views, those whose views are drawn."""


class SparseNeuSObjective(nn.Module):
    """Loss of one batch; `forward` returns its parts, `total` is their weighted sum.

    Args:
        network: to train.
        drawn: episodes with drawn views, for half of the steps with several views; None learns from true ones alone.
        drawn_val: the same of the validation objects, to score on.
        points: even ones, and as many near the surface.
        color_points: pixels of the target view.
    """

    def __init__(
        self,
        network: SparseNeuS,
        drawn: EpisodeTensors | None = None,
        drawn_val: EpisodeTensors | None = None,
        *,
        points: int = 2048,
        color_points: int = 256,
    ) -> None:
        super().__init__()
        self.network, self.drawn, self.drawn_val = network, drawn, drawn_val
        self.points, self.color_points = points, color_points

    @property
    def config(self) -> SparseNeuSConfig:
        """The network's sizes."""
        return self.network.config

    def draw(self, data: EpisodeTensors, size: int, generator: torch.Generator) -> tuple[Batch, Tensor, bool]:
        """A batch, query points, and whether its last view is a target for colour instead of a source."""
        counts = VIEW_COUNTS if self.drawn is None else DRAWN_VIEW_COUNTS
        views = counts[int(torch.randint(len(counts), (1,), generator=generator))]
        size = max(1, size // (1 if views == 1 else 2))
        drawn = self.drawn is not None and views > 1 and bool(torch.rand(1, generator=generator) < DRAWN_SHARE)
        target = views > 1 and not drawn
        if self.drawn is not None and drawn:
            batch = self.drawn.batch(size, views, generator, surface_points=self.points)
        else:
            batch = data.batch(size, views + target, generator, surface_points=self.points)
            # the elevation is an estimate when artists use this
            batch.cameras[..., 0] += 3.0 * torch.randn(size, 1, generator=generator).to(data.device)
        near = batch.surface + 0.03 * torch.randn(batch.surface.shape, generator=generator).to(data.device)
        points = torch.cat([uniform_points(size, self.points, generator, data.device), near], dim=1)
        return batch, points, target

    def forward(self, batch: Batch, points: Tensor, target: bool) -> dict[str, Tensor]:
        """Parts of the loss.

        Args:
            batch: V views, or V + 1 with a target for colour at the end.
            points: [B, P, 3] in the episode's frame; the first half is spread evenly.
            target: whether there is one.
        """
        sources = batch.images.shape[1] - target
        conditional = condition(self.network, batch.images[:, :sources], batch.cameras[:, :sources])
        half = self.config.cube_half
        truth = batch.distance(points) / half
        predicted, _ = self.network.sdf((points / half).clamp(-0.999, 0.999), conditional)
        limit = TRUNCATION / half
        sharpness = self.network.variance_network_lod0.inverse()
        solid = (truth < 0).float()
        logit = -predicted.float() * sharpness
        even = points.shape[1] // 2
        inside = torch.sigmoid(logit[:, :even])
        overlap = (inside * solid[:, :even]).sum(1)
        total = (inside + solid[:, :even]).sum(1)
        parts = {
            "occupancy": F.binary_cross_entropy_with_logits(logit, solid),
            "dice": (1 - (2 * overlap + 1) / (total + 1)).mean(),
            "distance": (predicted.float().clamp(-limit, limit) - truth.clamp(-limit, limit)).abs().mean() / limit,
        }
        if target:
            parts["color"] = self.color_loss(batch, conditional)
        return parts

    def color_loss(self, batch: Batch, conditional: Conditional) -> Tensor:
        """L1 between the blended colours of points seen by the target view and what it sees there."""
        target, camera, depth = batch.images[:, -1], batch.cameras[:, -1], batch.depths[:, -1]
        size = target.shape[1]
        opaque = (target[..., 3] > 250).flatten(1) & (depth.flatten(1) > 0)
        pixels = torch.multinomial(opaque.float() + 1e-6, self.color_points, replacement=True)
        picked = opaque.gather(1, pixels)
        y, x = (pixels // size).float() + 0.5, (pixels % size).float() + 0.5
        focal = batched.intrinsics(camera, size)[:, 0, 0, None]
        z = depth.flatten(1).gather(1, pixels)
        local = torch.stack([(x - size / 2) / focal * z, (y - size / 2) / focal * z, z], dim=-1)
        pose = batched.world_from_camera(camera)
        points = (local @ pose[:, :3, :3].mT + pose[:, None, :3, 3]) / self.config.cube_half
        colors = self.network.colors(points, surface_normals(self.network, points, conditional), conditional)
        true = target.flatten(1, 2).gather(1, pixels[..., None].expand(-1, -1, 4))[..., :3].float() / 255
        return ((colors - true).abs() * picked[..., None]).sum() / (3 * picked.sum() + 1)

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the parts."""
        weights = {"occupancy": 1.0, "dice": 1.0, "distance": 1.0, "color": 0.5}
        return torch.stack([weights[name] * value for name, value in parts.items()]).sum()

    def score(self, data: EpisodeTensors) -> dict[str, float]:
        """Mean volume IoU from the input alone, and with drawn views where there are any."""
        scores = {"iou": self.iou(data, 1)}
        if self.drawn_val is not None:
            scores["iou_drawn"] = self.iou(self.drawn_val, self.drawn_val.images.shape[2])
            scores["iou_drawn_input"] = self.iou(self.drawn_val, 1)
        return scores

    @torch.no_grad()
    def iou(self, data: EpisodeTensors, views: int) -> float:
        """Mean volume IoU on a 32^3 lattice of each object's first episode from its first views."""
        half = self.config.cube_half
        axis = (torch.arange(32, device=data.device) + 0.5) / 16 - 1
        lattice = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
        values = []
        for start in range(0, len(data), 8):
            batch = data.first(slice(start, start + 8), views)
            points = lattice.expand(len(batch.images), -1, -1)
            conditional = condition(self.network, batch.images, batch.cameras)
            predicted = self.network.sdf(points, conditional)[0] < 0
            truth = batch.distance(points * half) < 0
            values.append((predicted & truth).sum(1) / (predicted | truth).sum(1).clamp(min=1))
        return float(torch.cat(values).float().mean())


def condition(network: SparseNeuS, images: Tensor, cameras: Tensor) -> Conditional:
    """The network's look at uint8 views [B, V, S, S, 4] from cameras [B, V, 4]."""
    projections, centers = unit_projections(cameras, network.config)
    return network.condition(network_images(images, network.config), projections, centers)


def surface_normals(network: SparseNeuS, points: Tensor, conditional: Conditional) -> Tensor:
    """Unit gradients [B, P, 3] of the signed distance, detached."""
    frozen = Conditional(**{**vars(conditional), "volume": conditional.volume.detach()})
    with torch.enable_grad():
        x = points.detach().clone().requires_grad_()
        distance, _ = network.sdf(x, frozen)
        (gradient,) = torch.autograd.grad(distance.sum(), x)
    return F.normalize(gradient, dim=-1)
