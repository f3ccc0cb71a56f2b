"""The cost volume: features of all views gathered at every lattice point, their mean and variance, regularised.

The regulariser is SparseNeuS's sparse 3D U-Net computed densely: every operation is followed by the mask of active
points, which gives the sparse network's numbers without a compiled dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.norm import NormParameters

GATHER_POINTS = 1 << 17
"""Points whose features are gathered at once on a CPU where nothing is learned: the sums stay in the cache."""


def lattice(resolution: int, device: torch.device) -> Tensor:
    """Points of the cube's lattice, [R, R, R, 3] (x, y, z), from -1 to 1."""
    axis = torch.arange(resolution, device=device) * (2 / (resolution - 1)) - 1  # rounded as the reference rounds it
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def project(points: Tensor, image_from_unit: Tensor) -> tuple[Tensor, Tensor]:
    """Projects points of the unit cube into every view.

    Args:
        points: [B, P, 3].
        image_from_unit: [B, V, 3, 4]; pixel centres lie at integers, depth is positive in front.

    Returns:
        Pixels [B, V, P, 2] and depth [B, V, P].
    """
    x, y, z = points[:, None, None].unbind(-1)
    a, b, c, d = image_from_unit.unsqueeze(-2).unbind(-1)
    # in this order the roundings are those of the reference, which near a camera's plane come out magnified
    uvw = torch.addcmul(torch.addcmul(a * x, b, y), c, z) + d
    depth = uvw[:, :, 2]
    safe = torch.where(depth.abs() < 1e-6, torch.full_like(depth, 1e-6), depth)
    return torch.stack([uvw[:, :, 0] / safe, uvw[:, :, 1] / safe], dim=-1), depth


