"""LGM and Ouroboros3D's variant against the published code's numbers: a few in tests/data, all with GOLDENS."""

from __future__ import annotations

import dataclasses
import json

import pytest
import reference_weights
import torch
from goldens import DATA, Golden, folder, full

from backend.geometry.gaussians.gaussians import Gaussians
from backend.reconstructors.lgm.blocks import sinusoids
from backend.reconstructors.lgm.config import OUROBOROS3D, PUBLISHED_LGM_FIXED, LGMConfig
from backend.reconstructors.lgm.network import LGM
from backend.reconstructors.lgm.rays import network_input
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
