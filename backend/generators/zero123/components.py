"""Loading Zero123 from a folder in diffusers' layout, one network at a time, all of it or nothing.

    unet/             UNet2DConditionModel            config.json and *.safetensors, or *.bin
    vae/              AutoencoderKL                   likewise
    image_encoder/    CLIPVisionModelWithProjection   likewise
    cc_projection/    one linear layer                likewise; its config.json may name the "pose" style
    scheduler/        scheduler_config.json

The folder's own pipeline class is not used: current versions of diffusers refuse to load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from backend.devices import picture_dtype
from backend.weights.components import load_and_check
from backend.weights.store import first_of
from protocol.errors import TurnaroundError

from .pose import POSE_SIZE, PoseStyle

PROJECTION_FOLDERS = ("cc_projection", "clip_camera_projection")
PROJECTION_PREFIXES = ("cc_projection", "projection", "proj")
"""What different converters call the layer that takes the pose in, and its tensors."""

SPARE_KEYS = ("text_model.", "text_projection.", "logit_scale")
"""Of a whole CLIP, whose text half is not needed."""


class NoiseConfig(msgspec.Struct, frozen=True):
    """The noise that the network was trained on: what is needed of `scheduler_config.json`."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"]
    prediction_type: Literal["epsilon"] = "epsilon"


class _ProjectionConfig(msgspec.Struct, frozen=True):
    pose: PoseStyle = "relative"


@dataclass(frozen=True)
class Components:
    """The networks of one Zero123, on the CPU, in evaluation mode. The libraries' own are `Any`: their types have gaps.

    Attributes:
        unet: UNet2DConditionModel, predicts the noise of [N, 8, h, w] (noisy latent, then the picture's) in the context
            [N, 1, C].
        vae: AutoencoderKL, pictures to latents and back.
        image_encoder: CLIPVisionModelWithProjection.
        cc_projection: the picture's embedding and the four numbers of the pose -> context; always float32.
        noise: the schedule that it was trained with.
        pose: what the fourth number of the pose is.
    """

    unet: Any
    vae: Any
    image_encoder: Any
    cc_projection: nn.Linear
    noise: NoiseConfig
    pose: PoseStyle


