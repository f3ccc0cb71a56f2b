"""Generators from their weights: a file that this project trained, or a video model's folder and the published U-Net.

Of Stable Video Diffusion, in diffusers' layout, is needed

    vae/              AutoencoderKLTemporalDecoder    config.json and *.safetensors, or *.bin
    image_encoder/    CLIPVisionModelWithProjection   likewise
    unet/             its sizes                       config.json alone: the weights are Ouroboros3D's; its own are
                                                      needed where training begins with them
    scheduler/        its noise                       scheduler_config.json
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import torch
from diffusers import AutoencoderKLTemporalDecoder

from backend.devices import picture_dtype
from backend.generators.zero123.components import load_image_encoder, load_network
from backend.weights.layouts.parts import read_json
from backend.weights.store import load_into, read_typed_config
from protocol.errors import TurnaroundError

from .config import OUROBOROS3D, MultiviewConfig
from .model import MultiviewModel
from .network import MultiviewUNet
from .pixels import VideoVAE


class _UNetSizes(msgspec.Struct, frozen=True):
    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    num_attention_heads: tuple[int, ...]
    layers_per_block: int
    cross_attention_dim: int
    addition_time_embed_dim: int


class _VAESizes(msgspec.Struct, frozen=True):
    latent_channels: int
    scaling_factor: float
    block_out_channels: tuple[int, ...]


class _Noise(msgspec.Struct, frozen=True):
    prediction_type: Literal["v_prediction"]
    timestep_type: Literal["continuous"]
    use_karras_sigmas: Literal[True]
    sigma_min: float
    sigma_max: float


def load_stored(path: Path) -> MultiviewModel:
    """A generator that this project trained, in float32, on the CPU, ready to draw.

    Args:
        path: safetensors with the config, as `save_weights` writes them of a `MultiviewModel` and its config.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, or `weights.mismatch`, whose details name each key.
    """
    config = read_typed_config(path, MultiviewConfig, "a multi-view generator")
    model = MultiviewModel(config)
    load_into(model, path)
    return model.eval().requires_grad_(False)


def load_published(
    video: Path, weights: Path, dtype: torch.dtype = torch.float32, size: int = OUROBOROS3D.size
) -> MultiviewModel:
    """The published generator, on the CPU, ready to draw.

    Args:
        video: Stable Video Diffusion's folder, as above.
        weights: the multi-view U-Net, `mv_model_unet.safetensors` as it is stored.
        dtype: of the U-Net. With bfloat16, whose eight bits show as bands in a picture, the encoders and the decoder
            are float32.
        size: side of the pictures; it was trained at the default alone.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, `weights.mismatch`.
    """
    config = read_sizes(video, size)
    return _with_encoders(video, config, _load_unet(config, weights, dtype), dtype)


def begin_with_video(video: Path, size: int = OUROBOROS3D.size) -> MultiviewModel:
    """The generator before it has learned to draw an orbit: the video model's U-Net, and new weights for the additions.

    These are as in the published training: random, but for the last layer of each block of the adapters, which is zero.
    It is on the CPU and in float32.

    Args:
        video: Stable Video Diffusion's folder, as above, with the U-Net's weights.
        size: side of the pictures.

    Raises:
        TurnaroundError: as `load_published`.
    """
    config = read_sizes(video, size)
    files = [video / "unet" / f"diffusion_pytorch_model{variant}.safetensors" for variant in ("", ".fp16")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise TurnaroundError(
            "weights.missing",
            "The weights of Stable Video Diffusion's U-Net are not there.",
            "They are no part of what is installed: give a folder with the whole model (--generator).",
            details=str(files[0]),
        )
    network = MultiviewUNet(config)
    load_into(network.unet, found)
    return _with_encoders(video, config, network, torch.float32)


def _with_encoders(video: Path, config: MultiviewConfig, network: MultiviewUNet, dtype: torch.dtype) -> MultiviewModel:
    of_pictures = picture_dtype(dtype)
    image_encoder = load_image_encoder(video / "image_encoder", of_pictures)
    if image_encoder.config.projection_dim != config.context:
        why = f"the image encoder gives {image_encoder.config.projection_dim} numbers, the U-Net takes {config.context}"
        raise _mismatch(video / "image_encoder" / "config.json", why)
    vae = VideoVAE(load_network(AutoencoderKLTemporalDecoder, video / "vae", torch.float32), of_pictures)
    model = MultiviewModel(config, network=network, image_encoder=image_encoder, vae=vae)
    return model.eval().requires_grad_(False)


def read_sizes(video: Path, size: int = OUROBOROS3D.size) -> MultiviewConfig:
    """The published generator's config, with what a video model's folder says of its own networks.

    The heads above all: with another number of them the weights fit as well, and draw something else.

    Raises:
        TurnaroundError: as `load_published`.
    """
    unet = _read(video / "unet" / "config.json", _UNetSizes)
    vae = _read(video / "vae" / "config.json", _VAESizes)
    noise = _read(video / "scheduler" / "scheduler_config.json", _Noise)
    if (unet.in_channels, unet.out_channels) != (2 * vae.latent_channels, vae.latent_channels):
        why = (
            f"it takes {unet.in_channels} channels and gives {unet.out_channels}, for {vae.latent_channels} of a latent"
        )
        raise _mismatch(video / "unet" / "config.json", why)
    try:
        return dataclasses.replace(
            OUROBOROS3D,
            size=size,
            factor=1 << (len(vae.block_out_channels) - 1),
            latent_channels=vae.latent_channels,
            scaling_factor=vae.scaling_factor,
            channels=unet.block_out_channels,
            heads=unet.num_attention_heads,
            layers=unet.layers_per_block,
            context=unet.cross_attention_dim,
            time_id_width=unet.addition_time_embed_dim,
            sigma_min=noise.sigma_min,
            sigma_max=noise.sigma_max,
        )
    except (ValueError, TypeError) as error:
        raise _mismatch(video / "unet" / "config.json", str(error)) from error


def _load_unet(config: MultiviewConfig, path: Path, dtype: torch.dtype) -> MultiviewUNet:
    """The U-Net, in whose place no other weights are made first."""
    with torch.device("meta"):
        network = MultiviewUNet(config)
    network.to(dtype).to_empty(device="cpu")
    load_into(network, path)
    return network


# ---------------------------------------------------------------------------------------------- configs and errors

Sizes = TypeVar("Sizes", bound=msgspec.Struct)


def _read(path: Path, cls: type[Sizes]) -> Sizes:
    try:
        return msgspec.convert(_object(path), cls)
    except msgspec.ValidationError as error:
        raise _mismatch(path, str(error)) from error


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TurnaroundError(
            "weights.missing",
            f"Stable Video Diffusion's {path.parent.name}/{path.name} is not there.",
            'Ouroboros3D draws with parts of that model: use "turnaround models install stable-video-diffusion".',
            details=str(path),
        )
    return read_json(path)


def _mismatch(path: Path, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.mismatch",
        f"The model in {path.parent.name}/{path.name} is not Stable Video Diffusion's.",
        "Get that model's files again, in diffusers' layout.",
        details=f"{path}: {why}",
    )