def sample_maps(maps: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear lookup, zero outside: maps [B, V, C, H, W] at pixels [B, V, P, 2] -> [B, V, C, P]."""
    b, v, c, h, w = maps.shape
    size = torch.tensor([w - 1, h - 1], device=pixels.device)
    grid = (2 * pixels / size - 1).clamp(-10, 10).reshape(b * v, 1, -1, 2).to(maps.dtype)
    sampled = F.grid_sample(maps.reshape(b * v, c, h, w), grid, align_corners=True)
    return sampled.reshape(b, v, c, -1)


def gather_maps(maps: Sequence[Tensor], pixels: Tensor, seen: Tensor) -> list[Tensor]:
    """Bilinear lookup in several maps [B, V, C, H, W] of the views where they see a point, else zeros: [B, V, P, C].

    Args:
        maps: of one size H = W, in any dtype; float32 comes out.
        pixels: [B, V, P, 2].
        seen: whether they lie within the picture, [B, V, P].
    """
    (b, v, _, h, w), count = maps[0].shape, pixels.shape[2]
    if torch.is_grad_enabled() or pixels.is_cuda:
        pixels = torch.where(seen[..., None], pixels, -1e4)  # half a pixel outside is outside
        return [sample_maps(m.float(), pixels).transpose(2, 3).contiguous() for m in maps]
    # A CPU is many times faster at adding four whole rows of a table than at going through the channels one by one.
    x, y = pixels.clamp(0, w - 1).unbind(-1)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    of_view = torch.arange(b * v, device=pixels.device).view(b, v, 1) * (h * w)
    row = of_view + (top * w + left).long()
    right, down = (left < w - 1).long(), (top < h - 1).long() * w
    rows = torch.stack([row, row + right, row + down, row + right + down], dim=-1).view(-1, 4)
    across = torch.stack([1 - right_share, right_share], dim=-1) * seen[..., None]
    along = torch.stack([1 - bottom_share, bottom_share], dim=-1)
    shares = (along[..., :, None] * across[..., None, :]).view(-1, 4)
    gathered = []
    for m in maps:
        table = m.float().permute(0, 1, 3, 4, 2).reshape(b * v * h * w, m.shape[2])  # no copy if channels lie last
        bags = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
        gathered.append(bags.view(b, v, count, m.shape[2]))
    return gathered


def in_view(pixels: Tensor, depth: Tensor, size: int) -> Tensor:
    """Whether a projection lies within the picture and in front of the camera."""
    inside = (pixels >= 0) & (pixels <= size - 1)
    return inside.all(-1) & (depth > 0)


def cost_volume(maps: Tensor, image_from_unit: Tensor, config: SparseNeuSConfig) -> tuple[Tensor, Tensor]:
    """Variance and mean of the views' features at every lattice point (SparseNeuS, section 3.1).

    Features outside a view count as zeros in the sums, as in the reference.

    Args:
        maps: compressed features [B, V, C, H, W]; view 0 is the reference.
        image_from_unit: [B, V, 3, 4].

    Returns:
        Volume [B, volume_channels, R, R, R] and mask of active points [B, 1, R, R, R].
    """
    b, r = maps.shape[0], config.volume_resolution
    points = lattice(r, maps.device).reshape(1, -1, 3).expand(b, -1, -1)
    step = points.shape[1] if torch.is_grad_enabled() or maps.is_cuda else GATHER_POINTS
    parts = [_gather(maps, image_from_unit, chunk, config) for chunk in points.split(step, dim=1)]
    volume, active = (torch.cat(part, dim=-1).reshape(b, -1, r, r, r) for part in zip(*parts, strict=True))
    return volume, active


def _gather(maps: Tensor, image_from_unit: Tensor, points: Tensor, config: SparseNeuSConfig) -> tuple[Tensor, Tensor]:
    """`cost_volume` at points [B, P, 3], one view after the other: [B, volume_channels, P] and [B, 1, P]."""
    (b, views, channels), size = maps.shape[:3], maps.shape[-1]
    mean = torch.zeros(b, channels, points.shape[1], device=maps.device)
    squares, seen = torch.zeros_like(mean), torch.zeros_like(mean[:, :1])
    extra: list[Tensor] = []
    for view in range(views):
        pixels, depth = project(points, image_from_unit[:, view, None])
        features = sample_maps(maps[:, view, None], pixels)[:, 0].float()
        mean += features
        squares = squares.addcmul_(features, features)
        seen += in_view(pixels, depth, size)
        if view == 0 and config.reference_features:
            extra.append(features)
        if view == 0 and config.positional_volume:
            reference = torch.cat([pixels[:, 0] / (size / 2) - 1, depth[:, 0, :, None] - 1.5], dim=-1)
            extra.append(torch.cat([points, reference.clamp(-3, 3)], dim=-1).transpose(1, 2))
    count = seen + 1e-5
    mean = mean / count
    parts = [squares / count - mean.square(), mean, *extra]
    if config.positional_volume:
        parts.append(count / views)
    active = (seen >= config.min_views).float()
    return torch.cat(parts, dim=1) * active, active


def coarser(mask: Tensor) -> Tensor:
    """Sites of a strided sparse convolution [B, 1, N // 2 + 1, ...] over the active ones [B, 1, N, N, N].

    A site lies wherever its kernel meets an active one, except below the lowest of those (torchsparse 1.4).
    """
    pooled = F.max_pool3d(mask, 3, 2, 1)
    for axis in (2, 3, 4):
        across = [other for other in (2, 3, 4) if other != axis]
        lowest = mask.amax(across, keepdim=True).argmax(axis, keepdim=True)
        site = 2 * torch.arange(pooled.shape[axis], device=mask.device)
        pooled = pooled * (site.view([-1 if other == axis else 1 for other in range(5)]) >= lowest)
    return pooled


class MaskedNorm(NormParameters):
    """Norm over active points with batch statistics (the reference never calls eval) or stored ones, or group norm."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, C, D, H, W] with zeros where mask [B, 1, D, H, W] is zero; what it gives there is to be masked."""
        if self.norm == "group":
            return F.group_norm(x, x.shape[1] // 8, self.weight, self.bias)
        x = x.float()
        mean, variance = (self.running_mean, self.running_var) if self.norm == "running" else _moments(x, mask)
        scale = self.weight * torch.rsqrt(variance + 1e-5)
        shape = (1, -1, 1, 1, 1)
        return torch.addcmul((self.bias - mean * scale).view(shape), x, scale.view(shape))


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of x [B, C, D, H, W] over the mask's points; elsewhere x is zero and adds to no sum."""
    variance, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0)
    share = x.numel() / x.shape[1] / mask.sum(dtype=torch.float32).clamp(min=1)
    squares = (variance + mean.square()) * share
    return mean * share, squares - (mean * share).square()


class SparseKernel(nn.Module):
    """Weights of a 3x3x3 convolution in torchsparse's layout: [27, in, out], x fastest."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(27, inputs, outputs) * (2 / (27 * inputs)) ** 0.5)

    def weight(self, *, transposed: bool) -> Tensor:
        """As conv3d ([out, in, x, y, z]) or conv_transpose3d ([in, out, x, y, z]) expects it."""
        inputs, outputs = self.kernel.shape[1:]
        zyx = self.kernel.reshape(3, 3, 3, inputs, outputs)
        return zyx.permute(3, 4, 2, 1, 0) if transposed else zyx.permute(4, 3, 2, 1, 0)


class SparseBlock(nn.Module):
    """Masked convolution (stride 1, 2, or transposed 2), norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: str, *, stride: int = 1, transposed: bool = False) -> None:
        super().__init__()
        self.stride, self.transposed = stride, transposed
        self.net = nn.ModuleList([SparseKernel(inputs, outputs), MaskedNorm(outputs, norm)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` belongs to the output."""
        x = self.convolve(x, mask)
        mask = mask.to(x.dtype)  # else the product is float32 and every layer casts it back
        return self.net[1](x, mask).to(x.dtype).relu_() * mask

    def convolve(self, x: Tensor, mask: Tensor) -> Tensor:
        """The convolution alone, zero where the mask of the output is."""
        weight = cast(SparseKernel, self.net[0]).weight(transposed=self.transposed)
        if self.transposed:
            x = F.conv_transpose3d(x, weight, stride=2, padding=1)
        else:
            x = F.conv3d(x, weight, stride=self.stride, padding=1)
        return x.mul_(mask.to(x.dtype))


class SparseCostRegNet(nn.Module):
    """The 3D U-Net with skips by addition; its blocks carry the reference's numbers."""

    def __init__(self, config: SparseNeuSConfig) -> None:
        super().__init__()
        c, norm = config.regularizer_channels, config.norm
        if len(c) != 4:
            raise ValueError(f"the regulariser has four levels, not {len(c)}")
        self.conv0 = SparseBlock(config.volume_channels, c[0], norm)
        self.conv1 = SparseBlock(c[0], c[1], norm, stride=2)
        self.conv2 = SparseBlock(c[1], c[1], norm)
        self.conv3 = SparseBlock(c[1], c[2], norm, stride=2)
        self.conv4 = SparseBlock(c[2], c[2], norm)
        self.conv5 = SparseBlock(c[2], c[3], norm, stride=2)
        self.conv6 = SparseBlock(c[3], c[3], norm)
        self.conv7 = SparseBlock(c[3], c[2], norm, transposed=True)
        self.conv9 = SparseBlock(c[2], c[1], norm, transposed=True)
        self.conv11 = SparseBlock(c[1], c[0], norm, transposed=True)

    def forward(self, volume: Tensor, mask: Tensor, code: Tensor | None = None) -> Tensor:
        """Regularised volume [B, C0, R, R, R], zero where the mask is.

        Args:
            volume: [B, C, R, R, R].
            mask: [B, 1, R, R, R].
            code: [B, C3], added at the bottom.
        """
        r = volume.shape[-1]
        if torch.is_autocast_enabled(volume.device.type):  # here once, and not again at every convolution
            volume = volume.to(torch.get_autocast_dtype(volume.device.type))
        # strided sparse convolutions have no upper bound on their sites: one more point at the high end
        volume, fine = F.pad(volume, (0, 1) * 3), F.pad(mask, (0, 1) * 3)
        half = coarser(fine)
        quarter = coarser(half)
        eighth = coarser(quarter)
        c0 = self.conv0(volume, fine)
        c2 = self.conv2(self.conv1(c0, half), half)
        c4 = self.conv4(self.conv3(c2, quarter), quarter)
        x = self.conv5(c4, eighth)
        if code is not None:
            x = x + code[:, :, None, None, None].to(x.dtype) * eighth.to(x.dtype)
        x = self.conv6(x, eighth)
        x = c4 + self.conv7(x, quarter)
        x = c2 + self.conv9(x, half)
        x = c0 + self.conv11(x, fine)
        return x[..., :r, :r, :r]