def load_image_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The CLIPVisionModelWithProjection of a folder that holds one, or a whole CLIP.

    Raises:
        TurnaroundError: as `load_components`.
    """
    return load_network(CLIPVisionModelWithProjection, folder, dtype, SPARE_KEYS)


def load_components(folder: Path, dtype: torch.dtype = torch.float32) -> Components:
    """Loads a Zero123.

    Args:
        folder: as described above.
        dtype: of the U-Net. With bfloat16, whose eight bits show as bands in a picture, the encoders and the decoder
            are float32.

    Raises:
        TurnaroundError: `weights.missing`; `weights.damaged`; `weights.mismatch` if a key is missing or has another
            shape, which its details name, or if it is another model.
    """
    of_pictures = picture_dtype(dtype)
    noise = _read(folder / "scheduler" / "scheduler_config.json", NoiseConfig)
    projection, pose = _load_projection(folder)
    components = Components(
        unet=load_network(UNet2DConditionModel, folder / "unet", dtype),
        vae=load_network(AutoencoderKL, folder / "vae", of_pictures),
        image_encoder=load_image_encoder(folder / "image_encoder", of_pictures),
        cc_projection=projection,
        noise=noise,
        pose=pose,
    )
    _check_fit(components, folder)
    return components


def _check_fit(components: Components, folder: Path) -> None:
    """That the parts are those of one Zero123 and of no other model of the same classes."""
    unet, vae = components.unet.config, components.vae.config
    projection, embedding = components.cc_projection, components.image_encoder.config.projection_dim
    for what, is_so, should in (
        ("channels into the U-Net", unet.in_channels, 2 * vae.latent_channels),
        ("channels out of the U-Net", unet.out_channels, vae.latent_channels),
        ("width of the U-Net's context", unet.cross_attention_dim, projection.out_features),
        ("width of the picture's embedding and the pose", projection.in_features, embedding + POSE_SIZE),
    ):
        if is_so != should:
            raise _mismatch(folder, f"is another model, not a Zero123: {what} is {is_so}, not {should}.")


# ------------------------------------------------------------------------------------------------------- networks


def load_network(cls: Any, folder: Path, dtype: torch.dtype, spare: tuple[str, ...] = ()) -> Any:
    """A network of one of the libraries, after a look at what the library has left as it was initialised.

    Args:
        cls: the library's class.
        folder: with its config and weights.
        dtype: of the network.
        spare: keys beginning so may be in the file though the network has no use for them.

    Raises:
        TurnaroundError: as `load_components`.
    """
    _object(folder / "config.json")  # or else the library would look for one elsewhere
    safe = any(folder.glob("*.safetensors"))
    if not safe and not any(folder.glob("*.bin")):
        raise _missing(folder / "*.safetensors")
    try:
        network, problems = load_and_check(cls, folder, dtype, safetensors=safe, spare=spare)
    except MemoryError:
        raise
    except Exception as error:  # a cut or foreign file fails in the libraries in any of a dozen ways
        raise _damaged(folder, repr(error)) from error
    if problems:
        raise _mismatch(folder, f"does not fit the model ({first_of(problems)}).", problems)
    return network


def _load_projection(folder: Path) -> tuple[nn.Linear, PoseStyle]:
    place = next((folder / name for name in PROJECTION_FOLDERS if (folder / name).is_dir()), None)
    if place is None:
        raise _missing(folder / PROJECTION_FOLDERS[0])
    tensors = _tensors(place)
    prefix = next((p for p in PROJECTION_PREFIXES if f"{p}.weight" in tensors), PROJECTION_PREFIXES[0])
    problems = [f"missing: {key}" for key in (f"{prefix}.weight", f"{prefix}.bias") if key not in tensors]
    if problems:
        raise _mismatch(place, "does not hold the layer that takes the pose in.", problems)
    weight, bias = tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        shapes = f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}"
        raise _mismatch(place, "does not hold the layer that takes the pose in.", [f"shape of {prefix}: {shapes}"])
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.load_state_dict({"weight": weight.float(), "bias": bias.float()}, assign=True)
    config = place / "config.json"
    return layer.requires_grad_(False), _read(config, _ProjectionConfig).pose if config.is_file() else "relative"


def _tensors(folder: Path) -> Mapping[str, Tensor]:
    """All tensors of a folder's one file; a pickle is opened for tensors alone."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise _missing(folder / "*.safetensors")
    try:
        if files[0].suffix == ".safetensors":
            return load_file(files[0])
        tensors = torch.load(files[0], map_location="cpu", weights_only=True)
    except Exception as error:  # as in load_network
        raise _damaged(files[0], repr(error)) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise _damaged(files[0], "not a table of tensors")
    return tensors


# ---------------------------------------------------------------------------------------------- configs and errors

Config = TypeVar("Config", bound=msgspec.Struct)


def _read(path: Path, cls: type[Config]) -> Config:
    try:
        return msgspec.convert(_object(path), cls)
    except msgspec.ValidationError as error:
        raise _mismatch(path, f"is not that of a Zero123: {error}.") from error


def _object(path: Path) -> dict[str, Any]:
    """A JSON file's table."""
    if not path.is_file():
        raise _missing(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, repr(error)) from error
    if not isinstance(table, dict):
        raise _damaged(path, "not a table")
    return table


def _name(path: Path) -> str:
    """A file's name with its folder's, which says which of the networks it belongs to."""
    return f"{path.parent.name}/{path.name}"


def _missing(path: Path) -> TurnaroundError:
    return TurnaroundError(
        "weights.missing",
        f"The weights {_name(path)} are not there.",
        'See "turnaround models list" for what is there and what is missing.',
        details=str(path),
    )


def _damaged(path: Path, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.damaged",
        f"The weights {_name(path)} cannot be read.",
        "Get the files again: one may be cut off or of another kind.",
        details=f"{path}: {why}",
    )


def _mismatch(path: Path, why: str, problems: list[str] | None = None) -> TurnaroundError:
    return TurnaroundError(
        "weights.mismatch",
        f"The model in {_name(path)} {why}",
        "Get the files again for this version, or choose another model.",
        details="\n".join([str(path), *(problems or [])]),
    )
