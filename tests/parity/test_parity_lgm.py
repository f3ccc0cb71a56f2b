"""LGM and Ouroboros3D's variant against the published code's numbers: a few in tests/data, all with GOLDENS."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import reference_weights
import torch
from goldens import DATA, Golden, folder, full

from backend.geometry.cameras import Camera
from backend.geometry.gaussians.gaussians import Gaussians
from backend.reconstructors.lgm.blocks import sinusoids
from backend.reconstructors.lgm.ccm import published_map
from backend.reconstructors.lgm.config import OUROBOROS3D, PUBLISHED_LGM_FIXED, LGMConfig
from backend.reconstructors.lgm.frame import first_camera_frame
from backend.reconstructors.lgm.network import LGM
from backend.reconstructors.lgm.rays import network_input, pluecker
from backend.weights.layouts.ouroboros3d import MANIFESTS


def reduced(config: LGMConfig) -> LGMConfig:
    """The sizes of the network that the numbers were computed with."""
    return dataclasses.replace(
        config,
        input_size=64,
        down_channels=(32, 64, 96, 128),
        down_attention=(False, False, True, True),
        up_channels=(128, 96, 64),
        up_attention=(True, True, False),
    )


def network(config: LGMConfig) -> LGM:
    """With the reference's weights."""
    built = LGM(config)
    built.load_state_dict({key: reference_weights.filled(key, value) for key, value in built.state_dict().items()})
    return built.eval()


def table(gaussians: Gaussians) -> torch.Tensor:
    """[N, 14] as the published code lists them: position, opacity, size, rotation, colour."""
    g = gaussians.index(0)
    return torch.cat([g.means, g.opacities[:, None], g.scales, g.quaternions, g.colors], dim=1)


