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
from backend.reconstructors.sparseneus.volume import SparseCostRegNet, cost_volume, in_view, project, sample_maps


@dataclass
class Conditional:
    """What the views have been turned into; every query needs it.

    Attributes:
        volume: regularised features [B, C, R, R, R].
        mask: active points [B, 1, R, R, R].
        images: RGB of the sources, [B, V, 3, H, W].
        fused: their fused features [B, V, F, H, W].
        image_from_unit: [B, V, 3, 4].
        centers: camera centres in unit coordinates, [B, V, 3].
    """

    volume: Tensor
    mask: Tensor
    images: Tensor
    fused: Tensor
    image_from_unit: Tensor
    centers: Tensor


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

    def condition(self, images: Tensor, image_from_unit: Tensor, centers: Tensor) -> Conditional:
        """Looks at the views.

        Args:
            images: [B, V, image_channels, H, W] in 0..1; view 0 is the reference.
            image_from_unit: [B, V, 3, 4], pixel centres at integers.
            centers: camera centres in unit coordinates, [B, V, 3].
        """
        b, v = images.shape[:2]
        sdf = self.sdf_network_lod0
        maps, deepest = self.pyramid_feature_network(images.flatten(0, 1))
        fused = fuse(maps)
        compressed = sdf.compress_layer(fused).unflatten(0, (b, v))
        volume, mask = cost_volume(compressed, image_from_unit, self.config)
        code = None
        if self.config.global_code:
            reference = deepest.unflatten(0, (b, v))[:, 0]
            code = sdf.global_code(torch.cat([reference.mean((2, 3)), reference.amax((2, 3))], dim=1))
        volume = sdf.sparse_costreg_net(volume, mask, code)
        return Conditional(volume, mask, rgb_on_white(images), fused.unflatten(0, (b, v)), image_from_unit, centers)

    def sdf(self, points: Tensor, conditional: Conditional) -> tuple[Tensor, Tensor]:
        """Signed distance [B, P] (positive outside) and volume features [B, P, C] at points [B, P, 3]."""
        latent = lookup(conditional.volume, points)
        distance, _ = self.sdf_network_lod0.sdf_layer(points, latent)
        return distance[..., 0], latent

    def colors(self, points: Tensor, normals: Tensor, conditional: Conditional) -> Tensor:
        """Colours [B, P, 3] in 0..1 of surface points [B, P, 3] with outward unit normals."""
        c = conditional
        pixels, depth = project(points, c.image_from_unit)
        seen = in_view(pixels, depth, c.images.shape[-1])
        active = F.grid_sample(c.mask, points.flip(-1)[:, :, None, None, :], align_corners=True)[:, 0, :, 0, 0] > 0
        mask = (seen & active[:, None]).transpose(1, 2)[..., None].float()
        sources = torch.cat([c.images, c.fused.to(c.images.dtype)], dim=2)
        sampled = sample_maps(sources, pixels).permute(0, 3, 1, 2).float()
        colors = sampled[..., :3] * seen.transpose(1, 2)[..., None]  # half a pixel outside is outside: black
        rays = ray_difference(points, normals, c.centers)
        latent = lookup(c.volume, points)
        return self.rendering_network_lod0(latent, colors, sampled[..., 3:], rays, mask)


def rgb_on_white(images: Tensor) -> Tensor:
    """RGB over white of RGB or premultiplied RGBA pictures, [..., C, H, W] -> [..., 3, H, W]."""
    if images.shape[-3] == 3:
        return images
    return images[..., :3, :, :] + 1 - images[..., 3:, :, :]
