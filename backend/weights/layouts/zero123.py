"""Zero123, stored as diffusers stores it: one folder a component, each with its configuration and its weights.

Published as a Lightning checkpoint in latent-diffusion's names (cvlab, Stability AI), or as folders (`components`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from backend.generators.zero123.published import SCHEDULER
from backend.weights.layouts import Fraction
from backend.weights.layouts.ldm import image_encoder, unet, unet_config, vae, vae_config, vision_config
from backend.weights.layouts.parts import (
    Part,
    modern_attention,
    read_json,
    read_state,
    shapes_of,
    state_dict,
    the_file,
    without_prefix,
    write_json,
    write_parts,
)
from backend.weights.lazy import LazyState, LazyTensor, Shapes
from backend.weights.store import STORED, WeightsEntry, damaged
from protocol.errors import TurnaroundError

DIFFUSION_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
"""Names under which diffusers publishes a component's weights."""

ENCODER_FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
"""Names under which transformers does."""

COMPONENTS = {
    "unet": ("unet", *DIFFUSION_FILES),
    "vae": ("vae", *DIFFUSION_FILES),
    "image_encoder": ("image_encoder", *ENCODER_FILES),
    "cc_projection": ("cc_projection", *DIFFUSION_FILES, *ENCODER_FILES),
}
"""Component -> its folder and the names that its weights may have, the better first."""

WEIGHTS = {path.split("/")[0]: path for path in STORED["zero123"] if path.endswith(".safetensors")}
"""Component -> file of the stored form."""

PROJECTION_PREFIXES = ("cc_projection", "projection", "proj")
"""What the module that holds the pose layer has been called."""

TITLES = {
    "unet": "the U-Net",
    "vae": "the VAE",
    "image_encoder": "the image encoder",
    "cc_projection": "the pose layer",
}


