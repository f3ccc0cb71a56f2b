"""Segment Anything, stored as transformers stores it; published so, or as one checkpoint in the authors' names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import (
    Part,
    read_json,
    read_state,
    shapes_of,
    state_dict,
    the_file,
    write_json,
    write_parts,
)
from backend.weights.lazy import LazyState, Shapes
from backend.weights.store import STORED, WeightsEntry, damaged
from protocol.errors import TurnaroundError

FILE = STORED["sam"][1]

PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "SamImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "pad_size": {"height": 1024, "width": 1024},
    "processor_class": "SamProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"longest_edge": 1024},
}
"""What is done to a picture, the same for every published size."""

NAMES = (
    (r"image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"image_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"image_encoder\.", "vision_encoder."),
    (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
    (r"mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.proj_in."),
    (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.1\.", r"\1.layers.0."),
    (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.2\.", r"\1.proj_out."),
)
"""The authors' names -> transformers' names, the first that matches the beginning."""

SHARED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
"""One tensor under two names."""


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is a checkpoint, or transformers' folder."""
    if source.is_dir() and "config.json" in entry.files and not (source / "config.json").is_file():
        raise TurnaroundError(
            "weights.missing",
            f"{source.name} is no folder of {entry.title}: it has no config.json.",
            f"Give the path of the folder that holds config.json and {Path(FILE).name}.",
            details=str(source),
        )
    if (source / "config.json").is_file():
        config = {key: value for key, value in read_json(source / "config.json").items() if key != "_name_or_path"}
        tensors = state_dict(read_state(the_file(source, entry, FILE, "pytorch_model.bin")))
    else:
        state = state_dict(read_state(the_file(source, entry, *entry.files)), "model")
        tensors = {_name(name): tensor for name, tensor in state.items() if not name.startswith("pixel_")}
        config = _config(tensors)
    shared = next((tensors[name] for name in SHARED if name in tensors), None)
    if shared is not None:
        tensors |= dict.fromkeys(SHARED, shared)
    write_parts([Part("the segmenter", FILE, tensors, _expected(config, source))], folder, report)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    return {FILE: _expected(read_json(folder / "config.json"), folder)}


def _expected(config: dict[str, Any], source: Path) -> Shapes:
    from transformers import SamConfig, SamModel

    try:
        return shapes_of(lambda: SamModel(SamConfig.from_dict(config)))
    except Exception as error:  # a configuration that makes no network fails in any way it likes
        raise damaged(source, f"the configuration makes no network: {type(error).__name__}: {error}") from error


def _name(name: str) -> str:
    if name == "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix":
        return SHARED[0]
    for pattern, replacement in NAMES:
        new, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return new
    return name


def _config(tensors: LazyState) -> dict[str, Any]:
    """transformers' configuration, from the shapes: the published sizes differ in the image encoder alone."""
    vision: dict[str, Any] = {"model_type": "sam_vision_model"}
    pattern = re.compile(r"vision_encoder\.layers\.(\d+)\.attn\.rel_pos_h")
    reach = {int(match[1]): tensor.shape for name, tensor in tensors.items() if (match := pattern.fullmatch(name))}
    square = all(len(shape) == 2 and all(shape) for shape in reach.values())
    place, mlp = tensors.get("vision_encoder.pos_embed"), tensors.get("vision_encoder.layers.0.mlp.lin1.weight")
    if place is not None and place.ndim == 4 and mlp is not None and mlp.ndim == 2 and reach and square:
        width, side, longest = place.shape[-1], place.shape[1], max(shape[0] for shape in reach.values())
        vision |= {
            "hidden_size": width,
            "image_size": 16 * side,
            "mlp_dim": mlp.shape[0],
            "num_attention_heads": width // reach[min(reach)][-1],
            "num_hidden_layers": len(reach),
            "global_attn_indexes": sorted(index for index, shape in reach.items() if shape[0] == longest),
            "window_size": (min(shape[0] for shape in reach.values()) + 1) // 2,
        }
    return {"architectures": ["SamModel"], "model_type": "sam", "vision_config": vision}
