"""The benchmarks of published sizes run, with tiny sizes on the CPU; how fast that is, is no test's business."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from video_fixture import SMALL_LGM

from backend.bench import published_3dim, published_one2345, published_ouroboros3d
from backend.generators.multiview_svd.config import OUROBOROS3D, ImageEncoderConfig
from backend.generators.xunet.config import TINY_3DIM
from backend.generators.zero123 import published
from backend.reconstructors.sparseneus.config import PUBLISHED
from protocol.errors import TurnaroundError
from protocol.messages import Settings

STEPS = 2


def test_one2345_from_a_picture_to_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_one2345, "ROUNDS", 1)
    sizes = published_one2345.Sizes(
        unet={
            **published.UNET,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 20,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        vae={**published.VAE, "block_out_channels": (4,) * 4, "layers_per_block": 0, "norm_num_groups": 2},
        image_encoder={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 56,
            "projection_dim": 24,
        },
        sparseneus=replace(PUBLISHED, image_size=32, volume_resolution=24),
        settings=Settings(resolution=24, options={"steps": 1}),
        matrix=64,
    )
    found = published_one2345.measure("cpu", sizes)
    assert published_one2345.TARGETS.keys() <= found.keys()
    assert {f"{name}_seconds" for name in (*published_one2345.STAGES, "whole", "unet")} <= found.keys()
    assert all(value > 0 for value in found.values())
    assert found["unet_evaluations"] == (8 + 32) * 2
    assert published_one2345.Sizes().settings == Settings()  # 14 steps: 1,120 evaluations


def test_ouroboros3d_from_a_picture_to_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_ouroboros3d, "ROUNDS", 1)
    sizes = published_ouroboros3d.Sizes(
        generator=replace(
            OUROBOROS3D,
            size=32,
            factor=2,
            channels=(32, 32),
            heads=(2, 2),
            layers=1,
            context=24,
            time_id_width=8,
            adapter_layers=1,
            image_encoder=ImageEncoderConfig(28, 14, 32, 64, 1, 2),
        ),
        vae={"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1},
        lgm=replace(SMALL_LGM, heads=2, groups=16, time_channels=16),
        steps=STEPS,
        settings=Settings(resolution=24),
        matrix=64,
    )
    found = published_ouroboros3d.measure("cpu", sizes)
    parts = ("whole", "drawing", "mesh", "unet", "decoder", "reconstructor", "splatting")
    assert published_ouroboros3d.TARGETS.keys() <= found.keys()
    assert {f"{name}_seconds" for name in parts} <= found.keys()
    assert all(value > 0 for value in found.values())
    assert found["unet_evaluations"] == STEPS * OUROBOROS3D.frames * 2
    assert published_ouroboros3d.Sizes().steps == 25


def test_3dim_view_by_view() -> None:
    tiny = replace(TINY_3DIM, size=16, channels=16, emb_channels=32, groups=8)
    found = published_3dim.measure("cpu", published_3dim.Sizes(tiny, steps=4, warm_up=1, matrix=64))
    assert published_3dim.TARGETS.keys() <= found.keys()
    assert {"view_unguided_seconds", "view_of_eight_seconds"} <= found.keys()
    assert all(value > 0 for value in found.values())
    assert found["network_evaluations"] == 4 * 2
    assert published_3dim.Sizes().steps == 256


@pytest.mark.parametrize("module", [published_one2345, published_ouroboros3d, published_3dim])
def test_without_a_gpu_they_say_so(module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TurnaroundError) as error:
        module.measure()
    assert error.value.code == "bench.gpu"