@dataclass(frozen=True)
class Component:
    """A component's configuration and its tensors in diffusers' or transformers' names."""

    config: Mapping[str, Any]
    tensors: LazyState
    unused: tuple[str, ...] = ()


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is a checkpoint, or the folder with the components."""
    path = _published(source, entry)
    components = _folders(path) if path.is_dir() else _checkpoint(state_dict(read_state(path), "state_dict"))
    configs = {name: dict(component.config) for name, component in components.items()}
    for name, key in (("vae", "latent_channels"), ("image_encoder", "projection_dim")):
        if not isinstance(configs[name][key], int):
            raise damaged(path / name / "config.json", f"{key} is {str(configs[name][key])[:100]}")
    configs["unet"]["in_channels"] = 2 * configs["vae"]["latent_channels"]  # the noisy latent and the input's
    configs["cc_projection"] = {
        "_class_name": "CCProjection",
        "channel": configs["image_encoder"]["projection_dim"] + 4,
        "pose": entry.pose,
    }
    expected = _expected(configs, source)
    parts = [
        Part(TITLES[name], WEIGHTS[name], part.tensors, expected[name], half=True, unused=part.unused)
        for name, part in components.items()
    ]
    write_parts(parts, folder, report)
    for name, config in configs.items():
        write_json(folder / name / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "DDIMScheduler", **SCHEDULER})


def _published(source: Path, entry: WeightsEntry) -> Path:
    """The checkpoint, or the folder with the components, that is meant by a path."""
    folders = (source / "unet").is_dir()
    if len(entry.files) == 1 and not (folders and not any(source.rglob(entry.files[0]))):
        return the_file(source, entry, *entry.files, "*.ckpt", "*.safetensors")
    if folders:
        return source
    if source.is_dir():
        raise TurnaroundError(
            "weights.missing",
            f"{source.name} is no folder of {entry.title}: it has no folder unet.",
            f"Give the path of the folder that holds {', '.join(COMPONENTS)}.",
            details=str(source),
        )
    return the_file(source, entry)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    configs = {name: read_json(folder / name / "config.json") for name in WEIGHTS}
    return {WEIGHTS[name]: shapes for name, shapes in _expected(configs, folder).items()}


def _expected(configs: Mapping[str, Mapping[str, Any]], source: Path) -> dict[str, Shapes]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    def vision() -> nn.Module:
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**configs["image_encoder"]))

    try:
        context = int(configs["unet"]["cross_attention_dim"])
        return {
            "unet": shapes_of(lambda: UNet2DConditionModel.from_config(dict(configs["unet"]))),
            "vae": shapes_of(lambda: AutoencoderKL.from_config(dict(configs["vae"]))),
            "image_encoder": shapes_of(vision),
            "cc_projection": {
                "projection.weight": (context, int(configs["image_encoder"]["projection_dim"]) + 4),
                "projection.bias": (context,),
            },
        }
    except Exception as error:  # a configuration that makes no network fails in any way it likes
        raise damaged(source, f"the configuration makes no network: {type(error).__name__}: {error}") from error


# ------------------------------------------------------------------------------------------------ diffusers' folders


def _folders(source: Path) -> dict[str, Component]:
    result = {}
    for name, (folder, *files) in COMPONENTS.items():
        place = source / folder
        if name == "cc_projection" and not place.is_dir():
            place = source / "clip_camera_projection"  # threestudio's and stable-dreamfusion's name for it
        path = next((place / file for file in files if (place / file).is_file()), None)
        if path is None:
            raise TurnaroundError(
                "weights.missing",
                f"T{TITLES[name][1:]} is missing: there are no weights in {folder}.",
                f"Get the folder again; it should hold {files[0]}.",
                details=str(place),
            )
        tensors = state_dict(read_state(path), "state_dict")
        if name == "cc_projection":
            result[name] = _projection(tensors)
            continue
        config = {key: value for key, value in read_json(place / "config.json").items() if key != "_name_or_path"}
        if name == "vae":
            config.setdefault("latent_channels", 4)
            tensors = modern_attention(tensors)
        if name == "image_encoder":
            config.setdefault("projection_dim", 512)  # transformers leaves its defaults out
            tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith("position_ids")}
        result[name] = Component(config, tensors)
    return result


def _projection(tensors: LazyState) -> Component:
    """The pose layer, under the one of its names that is there; what else is there finds no place."""
    layers = (without_prefix(tensors, f"{prefix}.") for prefix in PROJECTION_PREFIXES)
    layer = next((found for found in layers if found), {})
    used = {tensor.name for tensor in layer.values()}
    unused = tuple(tensor.name for tensor in tensors.values() if tensor.name not in used)
    return Component({}, {f"projection.{name}": tensor for name, tensor in layer.items()}, unused)


# ----------------------------------------------------------------------------------------------- training checkpoint


def _checkpoint(state: LazyState) -> dict[str, Component]:
    tensors, unused = unet(averaged(state))
    encoder = image_encoder(without_prefix(state, "cond_stage_model.model.visual."))
    autoencoder, spare = vae(without_prefix(state, "first_stage_model."))
    layer = {name: tensor for name, tensor in state.items() if name.startswith("cc_projection.")}
    return {
        "unet": Component(unet_config(tensors), tensors, unused),
        "vae": Component(vae_config(autoencoder), autoencoder, spare),
        "image_encoder": Component(vision_config(encoder), encoder),
        "cc_projection": _projection(layer),
    }


def averaged(state: LazyState) -> dict[str, LazyTensor]:
    """The U-Net under latent-diffusion's names: the moving average of its weights where the checkpoint has one.

    The original program samples with the average (`LitEma` of latent-diffusion, which takes the dots out of names).

    Raises:
        TurnaroundError: `weights.mismatch`, if the average is there but lacks a tensor.
    """
    prefix = "model.diffusion_model."
    present = without_prefix(state, prefix)
    average = without_prefix(state, "model_ema.")
    if not average.keys() - {"decay", "num_updates"}:
        return present
    result, missing = {}, []
    for name in present:
        flat = f"diffusion_model.{name}".replace(".", "")
        if flat in average:
            result[name] = average[flat]
        else:
            missing.append(f"missing: model_ema.{flat}")
    if missing:
        raise TurnaroundError(
            "weights.mismatch",
            f"The averaged weights are not complete: {len(missing)} of {len(present)} tensors are missing "
            f"({missing[0].removeprefix('missing: ')}).",
            "Get the file again.",
            details="\n".join(missing),
        )
    return result
