"""From the names of latent-diffusion and OpenAI's CLIP to those of diffusers and transformers.

U-Net and autoencoder go through diffusers' own converters, which only rename and slice and so work on `LazyTensor`s.
The sizes of the network are read from the tensors; its structure is Stable Diffusion 1's, which Zero123 was trained
from (configuration sd-objaverse-finetune-c_concat-256).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from backend.generators.zero123.published import IMAGE_ENCODER, UNET, VAE
from backend.weights.lazy import LazyState, LazyTensor
from protocol.errors import TurnaroundError

MULTIPLIERS = (1, 2, 4, 4)
"""Widths of the levels of U-Net and autoencoder, in multiples of the first."""

HEAD_WIDTH = 64
"""Width of a head of CLIP's image encoders."""


def _shape(tensors: LazyState, key: str, part: str, rank: int) -> tuple[int, ...]:
    """Shape of a tensor that the sizes are read from."""
    tensor = tensors.get(key)
    if tensor is None or tensor.ndim != rank or not all(tensor.shape):
        raise _misfit(part, f"missing: {key}" if tensor is None else f"shape of {key}: {tensor.shape}")
    return tensor.shape


def _misfit(part: str, what: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.mismatch",
        f"These are not the weights of this model: {part} does not fit ({what}).",
        "Check that the file belongs to the model, or get it again.",
        details=what,
    )


def _converted(
    convert: Callable[..., dict[str, LazyTensor | None]], state: LazyState, prefix: str, settings: object, part: str
) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """What one of diffusers' converters makes of a state dict, and the tensors that it has no place for.

    The converters take each key for granted: a missing one becomes None, or a KeyError.
    """
    try:
        converted = convert({f"{prefix}{name}": tensor for name, tensor in state.items()}, settings)
    except KeyError as error:
        raise _misfit(part, f"missing: {prefix}{str(error.args[0]).removeprefix(prefix)}") from error
    except Exception as error:  # names that are nearly right fail in any way they like
        raise _misfit(part, f"{type(error).__name__}: {error}") from error
    tensors = {name: tensor for name, tensor in converted.items() if tensor is not None}
    used = {tensor.name for tensor in tensors.values()}
    return tensors, tuple(tensor.name for tensor in state.values() if tensor.name not in used)


# --------------------------------------------------------------------------------------------------------- U-Net


def unet(state: LazyState) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """The U-Net under diffusers' names, and what in the source has found no place."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    settings = {"layers_per_block": 2}
    return _converted(convert_ldm_unet_checkpoint, state, "model.diffusion_model.", settings, "the U-Net")


def unet_config(tensors: LazyState) -> dict[str, Any]:
    """diffusers' configuration of the U-Net."""
    base = _shape(tensors, "conv_in.weight", "the U-Net", 4)[0]
    context = _shape(tensors, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "the U-Net", 2)[1]
    return {
        "_class_name": "UNet2DConditionModel",
        **UNET,
        "block_out_channels": [base * m for m in MULTIPLIERS],
        "cross_attention_dim": context,
    }


# --------------------------------------------------------------------------------------------------- autoencoder


def vae(state: LazyState) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """The autoencoder under diffusers' names, and what in the source has found no place."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    kept = {name: tensor for name, tensor in state.items() if not name.startswith("loss.")}
    levels = {"down_block_types": MULTIPLIERS, "up_block_types": MULTIPLIERS}
    return _converted(convert_ldm_vae_checkpoint, kept, "first_stage_model.", levels, "the VAE")


def vae_config(tensors: LazyState) -> dict[str, Any]:
    """diffusers' configuration of the autoencoder."""
    base = _shape(tensors, "encoder.conv_in.weight", "the VAE", 4)[0]
    return {
        "_class_name": "AutoencoderKL",
        **VAE,
        "block_out_channels": [base * m for m in MULTIPLIERS],
    }


# ------------------------------------------------------------------------------------------------------------ CLIP

CLIP_NAMES = (
    (r"class_embedding", "vision_model.embeddings.class_embedding"),
    (r"positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"ln_pre\.(weight|bias)", r"vision_model.pre_layrnorm.\1"),  # spelled so in transformers
    (r"ln_post\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(.*)", r"vision_model.encoder.layers.\1.layer_norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)", r"vision_model.encoder.layers.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)", r"vision_model.encoder.layers.\1.mlp.fc2.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)", r"vision_model.encoder.layers.\1.self_attn.out_proj.\2"),
)
"""OpenAI's names inside `visual` -> transformers' names; the fused projections and `proj` are apart."""


def image_encoder(state: LazyState) -> dict[str, LazyTensor]:
    """CLIP's image encoder under transformers' names; what has no name there keeps its own, to be found unexpected."""
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in state.items():
        fused = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if fused and tensor.ndim and tensor.shape[0] % 3 == 0:
            width = tensor.shape[0] // 3
            for index, letter in enumerate("qkv"):
                key = f"vision_model.encoder.layers.{fused[1]}.self_attn.{letter}_proj.{fused[2]}"
                tensors[key] = tensor[index * width : (index + 1) * width]
        elif name == "proj" and tensor.ndim == 2:
            tensors["visual_projection.weight"] = tensor.mapped(lambda matrix: matrix.t())
        else:
            tensors[_clip_name(name)] = tensor
    return tensors


def _clip_name(name: str) -> str:
    for pattern, replacement in CLIP_NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def vision_config(tensors: LazyState) -> dict[str, Any]:
    """transformers' configuration of the image encoder."""
    part = "the image encoder"
    width, _, patch, _ = _shape(tensors, "vision_model.embeddings.patch_embedding.weight", part, 4)
    positions = _shape(tensors, "vision_model.embeddings.position_embedding.weight", part, 2)[0]
    hidden = _shape(tensors, "vision_model.encoder.layers.0.mlp.fc1.weight", part, 2)[0]
    projection = _shape(tensors, "visual_projection.weight", part, 2)[0]
    layers = {name.split(".")[3] for name in tensors if name.startswith("vision_model.encoder.layers.")}
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        **IMAGE_ENCODER,
        "hidden_size": width,
        "image_size": patch * round((positions - 1) ** 0.5),
        "intermediate_size": hidden,
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "num_hidden_layers": len(layers),
        "patch_size": patch,
        "projection_dim": projection,
    }
