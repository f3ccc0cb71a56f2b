"""What the published reconstructor is trained for: pictures and depths of views, by rendering its volume.

As SparseNeuS (Long et al. 2022, section 3.4) and One-2-3-45 (Liu et al. 2023, section 3.3) do it: colour, depth, unit
gradients and a surface that is nowhere but where it has to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.geometry.cameras import Camera
from backend.reconstructors.sparseneus.adapter import network_images
from backend.reconstructors.sparseneus.config import PUBLISHED, SparseNeuSConfig
from backend.reconstructors.sparseneus.frame import Frame, frusta_frame
from backend.reconstructors.sparseneus.network import Conditional, SparseNeuS, rgb_on_white
from backend.reconstructors.sparseneus.rendering import Rendered, render_rays
from backend.reconstructors.sparseneus.sdf import LatentSdf
from backend.training.data.scenes import Scene, Scenes

OPAQUE = 127
"""A pixel is of the object where its alpha is above this."""


@dataclass(frozen=True)
class VolumeConfig:
    """The loss, and how rays are chosen and sampled.

    Attributes:
        network: sizes of the reconstructor.
        rays: of a step, all through one target view.
        object_share: of the rays, those that are sent through pixels of the object; the others go anywhere.
        samples, refined: of a ray, see `render_rays`.
        sparsity_points: spread evenly over the cube, where the surface is to be absent.
        sparsity_sharpness: tau of exp(-tau |distance|).
        color, depth, eikonal, sparsity, mask: weights of the parts. The paper has a depth term and no mask term; the
            released configuration has depth 0 and a mask term of 0.01, later 0.1.
        sparsity_ramp: steps in which the weight of sparsity grows from nothing.
        anneal: steps until the opacity trusts the angle between ray and surface, see `render_rays`.
        sphere: radius of the shape that a network with random weights begins with, in units of the cube.
        val_scenes: scored at every save.
    """

    network: SparseNeuSConfig = PUBLISHED
    rays: int = 512
    object_share: float = 0.75
    samples: int = 64
    refined: int = 64
    sparsity_points: int = 1024
    sparsity_sharpness: float = 100.0
    color: float = 1.0
    depth: float = 1.0
    eikonal: float = 0.1
    sparsity: float = 0.02
    mask: float = 0.0
    sparsity_ramp: int = 25_000
    anneal: int = 25_000
    sphere: float = 0.35
    val_scenes: int = 8


@dataclass(frozen=True)
class Rays:
    """One scene's sources, and rays of one of its targets with what they should see.

    Attributes:
        images: the sources as the network takes them, [1, V, C, S, S].
        projections: [1, V, 3, 4].
        centers: [1, V, 3].
        origins, directions: in unit coordinates, [N, 3].
        near_far: between which depths to sample.
        colors: on white, [N, 3].
        depths: along the rays in units, [N]; 0 where there is nothing.
        inside: whether a ray meets the object, float [N].
        even: points of the cube, [1, P, 3].
        seed: of the samples' places.
    """

    images: Tensor
    projections: Tensor
    centers: Tensor
    origins: Tensor
    directions: Tensor
    near_far: tuple[float, float]
    colors: Tensor
    depths: Tensor
    inside: Tensor
    even: Tensor
    seed: int


class VolumeObjective(nn.Module):
    """Loss of one step; see `training.loop.Objective`.

    Args:
        network: to train.
        config: of the loss.
    """

    def __init__(self, network: SparseNeuS, config: VolumeConfig) -> None:
        super().__init__()
        self.network, self.config, self.step = network, config, 0

    def draw(self, data: Scenes, size: int, generator: torch.Generator) -> tuple[list[Rays]]:
        """Rays of `size` scenes."""
        chosen = torch.randint(len(data), (size,), generator=generator)
        return ([choose_rays(data[int(index)], self.config, generator) for index in chosen],)

    def forward(self, batch: Sequence[Rays]) -> dict[str, Tensor]:
        """Parts of the loss; scenes are looked at one by one, as the norms' statistics are of one scene's views."""
        scenes = [self._parts(rays) for rays in batch]
        return {name: torch.stack([parts[name] for parts in scenes]).mean() for name in scenes[0]}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the parts."""
        ramp = min(1.0, self.step / max(self.config.sparsity_ramp, 1))
        weights = {name: getattr(self.config, name) * (ramp if name == "sparsity" else 1.0) for name in parts}
        return torch.stack([weights[name] * value for name, value in parts.items()]).sum()

    @torch.no_grad()
    def score(self, data: Scenes) -> dict[str, float]:
        """The parts on validation scenes, from the same rays every time."""
        generator = torch.Generator().manual_seed(0)
        count = min(self.config.val_scenes, len(data))
        numbers = np.linspace(0, len(data) - 1, count).round().astype(int)
        scenes = [self._parts(choose_rays(data[int(number)], self.config, generator)) for number in numbers]
        return {f"val_{name}": float(torch.stack([parts[name] for parts in scenes]).mean()) for name in scenes[0]}

    def _parts(self, rays: Rays) -> dict[str, Tensor]:
        conditional = self.network.condition(rays.images, rays.projections, rays.centers)
        rendered = render_rays(
            self.network,
            conditional,
            rays.origins,
            rays.directions,
            rays.near_far,
            anneal=min(1.0, self.step / max(self.config.anneal, 1)),
            samples=self.config.samples,
            refined=self.config.refined,
            generator=torch.Generator().manual_seed(rays.seed),
        )
        parts = {
            "color": color_error(rendered, rays),
            "depth": _mean((rendered.depths - rays.depths).abs(), rays.inside * rendered.valid),
            "eikonal": rendered.eikonal(),
            "sparsity": self._sparsity(rays.even, conditional),
        }
        if self.config.mask:
            opacity = rendered.opacities.clamp(1e-3, 1 - 1e-3)
            parts["mask"] = F.binary_cross_entropy(opacity, rays.inside)
        return parts

    def _sparsity(self, points: Tensor, conditional: Conditional) -> Tensor:
        """How near a surface is to points that could do without, where views look (SparseNeuS, equation 10)."""
        distance = self.network.sdf(points, conditional)[0]
        grid = points.flip(-1)[:, :, None, None]
        active = F.grid_sample(conditional.mask, grid, mode="nearest", align_corners=True)[:, 0, :, 0, 0]
        return _mean(torch.exp(-self.config.sparsity_sharpness * distance.abs()), active)