def shapes(config: LGMConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {key: list(value.shape) for key, value in LGM(config).state_dict().items()}


def test_every_key_of_both_checkpoints_is_there_with_its_shape() -> None:
    variant = json.loads((MANIFESTS / "ouroboros3d_recon_model.json").read_text())
    assert shapes(OUROBOROS3D) == variant
    timeless = {key: shape for key, shape in variant.items() if "time_embed" not in key and "emb_layers" not in key}
    assert shapes(PUBLISHED_LGM_FIXED) == timeless
    assert len(timeless) == 376


def test_the_original_checkpoints_keys_are_the_listed_ones() -> None:
    assert shapes(PUBLISHED_LGM_FIXED) == json.loads((folder() / "manifests" / "lgm_big.json").read_text())


@torch.no_grad()
def test_the_original_network() -> None:
    golden = full("lgm")
    lgm = network(reduced(PUBLISHED_LGM_FIXED))
    images = golden.tensor("input_images")
    golden.close("unet_out", lgm.unet(images), 1e-4)
    golden.close("gaussians", table(lgm(images[None])), 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("source", ["few", "all"])
def test_the_variants_network(source: str) -> None:
    golden = Golden(DATA / "lgm.npz") if source == "few" else full("ouroboros3d")
    step = 1 if source == "all" else 8
    config = reduced(OUROBOROS3D)
    lgm = network(config)
    images = torch.zeros(1, 8, 3, 96, 96)
    given = golden.tensor("recon_images_in").float() * 0.5 + 0.5
    images[0, torch.arange(8) if len(given) == 8 else list(config.views)] = given
    poses, intrinsics = golden.tensor("c2w")[None], golden.tensor("intrinsics_normalised")[None]
    x = network_input(images, poses, intrinsics, config)
    golden.close("recon_unet_in", x[0, :1, :, ::step, ::step], 1e-5)
    golden.close("recon_plucker_views0246", x[0, :, 3:, :: 2 * step, :: 2 * step], 1e-5)
    timestep = golden.tensor("recon_timestep").reshape(1)
    golden.close("recon_time_proj", sinusoids(timestep, config.time_channels), 1e-6)
    golden.close("recon_time_embed", lgm.unet.embed(timestep), 1e-5)
    golden.close("recon_unet_out", lgm.unet(x[0], timestep)[:, :, ::step, ::step], 1e-4)
    golden.close("recon_gaussians", table(lgm(x, timestep))[:: step**2], 1e-4)
    golden.close("recon_gaussians", table(lgm.channels_last()(x, timestep))[:: step**2], 1e-4)


OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
ORBIT = (0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 337.5)


@pytest.mark.parametrize("source", ["few", "all"])
@pytest.mark.parametrize("elevation", [0, 15])
def test_the_originals_cameras_and_rays(source: str, elevation: int) -> None:
    golden = Golden(DATA / "lgm.npz") if source == "few" else full("lgm")
    config = PUBLISHED_LGM_FIXED
    frame = first_camera_frame(Camera(0.0, 0.0, config.radius, config.fov_deg), config.radius)
    # published elevations count downwards, and the default rays leave the world level
    cameras = [Camera(-elevation, 90.0 * k, config.radius, config.fov_deg) for k in range(4)]
    poses, intrinsics = frame.cameras(cameras)
    golden.close(f"default_poses_elev{elevation}", poses.numpy() @ OPENGL, 1e-6)
    stride = {0: 2, 15: 4}[elevation] * {"few": {0: 8, 15: 4}[elevation], "all": 1}[source]
    golden.close(f"default_rays_elev{elevation}", pluecker(poses, intrinsics, 64)[..., ::stride, ::stride], 1e-5)


@pytest.mark.parametrize("source", ["few", "all"])
def test_the_variants_cameras(source: str) -> None:
    golden = Golden(DATA / "lgm.npz") if source == "few" else full("ouroboros3d")
    config = OUROBOROS3D
    cameras = [Camera(0.0, azimuth, 2.0, config.fov_deg) for azimuth in ORBIT]
    poses, intrinsics = first_camera_frame(cameras[0], config.radius).cameras(cameras)
    golden.close("c2w", poses, 2e-6)
    golden.close("intrinsics_normalised", intrinsics, 1e-6)
    golden.close("fov_deg", np.full(8, config.fov_deg), 1e-5)

    # what the published rasteriser is told of them
    golden.close("render_world_to_camera_T", torch.linalg.inv(poses).mT, 2e-6)
    golden.close("render_camera_center", poses[:, :3, 3], 2e-6)
    golden.close("render_fx", 512 * intrinsics[:, 0, 0], 1e-3)
    golden.close("render_fov_rad", np.radians(np.full(8, config.fov_deg)), 1e-6)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-0.7, 0.7, (8, 50, 3))).float()
    clip = torch.cat([points, torch.ones(8, 50, 1)], dim=-1) @ golden.tensor("render_full_projection")
    local = points @ torch.linalg.inv(poses)[:, :3, :3].mT + torch.linalg.inv(poses)[:, None, :3, 3]
    uvw = local @ intrinsics.mT
    assert torch.allclose((clip[..., :2] / clip[..., 3:] + 1) / 2, uvw[..., :2] / uvw[..., 2:], atol=1e-5)


@pytest.mark.parametrize("source", ["few", "all"])
def test_the_variants_coordinate_maps(source: str) -> None:
    golden = Golden(DATA / "lgm.npz") if source == "few" else full("ouroboros3d")
    poses, intrinsics = golden.tensor("c2w"), golden.tensor("intrinsics_normalised")
    given = slice(None) if source == "all" else slice(2, 3)
    golden.close("ccm_48", published_map(golden.tensor("ccm_depth")[:, 0], poses[given], intrinsics[given]), 1e-6)
    maps = published_map(torch.full((8, 512, 512), 1.5), poses, intrinsics)
    rows, columns = golden["ccm_512_const_depth1p5_corners_yx"].T
    golden.close("ccm_512_const_depth1p5_vals", maps[:, :, rows, columns], 1e-6)
    assert (published_map(torch.zeros(8, 4, 4), poses, intrinsics) == 0.5).all()
