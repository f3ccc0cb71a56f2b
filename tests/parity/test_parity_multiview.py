"""Ouroboros3D's multi-view U-Net against the published code's numbers: a few in tests/data, all with GOLDENS."""

from __future__ import annotations

import dataclasses
import json

import pytest
import reference_weights
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from goldens import DATA, Golden, full

from backend.generators.multiview_svd.cameras import network_cameras
from backend.generators.multiview_svd.conditioning import FPS, MOTION, NOISE
from backend.generators.multiview_svd.config import OUROBOROS3D
from backend.generators.multiview_svd.network import Cameras, Maps, MultiviewUNet
from backend.generators.multiview_svd.plucker import encode_plucker, published_rays
from backend.weights.layouts.ouroboros3d import MANIFESTS

REDUCED = dataclasses.replace(
    OUROBOROS3D,
    size=128,
    channels=(32, 64, 96, 96),
    heads=(2, 4, 4, 4),
    context=48,
    time_id_width=32,
    azimuths_deg=(0.0, 90.0, 180.0, 270.0),
)
OWN = ("c2w", "intrinsics_normalised", "fov_deg", "mv_", "adapter")


def test_every_key_of_the_checkpoint_is_there_with_its_shape() -> None:
    with torch.device("meta"):
        state = MultiviewUNet(OUROBOROS3D).state_dict()
    manifest = json.loads((MANIFESTS / "ouroboros3d_mv_model_unet.json").read_text())
    assert {key: list(value.shape) for key, value in state.items()} == manifest
    assert len(manifest) == 1572


@torch.no_grad()
@pytest.mark.parametrize("source", ["few", "all"])
def test_the_network_and_its_cameras(source: str) -> None:
    golden = Golden(DATA / "multiview.npz") if source == "few" else full("ouroboros3d")
    step = 4 if source == "few" else 1
    golden.unread = {name for name in golden.unread if name.startswith(OWN)}

    orbit = network_cameras(OUROBOROS3D, [0.0])
    golden.close("c2w", orbit.world_from_camera[0], 1e-5)
    golden.close("intrinsics_normalised", orbit.intrinsics[0], 1e-6)
    golden.close("fov_deg", torch.full((8,), OUROBOROS3D.fov_deg), 1e-4)
    assert golden["mv_added_time_ids"].tolist() == pytest.approx([FPS, MOTION, NOISE])

    cameras = Cameras(golden.tensor("c2w")[None, ::2], golden.tensor("intrinsics_normalised")[None, ::2])
    origins, directions = published_rays(*(matrix[0] for matrix in cameras), (16, 16))
    golden.close("mv_ray_o", origins, 1e-6)
    golden.close("mv_ray_d_16", directions[:, ::step, ::step], 1e-6)
    encoded = encode_plucker(cameras.world_from_camera[0, 1], cameras.intrinsics[0, 1], (16, 16), 6)
    golden.close("mv_plucker78_16_view1", encoded[::step, ::step], 1e-5)

    network = MultiviewUNet(REDUCED).eval()
    network.load_state_dict({key: reference_weights.filled(key, value) for key, value in network.state_dict().items()})
    maps = Maps(*(golden.tensor(name).float()[None] for name in ("mv_rgb", "mv_ccm")))
    for number, (adapter, given) in enumerate(zip(network.cond_encoder, maps, strict=True)):
        for level, feature in enumerate(adapter(given[0])):
            golden.close(f"adapter{number}_feat{level}", feature[:, :: 2 * step - 1], 1e-4)
    arguments = [
        golden.tensor(f"mv_{name}")[None] for name in ("latent", "timestep", "encoder_hidden", "added_time_ids")
    ]
    arguments[1] = arguments[1].reshape(1)
    golden.close("mv_out_full", network(*arguments, cameras, maps)[0], 1e-4)
    golden.close("mv_out_nocond", network(*arguments, cameras)[0], 1e-4)
    network.unet.set_attn_processor(AttnProcessor2_0())  # which is only faster where there is more to attend to
    golden.close("mv_out_full", network(*arguments, cameras, maps)[0], 1e-4)
    assert not golden.unread

    # the halves of guidance share their cameras and their feedback
    halves = [torch.cat([argument, 2 * argument]) for argument in arguments]
    apart = [network(*(half[i : i + 1] for half in halves), cameras, maps) for i in range(2)]
    torch.testing.assert_close(network(*halves, cameras, maps), torch.cat(apart), atol=1e-4, rtol=1e-4)
