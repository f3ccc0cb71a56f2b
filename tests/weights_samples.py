"""Checkpoints in every published form, small, with weights that tell tensors apart."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Small random numbers that depend on the name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return 0.1 * torch.randn(shape, generator=generator)


def filled(shapes: Shapes) -> dict[str, Tensor]:
    integers = ("num_batches_tracked",)
    return {
        name: torch.zeros(shape, dtype=torch.int64) if name.endswith(integers) else fill(name, shape)
        for name, shape in shapes.items()
    }


def shapes(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


# --------------------------------------------------------------------------------------------------------- Zero123


def ldm_unet(base: int = 320, context: int = 768, in_channels: int = 8) -> dict[str, tuple[int, ...]]:
    """Names and shapes of latent-diffusion's U-Net, configuration sd-objaverse-finetune-c_concat-256."""
    result: dict[str, tuple[int, ...]] = {}
    wide = 4 * base

    def both(name: str, *weight: int) -> None:
        result[f"{name}.weight"], result[f"{name}.bias"] = tuple(weight), (weight[0],)

    def block(name: str, width_in: int, width: int) -> None:
        both(f"{name}.in_layers.0", width_in)
        both(f"{name}.in_layers.2", width, width_in, 3, 3)
        both(f"{name}.emb_layers.1", width, wide)
        both(f"{name}.out_layers.0", width)
        both(f"{name}.out_layers.3", width, width, 3, 3)
        if width_in != width:
            both(f"{name}.skip_connection", width, width_in, 1, 1)

    def attention(name: str, width: int) -> None:
        both(f"{name}.norm", width)
        both(f"{name}.proj_in", width, width, 1, 1)
        inner = f"{name}.transformer_blocks.0"
        for layer, keys in (("attn1", width), ("attn2", context)):
            result[f"{inner}.{layer}.to_q.weight"] = (width, width)
            result[f"{inner}.{layer}.to_k.weight"] = result[f"{inner}.{layer}.to_v.weight"] = (width, keys)
            both(f"{inner}.{layer}.to_out.0", width, width)
        both(f"{inner}.ff.net.0.proj", 8 * width, width)
        both(f"{inner}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            both(f"{inner}.{norm}", width)
        both(f"{name}.proj_out", width, width, 1, 1)

    both("time_embed.0", wide, base)
    both("time_embed.2", wide, wide)
    both("input_blocks.0.0", base, in_channels, 3, 3)
    widths = [base * m for m in (1, 2, 4, 4)]
    skips, width, number = [base], base, 1
    for level, out in enumerate(widths):
        for _ in range(2):
            block(f"input_blocks.{number}.0", width, out)
            if level < 3:
                attention(f"input_blocks.{number}.1", out)
            width, number = out, number + 1
            skips.append(width)
        if level < 3:
            both(f"input_blocks.{number}.0.op", width, width, 3, 3)
            number += 1
            skips.append(width)
    block("middle_block.0", width, width)
    attention("middle_block.1", width)
    block("middle_block.2", width, width)
    number = 0
    for level, out in reversed(list(enumerate(widths))):
        for index in range(3):
            block(f"output_blocks.{number}.0", width + skips.pop(), out)
            width = out
            if level < 3:
                attention(f"output_blocks.{number}.1", out)
            if level and index == 2:
                both(f"output_blocks.{number}.{2 if level < 3 else 1}.conv", out, out, 3, 3)
            number += 1
    both("out.0", base)
    both("out.2", 4, base, 3, 3)
    return result


def ldm_vae(base: int = 128) -> dict[str, tuple[int, ...]]:
    """Names and shapes of latent-diffusion's KL-f8 autoencoder."""
    result: dict[str, tuple[int, ...]] = {}

    def both(name: str, *weight: int) -> None:
        result[f"{name}.weight"], result[f"{name}.bias"] = tuple(weight), (weight[0],)

    def block(name: str, width_in: int, width: int) -> None:
        both(f"{name}.norm1", width_in)
        both(f"{name}.conv1", width, width_in, 3, 3)
        both(f"{name}.norm2", width)
        both(f"{name}.conv2", width, width, 3, 3)
        if width_in != width:
            both(f"{name}.nin_shortcut", width, width_in, 1, 1)

    def middle(name: str, width: int) -> None:
        block(f"{name}.mid.block_1", width, width)
        both(f"{name}.mid.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            both(f"{name}.mid.attn_1.{part}", width, width, 1, 1)
        block(f"{name}.mid.block_2", width, width)

    widths = [base * m for m in (1, 2, 4, 4)]
    both("encoder.conv_in", base, 3, 3, 3)
    width = base
    for level, out in enumerate(widths):
        for index in range(2):
            block(f"encoder.down.{level}.block.{index}", width, out)
            width = out
        if level < 3:
            both(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", width)
    both("encoder.norm_out", width)
    both("encoder.conv_out", 8, width, 3, 3)
    both("decoder.conv_in", width, 4, 3, 3)
    middle("decoder", width)
    for level, out in reversed(list(enumerate(widths))):
        for index in range(3):
            block(f"decoder.up.{level}.block.{index}", width, out)
            width = out
        if level:
            both(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    both("decoder.norm_out", width)
    both("decoder.conv_out", 3, width, 3, 3)
    both("quant_conv", 8, 8, 1, 1)
    both("post_quant_conv", 4, 4, 1, 1)
    return result


def openai_visual(
    width: int = 1024, layers: int = 24, patch: int = 14, side: int = 16, out: int = 768
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of OpenAI's CLIP image encoder; the defaults are ViT-L/14."""
    result: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (side * side + 1, width),
        "proj": (width, out),
        "conv1.weight": (width, 3, patch, patch),
    }
    names = {"ln_pre": (width,), "ln_post": (width,)}
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        result[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        result[f"{block}.attn.in_proj_bias"] = (3 * width,)
        names |= {f"{block}.attn.out_proj": (width, width), f"{block}.mlp.c_proj": (width, 4 * width)}
        names |= {f"{block}.mlp.c_fc": (4 * width, width), f"{block}.ln_1": (width,), f"{block}.ln_2": (width,)}
    for name, shape in names.items():
        result[f"{name}.weight"], result[f"{name}.bias"] = shape, (shape[0],)
    return result


@functools.cache
def _zero123_state(average: bool, base: int) -> dict[str, Tensor]:
    unet = ldm_unet(base, 32)
    parts = {
        "model.diffusion_model.": unet,
        "first_stage_model.": ldm_vae(32),
        "cond_stage_model.model.visual.": openai_visual(64, 2, 8, 4, 32),
        "cond_stage_model.model.": {"positional_embedding": (7, 64), "logit_scale": ()},  # CLIP's text side
        "cc_projection.": {"weight": (32, 36), "bias": (32,)},
    }
    state = filled({f"{prefix}{name}": shape for prefix, part in parts.items() for name, shape in part.items()})
    state |= {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000)}
    if average:
        for name in unet:
            flat = f"model_ema.diffusion_model{name.replace('.', '')}"
            state[flat] = fill(flat, tuple(state[f"model.diffusion_model.{name}"].shape))
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    return state


def zero123_state(*, average: bool = True, base: int = 32) -> dict[str, Tensor]:
    """The `state_dict` of a small Zero123 as its training saves it."""
    return dict(_zero123_state(average, base))


def save_zero123(
    path: Path, *, average: bool = True, base: int = 32, change: Callable[[dict[str, Tensor]], None] | None = None
) -> None:
    """A small Zero123 as a training checkpoint, with an optimizer beside it."""
    state = zero123_state(average=average, base=base)
    if change is not None:
        change(state)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2_000_000)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"state_dict": state, "optimizer_states": [optimizer], "global_step": 105_000}, path)


def save_zero123_folders(folder: Path, *, names: str = "projection", suffix: str = "bin") -> dict[str, nn.Module]:
    """A small Zero123 as diffusers publishes it; returns the components."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=32,
    )
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4,  # an eighth of the picture's side, as published
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, image_size=32,
        patch_size=16, projection_dim=32,
    )  # fmt: skip
    components = {"unet": unet, "vae": vae, "image_encoder": CLIPVisionModelWithProjection(vision)}
    for name, module in components.items():
        module.save_config(folder / name) if name != "image_encoder" else vision.save_pretrained(folder / name)
        stem = "diffusion_pytorch_model" if name != "image_encoder" else "pytorch_model"
        state = {key: value.clone() for key, value in module.state_dict().items()}
        if name == "vae":
            old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
            for new, before in old.items():
                state = {key.replace(f".{new}.", f".{before}."): value for key, value in state.items()}
        if suffix == "bin":
            torch.save(state, folder / name / f"{stem}.bin")
        else:
            stem = stem if name != "image_encoder" else "model"
            save_file(state, folder / name / f"{stem}.safetensors")
    projection = nn.Linear(36, 32)
    place = folder / ("clip_camera_projection" if names == "proj" else "cc_projection")
    place.mkdir()
    state = {f"{names}.{key}": value for key, value in projection.state_dict().items()}
    if suffix == "bin":
        torch.save(state, place / "diffusion_pytorch_model.bin")
    else:
        save_file(state, place / "diffusion_pytorch_model.safetensors")
    (place / "config.json").write_text(json.dumps({"_class_name": "CCProjection", "channel": 36}))
    (folder / "scheduler").mkdir()
    return {**components, "cc_projection": projection}


# ---------------------------------------------------------------------------------------------------------- others


def save_sparseneus(path: Path, manifest: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """One-2-3-45's reconstruction checkpoint; returns its tensors by their full names."""
    tensors = filled({name: tuple(shape) for name, shape in manifest.items()})
    content: dict[str, Any] = {"optimizer": {"state": {0: torch.zeros(1000)}}, "iter_step": 215_000, "val_step": 0}
    for name, tensor in tensors.items():
        network, key = name.split(".", 1)
        content.setdefault(network, {})[key] = tensor
    torch.save(content, path)
    return tensors


SAM_NAMES = {
    "vision_encoder.patch_embed.projection": "image_encoder.patch_embed.proj",
    "vision_encoder.neck.conv1": "image_encoder.neck.0",
    "vision_encoder.neck.layer_norm1": "image_encoder.neck.1",
    "vision_encoder.neck.conv2": "image_encoder.neck.2",
    "vision_encoder.neck.layer_norm2": "image_encoder.neck.3",
    "vision_encoder.layers": "image_encoder.blocks",
    "vision_encoder": "image_encoder",
    "shared_image_embedding.positional_embedding": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.point_embed": "prompt_encoder.point_embeddings",
    "prompt_encoder.mask_embed.conv1": "prompt_encoder.mask_downscaling.0",
    "prompt_encoder.mask_embed.layer_norm1": "prompt_encoder.mask_downscaling.1",
    "prompt_encoder.mask_embed.conv2": "prompt_encoder.mask_downscaling.3",
    "prompt_encoder.mask_embed.layer_norm2": "prompt_encoder.mask_downscaling.4",
    "prompt_encoder.mask_embed.conv3": "prompt_encoder.mask_downscaling.6",
    "mask_decoder.transformer.layer_norm_final_attn": "mask_decoder.transformer.norm_final_attn",
    "mask_decoder.upscale_conv1": "mask_decoder.output_upscaling.0",
    "mask_decoder.upscale_layer_norm": "mask_decoder.output_upscaling.1",
    "mask_decoder.upscale_conv2": "mask_decoder.output_upscaling.3",
}


def sam_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' state dict of a SAM under its authors' names."""
    result = {}
    for name, tensor in state.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        for new in sorted(SAM_NAMES, key=len, reverse=True):
            if name == new or name.startswith(f"{new}."):
                name = SAM_NAMES[new] + name.removeprefix(new)
                break
        if name.startswith(("image_encoder.blocks", "mask_decoder.transformer.layers")):
            name = name.replace(".layer_norm", ".norm")
        if "output_hypernetworks_mlps" in name or "iou_prediction_head" in name:
            name = name.replace(".layers.0.", ".layers.1.").replace(".proj_in.", ".layers.0.")
            name = name.replace(".proj_out.", ".layers.2.")
        result[name] = tensor
    return result
