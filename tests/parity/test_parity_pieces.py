"""Pieces of One-2-3-45 against the published code's numbers, all of which are in tests/data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference_weights
import torch
from goldens import DATA, Golden

from backend.geometry.cameras import Camera
from backend.pipelines.one2345.selection import published_cameras
from backend.reconstructors.sparseneus.config import PUBLISHED
from backend.reconstructors.sparseneus.frame import frusta_frame
from backend.reconstructors.sparseneus.network import Conditional, SparseNeuS
from backend.reconstructors.sparseneus.rendering import Rendered, render_rays
from backend.reconstructors.sparseneus.volume import SparseBlock, SparseKernel, coarser

FOV = float(2 * np.degrees(np.arctan(128 / 280)))
BLENDER_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.mark.parametrize("polar", [60, 90])
def test_the_published_frame_stands_where_the_published_code_puts_it(polar: int) -> None:
    golden = Golden(DATA / "one2345_cameras.npz")
    prefix = f"polar{polar}_"
    golden.unread = {name for name in golden.unread if name.startswith(prefix)}
    named = published_cameras(Camera(90 - polar, 30.0, 1.2, FOV))
    cameras = list(named.values())
    golden.equal(prefix + "image_ids", np.array([f"{name}.png" for name in named]))
    golden.equal(prefix + "view_ids", np.arange(8, 40))
    poses = np.stack([camera.world_from_camera() for camera in cameras])
    golden.close(prefix + "blender_c2w", (poses @ BLENDER_FROM_OPENCV)[:, :3], 1e-6)
    golden.close(prefix + "trans_mat", poses[0], 1e-6)

    frame = frusta_frame([cameras[0], *cameras[8:]])
    golden.close(prefix + "scale_mat", np.linalg.inv(poses[0]) @ frame.object_from_unit, 1e-6)
    golden.close(prefix + "scale_factor", np.array(1 / frame.scale), 1e-6)
    matrices = np.stack([frame.camera_from_unit(camera) for camera in cameras])
    golden.close(prefix + "target_candidate_w2cs", matrices[:8], 1e-6)
    golden.close(prefix + "w2cs", matrices[8:], 1e-6)
    golden.close(prefix + "c2ws", np.linalg.inv(matrices[8:]), 1e-6)
    golden.close(prefix + "query_w2c", matrices[0], 1e-6)
    golden.close(prefix + "query_c2w", np.linalg.inv(matrices[0]), 1e-6)
    ranges = np.array([frame.near_far(camera) for camera in [cameras[0], *cameras[8:]]])
    golden.close(prefix + "near_fars", ranges, 1e-6)
    golden.close(prefix + "query_near_far", ranges[0], 1e-6)
    intrinsics = np.stack([camera.intrinsics(256) for camera in cameras])
    golden.close(prefix + "intrinsics", intrinsics[8:], 1e-4)
    golden.close(prefix + "query_intrinsic", intrinsics[0], 1e-4)
    projections = np.stack([frame.image_from_unit(camera, 256) for camera in cameras[8:]]) / frame.scale
    golden.close(prefix + "affine_mats", np.concatenate([projections, matrices[8:, 3:]], 1), 2e-4)  # of up to 300

    pixels = np.stack([np.arange(8.0), np.zeros(8), np.ones(8)], axis=1)
    rays = pixels @ np.linalg.inv(intrinsics[0]).T @ frame.camera_from_unit(cameras[0])[:3, :3]
    golden.close(prefix + "rays_d_first8", rays / np.linalg.norm(rays, axis=1, keepdims=True), 1e-6)
    golden.close(prefix + "rays_o_first8", np.tile(frame.center(cameras[0]), (8, 1)), 1e-6)
    assert not golden.unread


def test_masked_dense_convolutions_are_torchsparses() -> None:
    """Strided and inverse convolutions over sites that begin at an odd coordinate."""
    golden, size = Golden(DATA / "one2345_sparseconv.npz"), 17
    offsets = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    golden.equal("kernel_offsets_xyz", offsets[:, ::-1])
    x, fine = torch.zeros(1, 4, size, size, size), torch.zeros(1, 1, size, size, size)
    i, j, k = golden["coords_xyz"].T
    x[0, :, i, j, k], fine[:, :, i, j, k] = golden.tensor("feats").T, 1.0
    half = coarser(fine)
    masks = [fine, half, half, coarser(half), half, fine]
    for name, mask, strided in zip("abcdef", masks, [0, 1, 0, 1, -1, -1], strict=True):
        kernel = golden.tensor(f"kernel_{name}")
        block = SparseBlock(*kernel.shape[1:], "batch", stride=1 + (strided > 0), transposed=strided < 0)
        convolution = block.net[0]
        assert isinstance(convolution, SparseKernel)
        with torch.no_grad():
            convolution.kernel.copy_(kernel)
            x = block.convolve(x, mask)
        stride = int(golden[f"out_{name}_stride"])
        i, j, k = golden[f"out_{name}_coords"].T // stride
        assert mask[0, 0, i, j, k].all()
        assert mask.sum() == len(i)
        golden.close(f"out_{name}_feats", x[0, :, i, j, k].T, 1e-5)
    assert not golden.unread


@pytest.fixture(scope="module")
def scene() -> tuple[SparseNeuS, Conditional]:
    inputs = Golden(DATA / "one2345_recon.npz")
    network = reference_weights.sparseneus(dataclasses.replace(PUBLISHED, volume_resolution=32, image_size=64))
    with torch.no_grad():
        return network, network.condition(
            inputs.tensor("images")[None],
            inputs.tensor("affine_mats")[None, :, :3],
            inputs.tensor("c2ws")[None, :, :3, 3],
        )


def compare_rendering(golden: Golden, rendered: Rendered, network: SparseNeuS, prefix: str) -> None:
    for name, value in {
        "color_fine": rendered.colors,
        "depth": rendered.depths[:, None],
        "weights_sum": rendered.opacities[:, None],
        "depth_variance": rendered.depth_variances[:, None],
        "weights_first8": rendered.weights[:8],
        "gradients_first8": rendered.gradients[:8],
        "variance": 1 / network.variance_network_lod0.inverse(),
    }.items():
        golden.close(prefix + name, value.detach(), 5e-4)
    golden.equal(prefix + "color_fine_mask", rendered.valid[:, None])


def test_volume_rendering_is_the_published_one(scene: tuple[SparseNeuS, Conditional]) -> None:
    golden, (network, conditional) = Golden(DATA / "one2345_rendering.npz"), scene
    near, far = golden["query_near_far"].tolist()
    rays = golden.tensor("rays_o"), golden.tensor("rays_d")
    for anneal in (1, 0):
        with torch.no_grad():
            rendered = render_rays(network, conditional, *rays, (near, far), anneal=float(anneal))
        compare_rendering(golden, rendered, network, f"render_anneal{anneal}_")
    assert golden.unread == {"rays_pixel_yx"} & golden.unread


def test_rendering_can_be_learned_from(scene: tuple[SparseNeuS, Conditional]) -> None:
    """With gradients it takes another lookup, which gives the same picture and reaches every parameter it should."""
    golden, (network, conditional) = Golden(DATA / "one2345_rendering.npz"), scene
    near, far = golden["query_near_far"].tolist()
    rays = golden.tensor("rays_o"), golden.tensor("rays_d")
    volume = conditional.volume.clone().requires_grad_()
    rendered = render_rays(network, dataclasses.replace(conditional, volume=volume), *rays, (near, far))
    compare_rendering(golden, rendered, network, "render_anneal1_")
    (rendered.eikonal() + rendered.depths.mean() + rendered.colors.mean()).backward()
    assert volume.grad is not None
    assert 0 < float(volume.grad.abs().max()) < 10
    parts = (network.sdf_network_lod0.sdf_layer, network.rendering_network_lod0, network.variance_network_lod0)
    for parameter in (p for part in parts for p in part.parameters()):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    network.zero_grad(set_to_none=True)

    nowhere = torch.tensor([[0.0, 0.0, 5.0]]).expand(2, -1), torch.tensor([[0.0, 0.0, 1.0]]).expand(2, -1)
    missed = render_rays(network, conditional, *nowhere, (0.1, 1.0), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(missed.colors, torch.ones(2, 3))
    assert not missed.valid.any()
