"""Where Gaussians come to lie in the picture, against the matrices that the published rasteriser is called with."""

from __future__ import annotations

import torch
from goldens import DATA, Golden

from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.projection import project

SIZE = 512


def test_gaussians_come_to_lie_where_the_published_matrices_put_them() -> None:
    golden = Golden(DATA / "ouroboros3d_rendering.npz")
    poses = golden.tensor("c2w").double()
    intrinsics = golden.tensor("intrinsics_normalised").double() * torch.tensor([[SIZE], [SIZE], [1.0]])
    golden.close("render_fx", intrinsics[:, 0, 0], 1e-4)
    golden.close("fov_deg", torch.rad2deg(2 * torch.atan(SIZE / 2 / intrinsics[:, 0, 0])), 1e-5)
    golden.close("render_fov_rad", 2 * torch.atan(SIZE / 2 / intrinsics[:, 1, 1]), 1e-6)
    golden.close("render_camera_center", poses[:, :3, 3], 1e-6)
    golden.close("render_world_to_camera_T", torch.linalg.inv(poses).mT, 1e-6)

    means = torch.rand(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    one = torch.ones(500, dtype=torch.float64)
    gaussians = Gaussians(
        means, torch.eye(4)[:1].double().expand(500, 4), 0.01 * one[:, None].expand(500, 3), one, means
    )
    seen = project(gaussians, torch.linalg.inv(poses), intrinsics, SIZE)

    homogeneous = torch.cat([means, one[:, None]], dim=-1)
    clip = homogeneous @ golden.tensor("render_full_projection").double()  # row vectors
    integer_pixels = ((clip[..., :2] / clip[..., 3:] + 1) * SIZE - 1) / 2  # its pixel centres are whole numbers
    assert (seen.centers - (integer_pixels + 0.5)).abs().max() < 1e-3
    assert (seen.depths - clip[..., 3]).abs().max() < 1e-5
    local = homogeneous @ golden.tensor("render_world_to_camera_T").double()
    assert (seen.depths - local[..., 2]).abs().max() < 1e-5
    assert not golden.unread
