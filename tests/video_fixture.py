"""A Stable Video Diffusion and an Ouroboros3D of random weights, small enough for tests, in their published layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from backend.generators.multiview_svd.loading import read_sizes
from backend.generators.multiview_svd.network import MultiviewUNet
from backend.reconstructors.lgm.config import OUROBOROS3D

SIZE = 32

SMALL_LGM = replace(
    OUROBOROS3D,
    input_size=32,
    down_channels=(32, 32),
    down_attention=(False, True),
    up_channels=(32, 32),
    up_attention=(True, False),
    layers=1,
    time_channels=8,
)
"""The published conventions: absolute positions, the mistaken rotations, the squeezed coordinates."""

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def make_video_model(folder: Path, *, whole: bool = False) -> Path:
    """Writes what is needed of the video model, for pictures of `SIZE` pixels; its U-Net's weights only if `whole`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), layers_per_block=1
        ).save_pretrained(folder / "vae")
        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=24,
            initializer_factor=10.0,
        )
        CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
        EulerDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
        unet = UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            layers_per_block=1,
            cross_attention_dim=24,
            num_attention_heads=(4, 2),
        )
        (unet.save_pretrained if whole else unet.save_config)(folder / "unet")
    return folder


def make_multiview_unet(path: Path, video: Path) -> Path:
    """Writes the U-Net that fits the video model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = MultiviewUNet(read_sizes(video, SIZE))
        for adapter in network.cond_encoder:
            for block in adapter.body:
                torch.nn.init.normal_(block.block2.weight, std=0.1)
    save_file(network.state_dict(), path)
    return path