def color_error(rendered: Rendered, rays: Rays) -> Tensor:
    """L1 between the colours of rays that enough views look along."""
    return _mean((rendered.colors - rays.colors).abs().mean(-1), rendered.valid)


def choose_rays(scene: Scene, config: VolumeConfig, generator: torch.Generator) -> Rays:
    """Rays through a random target of a scene, most of them through the object."""
    device = scene.targets.device
    target_cameras, source_cameras = scene.cameras
    number = int(torch.randint(len(scene.targets), (1,), generator=generator))
    camera, depth = target_cameras[number], scene.depths[number].flatten()
    picture = scene.targets[number].flatten(0, 1)
    inside = (picture[:, 3] > OPAQUE) & (depth > 0)

    within, size = round(config.object_share * config.rays), len(scene.targets[number])
    on_object = torch.nonzero(inside)[:, 0]
    if not len(on_object):  # it is out of sight
        on_object = torch.arange(size * size, device=device)
    picks = on_object[torch.randint(len(on_object), (within,), generator=generator).to(device)]
    anywhere = torch.randint(size * size, (config.rays - within,), generator=generator).to(device)
    pixels = torch.cat([picks, anywhere])

    frame = frusta_frame([scene.camera, *source_cameras])
    local, directions = _directions(camera, frame, size, pixels)
    white = rgb_on_white(network_images(picture[pixels][:, None, None], config.network)[:, :, 0, 0, None, None])
    even = torch.rand(1, config.sparsity_points, 3, generator=generator) * 2 - 1
    projections = np.stack([frame.image_from_unit(view, size) for view in source_cameras])
    centers = np.stack([frame.center(view) for view in source_cameras])
    return Rays(
        images=network_images(scene.sources[None], config.network),
        projections=torch.from_numpy(projections).to(device, torch.float32)[None],
        centers=torch.from_numpy(centers).to(device, torch.float32)[None],
        origins=torch.from_numpy(frame.center(camera)).to(device, torch.float32).expand(len(pixels), -1),
        directions=directions,
        near_far=frame.near_far(camera),
        colors=white[..., 0, 0],
        depths=depth[pixels] * local.norm(dim=-1) / frame.scale,
        inside=inside[pixels].float(),
        even=even.to(device),
        seed=int(torch.randint(2**31, (1,), generator=generator)),
    )


def _directions(camera: Camera, frame: Frame, size: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [N, 3] of pixels in the camera's frame, of depth 1, and unit ones along the unit axes.

    A pixel lies where the network takes those of the sources to lie.
    """
    offset = 0.5 if frame.centered_pixels else 0.0
    u, v = pixels % size + offset - size / 2, pixels // size + offset - size / 2
    local = torch.stack([u, v, torch.full_like(u, camera.focal(size))], dim=-1) / camera.focal(size)
    rotation = frame.rotation.T @ camera.world_from_camera()[:3, :3]
    directions = local @ torch.from_numpy(rotation).to(local).T
    return local, F.normalize(directions, dim=-1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of values where weights are not zero; 0 if they are everywhere."""
    return (values * weights).sum() / weights.sum().clamp(min=1)


@torch.no_grad()
def begin_with_sphere(layer: LatentSdf, radius: float) -> None:
    """Sets a signed distance layer to that of a ball, whatever the volume holds (Atzmon and Lipman 2020, theorem 1).

    Rendering a shape that is noise has nothing to learn from. The octaves and the volume's features begin without
    weight and find theirs.
    """
    for name in ("lin0", "lin1", "lin2"):
        linear = getattr(layer, name)
        outputs, inputs = linear.weight_v.shape
        used = 3 if name == "lin0" else layer.lin0.weight_v.shape[0]
        weight = torch.zeros(outputs, inputs)
        if name == "lin2":
            weight[:, :used] = math.sqrt(math.pi / used) + 1e-4 * torch.randn(outputs, used)
        else:
            weight[:, :used] = math.sqrt(2 / outputs) * torch.randn(outputs, used)
        linear.weight_v.copy_(weight)
        linear.weight_g.copy_(weight.norm(dim=1, keepdim=True))
        linear.bias.fill_(-radius if name == "lin2" else 0.0)
