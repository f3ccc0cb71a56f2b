"""Of Stable Video Diffusion what Ouroboros3D draws with, as it is published, but in half precision and safetensors.

That is the autoencoder, the image encoder, the scheduler and the U-Net's sizes: its weights are Ouroboros3D's own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_json, read_state, shapes_of, state_dict, write_json, write_parts
from backend.weights.lazy import Shapes
from backend.weights.store import STORED, WeightsEntry, damaged
from protocol.errors import TurnaroundError

NETWORKS = {"vae": ("the VAE", "diffusion_pytorch_model"), "image_encoder": ("the image encoder", "model")}
"""Folder -> what is in it, for people, and what its file is called, without the ending."""

CONFIGS = tuple(name for name in STORED["video"] if name.endswith(".json"))


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is the model's folder."""
    from backend.generators.multiview_svd.loading import read_sizes

    read_sizes(source)  # another video model is refused before anything is written
    shapes = expected(source)
    parts = []
    for name, (title, stem) in NETWORKS.items():
        tensors = state_dict(read_state(_published(source / name, stem)))
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith("position_ids")}
        target = f"{name}/{stem}.safetensors"
        parts.append(Part(title, target, tensors, shapes[target], half=True))
    write_parts(parts, folder, report)
    for config in CONFIGS:
        kept = {key: value for key, value in read_json(source / config).items() if key != "_name_or_path"}
        write_json(folder / config, kept)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    from diffusers import AutoencoderKLTemporalDecoder
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    vae, encoder = (read_json(folder / name / "config.json") for name in NETWORKS)

    def vision() -> nn.Module:
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(encoder))

    try:
        networks = (shapes_of(partial(AutoencoderKLTemporalDecoder.from_config, vae)), shapes_of(vision))
    except Exception as error:  # a configuration that makes no network fails in any way it likes
        raise damaged(folder, f"the configuration makes no network: {type(error).__name__}: {error}") from error
    return {
        f"{name}/{stem}.safetensors": shapes
        for (name, (_, stem)), shapes in zip(NETWORKS.items(), networks, strict=True)
    }


def _published(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.fp16.safetensors", f"{stem}.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise TurnaroundError(
        "weights.missing",
        f"There are no weights in {folder.name}.",
        f"Get the folder again; it should hold {stem}.safetensors.",
        details=str(folder),
    )
