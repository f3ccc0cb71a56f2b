"""A Zero123 of random weights, small enough for tests, in the layout that published ones have."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from backend.generators.zero123 import published

EMBEDDING = 24
CONTEXT = 20


def make_zero123(folder: Path, pose: str | None = None, seed: int = 0) -> Path:
    """Writes one. Its parts are made to heed everything that they are given, so that views tell mistakes apart."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=32,
            in_channels=8,
            out_channels=4,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=CONTEXT,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        for name, parameter in unet.named_parameters():
            if "attn2.to_" in name and name.endswith("weight"):
                parameter.mul_(4)
        unet.conv_in.weight.mul_(3)
        unet.conv_out.weight.mul_(2)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
        )
        vae.decoder.conv_out.weight.mul_(3)
        vae.quant_conv.weight.mul_(3)
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=224,
                patch_size=28,
                projection_dim=EMBEDDING,
                initializer_factor=20.0,
            )
        )
        projection = torch.nn.Linear(EMBEDDING + 4, CONTEXT)
        projection.weight.mul_(3)
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        image_encoder.save_pretrained(folder / "image_encoder")
        DDIMScheduler(**published.SCHEDULER).save_pretrained(folder / "scheduler")
        place = folder / "cc_projection"
        place.mkdir()
        tensors = {f"cc_projection.{key}": tensor for key, tensor in projection.state_dict().items()}
        save_file(tensors, place / "model.safetensors")
        if pose is not None:
            (place / "config.json").write_text(json.dumps({"channel": EMBEDDING + 4, "pose": pose}))
    return folder
