"""Gaussians seen by pinhole cameras: centres, depths and footprints in the picture, differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backend.geometry.gaussians.gaussians import Gaussians

LEAST_ALPHA = 1 / 255
"""What a splat adds to a pixel below this counts as nothing."""


@dataclass(frozen=True)
class Splatting:
    """The ways in which rasterisers differ; the default is gsplat's.

    LGM's has alpha_cap 0.99, normalise False and near 0.2. That it also leaves out tiles beyond three standard
    deviations of a Gaussian, where it may still be 0.011 of its opacity, is not imitated.

    Attributes:
        alpha_cap: the most that one Gaussian covers of a pixel, below 1.
        normalise: whether quaternions are brought to unit length first.
        near: least depth of a centre that is drawn.
        eps2d: low-pass filter, added to both variances in the picture, pixels^2.
    """

    alpha_cap: float = 0.999
    normalise: bool = True
    near: float = 0.01
    eps2d: float = 0.3


class Projected(NamedTuple):
    """What V cameras see of N Gaussians.

    Attributes:
        centers: [..., V, N, 2], pixels (u, v), pixel centres at +0.5.
        conics: [..., V, N, 3], inverse covariance in the picture: its entries (0, 0), (0, 1) and (1, 1), 1 / pixels^2.
        depths: [..., V, N], along the view axis.
        extents: [..., V, N, 2], half sides in pixels of the box outside which the splat counts as nothing, without
            history; negative for what is not to be drawn at all.
    """

    centers: Tensor
    conics: Tensor
    depths: Tensor
    extents: Tensor


def project(
    gaussians: Gaussians,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    size: int,
    splatting: Splatting | None = None,
) -> Projected:
    """Projects Gaussians by the local affine approximation (EWA splatting, Zwicker et al. 2001, section 6.2.2).

    As in the original rasteriser and gsplat, the approximation is taken at most 0.3 half pictures outside the picture.

    Args:
        gaussians: leading dimensions [...].
        camera_from_world: rigid, [..., V, 4, 4], to OpenCV camera frames.
        intrinsics: [..., V, 3, 3] in pixels.
        size: side of the picture in pixels.
        splatting: gsplat's choices if left out.
    """
    splatting = splatting or Splatting()
    eps2d = splatting.eps2d
    rotation, translation = camera_from_world[..., :3, :3], camera_from_world[..., :3, 3]
    local = gaussians.means[..., None, :, :] @ rotation.mT + translation[..., None, :]  # [..., V, N, 3]
    visible = local[..., 2] >= splatting.near
    x, y, z = torch.where(visible[..., None], local, local.new_tensor([0.0, 0.0, 1.0])).unbind(-1)
    fx, fy, cx, cy = (intrinsics[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    centers = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)

    slope_x = torch.clamp(x / z, -(cx + 0.15 * size) / fx, (1.15 * size - cx) / fx)
    slope_y = torch.clamp(y / z, -(cy + 0.15 * size) / fy, (1.15 * size - cy) / fy)
    row_x, row_y, row_z = rotation[..., None, :, :].unbind(-2)  # each [..., V, 1, 3]
    # rows of the affine map from the world to the picture, [..., V, N, 3], then what it makes of the Gaussian's axes
    to_u = (fx / z)[..., None] * (row_x - slope_x[..., None] * row_z)
    to_v = (fy / z)[..., None] * (row_y - slope_y[..., None] * row_z)
    axes = gaussians.axes(normalise=splatting.normalise)
    axis_x, axis_y, axis_z = axes[..., None, :, :, :].unbind(-2)  # each [..., 1, N, 3]
    u, v = (row[..., :1] * axis_x + row[..., 1:2] * axis_y + row[..., 2:] * axis_z for row in (to_u, to_v))

    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    # Lagrange's identity: a sum of squares, so that needles do not lose it to cancellation
    determinant = torch.linalg.cross(u, v).square().sum(-1) + eps2d * (uu + vv) + eps2d**2
    conics = torch.stack([vv + eps2d, -uv, uu + eps2d], dim=-1) / determinant[..., None]
    with torch.no_grad():
        # opacity * exp(-s^2 / 2) is LEAST_ALPHA at s standard deviations
        reach = 2 * torch.log(gaussians.opacities / LEAST_ALPHA)[..., None, :, None]
        extents = (reach * (torch.stack([uu, vv], dim=-1) + eps2d)).clamp_min(0).sqrt()
        extents = torch.where(visible[..., None] & (reach >= 0), extents, -1.0)
    return Projected(centers, conics, local[..., 2], extents)
