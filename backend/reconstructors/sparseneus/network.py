"""The whole reconstructor network under the names of the published checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.reconstructors.sparseneus.blending import BlendingNetwork, ray_difference
from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.features import ConvUnit, FeatureNet, fuse
from backend.reconstructors.sparseneus.sdf import LatentSdf, lookup
from backend.reconstructors.sparseneus.volume import SparseCostRegNet, cost_volume, gather_maps, in_view, project


@dataclass
class Sources:
    """The views and their features, which colours are blended from.

    Attributes:
        images: RGB on white, [B, V, 3, H, W].
        fused: features at full resolution [B, V, F, H, W].
        deepest: the coarsest bottom-up map [B, V, D, h, w].
        image_from_unit: [B, V, 3, 4].
        centers: camera centres in unit coordinates, [B, V, 3].
    """

    images: Tensor
    fused: Tensor
    deepest: Tensor
    image_from_unit: Tensor
    centers: Tensor


@dataclass
class Conditional:
    """What the views have been turned into; every query needs it.

    Attributes:
        volume: regularised features [B, C, R, R, R].
        mask: active points [B, 1, R, R, R].
        sources: needed for colours only.
    """

    volume: Tensor
    mask: Tensor
    sources: Sources


class SdfNetwork(nn.Module):
    """Compression, regulariser and signed distance layer."""

    def __init__(self, config: SparseNeuSConfig) -> None:
        super().__init__()
        self.compress_layer = ConvUnit(config.fused_channels, config.compress_channels, 3, 1, config.norm)
        self.sparse_costreg_net = SparseCostRegNet(config)
        self.sdf_layer = LatentSdf(config)
        if config.global_code:
            self.global_code = nn.Linear(2 * config.feature_channels[-1], config.regularizer_channels[-1])


class Variance(nn.Module):
    """Sharpness of the surface: inv_s = exp(10 v) (NeuS)."""

    def __init__(self) -> None:
        super().__init__()
        self.variance = nn.Parameter(torch.tensor(0.2))

    def inverse(self) -> Tensor:
        """inv_s, clamped as in NeuS."""
        return torch.exp(10 * self.variance).clamp(1e-6, 1e6)


class SparseNeuS(nn.Module):
    """Views to a conditional volume, and the signed distance and colours that it answers with."""

    def __init__(self, config: SparseNeuSConfig) -> None:
        super().__init__()
        self.config = config
        self.pyramid_feature_network = FeatureNet(config)
        self.sdf_network_lod0 = SdfNetwork(config)
        self.rendering_network_lod0 = BlendingNetwork(config)
        self.variance_network_lod0 = Variance()

    def channels_last(self) -> SparseNeuS:
        """Lays the 2D convolutions' weights out as CPUs and tensor cores like them."""
        self.pyramid_feature_network = self.pyramid_feature_network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def look(self, images: Tensor, image_from_unit: Tensor, centers: Tensor) -> Sources:
        """The views' features.

        Args:
            images: [B, V, image_channels, H, W] in 0..1; view 0 is the reference.
            image_from_unit: [B, V, 3, 4], pixel centres at integers.
            centers: camera centres in unit coordinates, [B, V, 3].
        """
        maps, deepest = self.pyramid_feature_network(images.flatten(0, 1))
        shape = images.shape[:2]
        fused = fuse(maps).unflatten(0, shape)
        return Sources(rgb_on_white(images), fused, deepest.unflatten(0, shape), image_from_unit, centers)

    def build(self, sources: Sources) -> Conditional:
        """The regularised volume of what has been looked at."""
        sdf, shape = self.sdf_network_lod0, sources.fused.shape[:2]
        compressed = sdf.compress_layer(sources.fused.flatten(0, 1)).unflatten(0, shape)
        volume, mask = cost_volume(compressed, sources.image_from_unit, self.config)
        code = None
        if self.config.global_code:
            reference = sources.deepest[:, 0]
            code = sdf.global_code(torch.cat([reference.mean((2, 3)), reference.amax((2, 3))], dim=1))
        return Conditional(sdf.sparse_costreg_net(volume, mask, code), mask, sources)

    def condition(self, images: Tensor, image_from_unit: Tensor, centers: Tensor) -> Conditional:
        """`look`, then `build`."""
        return self.build(self.look(images, image_from_unit, centers))

    def sdf(self, points: Tensor, conditional: Conditional) -> tuple[Tensor, Tensor]:
        """Signed distance [B, P] (positive outside) and volume features [B, P, C] at points [B, P, 3]."""
        latent = lookup(conditional.volume, points)
        return self.sdf_network_lod0.sdf_layer.distance(points, latent), latent

    def visible(self, points: Tensor, conditional: Conditional) -> Tensor:
        """Whether views see active points: [B, V, P] of points [B, P, 3]."""
        return self._seen(points, conditional.sources)[1] & _active(points, conditional)

    def sample(self, points: Tensor, sources: Sources) -> tuple[Tensor, Tensor, Tensor]:
        """The views' colours [B, V, P, 3] and features [B, V, P, F] at points [B, P, 3], and which see them [B, V, P].

        Where a view does not see a point, its colour and features are zeros.
        """
        pixels, seen = self._seen(points, sources)
        colors, features = gather_maps((sources.images, sources.fused), pixels, seen)
        return colors, features, seen

    def colors(self, points: Tensor, normals: Tensor, conditional: Conditional) -> Tensor:
        """Colours [B, P, 3] in 0..1 of points [B, P, 3].

        Args:
            points: in unit coordinates.
            normals: outward unit normals of surface points, or unit directions to the camera that is rendered.
            conditional: the volume and its sources.
        """
        colors, features, seen = self.sample(points, conditional.sources)
        rays = ray_difference(points, normals, conditional.sources.centers)
        mask = (seen & _active(points, conditional))[..., None].float()
        return self.rendering_network_lod0(lookup(conditional.volume, points), colors, features, rays, mask)

    def _seen(self, points: Tensor, sources: Sources) -> tuple[Tensor, Tensor]:
        """Pixels [B, V, P, 2] of points [B, P, 3] and whether they lie within the pictures."""
        pixels, depth = project(points, sources.image_from_unit)
        return pixels, in_view(pixels, depth, sources.images.shape[-1])


def _active(points: Tensor, conditional: Conditional) -> Tensor:
    """Whether points [B, P, 3] touch the active part of the volume: [B, 1, P]."""
    grid = points.flip(-1)[:, :, None, None, :]
    return F.grid_sample(conditional.mask, grid, align_corners=True)[:, :, :, 0, 0] > 0


def rgb_on_white(images: Tensor) -> Tensor:
    """RGB over white of RGB or premultiplied RGBA pictures, [..., C, H, W] -> [..., 3, H, W]."""
    if images.shape[-3] == 3:
        return images
    return images[..., :3, :, :] + 1 - images[..., 3:, :, :]
