"""A text-to-image pipeline of diffusers, stored as it is published, but in half precision and safetensors alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from backend.generators.text.loading import PIPELINES
from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import (
    Part,
    modern_attention,
    read_json,
    read_state,
    shapes_of,
    state_dict,
    write_json,
    write_parts,
)
from backend.weights.lazy import Shapes
from backend.weights.store import STORED, WeightsEntry, damaged
from protocol.errors import TurnaroundError

WEIGHTS = {
    "UNet2DConditionModel": "diffusion_pytorch_model",
    "AutoencoderKL": "diffusion_pytorch_model",
    "CLIPTextModel": "model",
    "CLIPTextModelWithProjection": "model",
}
"""Class of a network -> what its file is called, without the ending."""

WORDS = ("CLIPTokenizer", "CLIPTokenizerFast")
"""Classes of what turns words into numbers, which has files of text only."""

PLAIN = (".json", ".txt")
LARGEST_TEXT = 2**25


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is the pipeline's folder."""
    index = _index(source)
    _check_kind(index, source, entry)
    expected_parts = expected(source)
    parts = []
    for name, (_, kind) in _components(index).items():
        if kind in WEIGHTS:
            stem = WEIGHTS[kind]
            tensors = state_dict(read_state(_published(source / name, stem)))
            tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith("position_ids")}
            if kind == "CLIPTextModel":
                tensors = {_published_name(key): tensor for key, tensor in tensors.items()}
            if kind == "AutoencoderKL":
                tensors = modern_attention(tensors)
            target = f"{name}/{stem}.safetensors"
            parts.append(Part(name, target, tensors, expected_parts[target], half=True))
    write_parts(parts, folder, report)
    for name, (_, kind) in _components(index).items():
        (folder / name).mkdir(exist_ok=True)
        for path in sorted((source / name).iterdir()):
            if path.suffix in PLAIN and not path.name.endswith(".index.json"):
                if path.stat().st_size > LARGEST_TEXT:
                    raise damaged(path, f"a {kind} of this size")
                shutil.copyfile(path, folder / name / path.name)
    absent = {name: [None, None] for name in index if name not in _components(index) and not name.startswith("_")}
    write_json(folder / "model_index.json", {**{k: v for k, v in index.items() if k != "_name_or_path"}, **absent})


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    import diffusers
    import transformers

    result: dict[str, Shapes] = {}
    for name, (library, kind) in _components(_index(folder)).items():
        if kind not in WEIGHTS:
            continue
        config = read_json(folder / name / "config.json")
        try:
            if library == "diffusers":
                shapes = shapes_of(partial(getattr(diffusers, kind).from_config, config))
            else:
                settings = transformers.CLIPTextConfig.from_dict(config)
                shapes = shapes_of(partial(getattr(transformers, kind), settings))
                if kind == "CLIPTextModel":
                    shapes = {_published_name(key): shape for key, shape in shapes.items()}
        except Exception as error:  # a configuration that makes no network fails in any way it likes
            why = f"the configuration makes no network: {type(error).__name__}: {error}"
            raise damaged(folder / name / "config.json", why) from error
        result[f"{name}/{WEIGHTS[kind]}.safetensors"] = shapes
    return result


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise TurnaroundError(
            "weights.missing",
            f"{folder.name} is no folder of a text-to-image model: it has no model_index.json.",
            "Check the path.",
            details=str(folder),
        )
    index = read_json(path)
    if index.get("_class_name") not in PIPELINES:
        raise TurnaroundError(
            "weights.mismatch",
            f"{folder.name} is no text-to-image model that can paint here: "
            f"it is a {str(index.get('_class_name'))[:100]}.",
            f"It has to be a {' or a '.join(PIPELINES)}.",
            details=str(path),
        )
    return index


def _check_kind(index: Mapping[str, Any], source: Path, entry: WeightsEntry) -> None:
    """That it is of the entry's kind and has what the entry needs; the networks' own files are looked at later."""
    needed = [name for name in entry.files if name.replace("_2/", "/") in STORED["pipeline"]]
    kind = PIPELINES[any(name.startswith("text_encoder_2/") for name in needed)]
    if index["_class_name"] != kind:
        raise TurnaroundError(
            "weights.mismatch",
            f"{source.name} is not {entry.title}: it is a {index['_class_name']}, not a {kind}.",
            "Check the path, or import it under another name.",
            details=str(source),
        )
    components = _components(index)
    for name in needed:
        part = name.split("/")[0]
        if "/" in name and (part not in components or not (source / name).is_file()):
            what = name if part in components else f"{part}, which model_index.json does not name"
            raise TurnaroundError(
                "weights.missing",
                f"{source.name} is not complete: it lacks {what}.",
                f"Get the folder again; it should hold {name}.",
                details=str(source / name),
            )


def _components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Networks, tokenizers and the scheduler; what only judges the finished picture is left out."""
    found = {}
    for name, described in index.items():
        library, kind = described if isinstance(described, list) and len(described) == 2 else (None, None)
        known = kind in WEIGHTS or kind in WORDS or (library == "diffusers" and str(kind).endswith("Scheduler"))
        if known and name.replace("_", "").isalnum():
            found[name] = (str(library), str(kind))
    return found


def _published_name(key: str) -> str:
    """A text encoder's name with the prefix of published files, which transformers 5 reads but has no longer itself."""
    return key if key.startswith("text_model.") else f"text_model.{key}"


def _published(folder: Path, stem: str) -> Path:
    old = "pytorch_model" if stem == "model" else stem
    for name in (f"{stem}.fp16.safetensors", f"{stem}.safetensors", f"{old}.fp16.bin", f"{old}.bin"):
        if (folder / name).is_file():
            return folder / name
    raise TurnaroundError(
        "weights.missing",
        f"There are no weights in {folder.name}.",
        f"Get the folder again; it should hold {stem}.safetensors.",
        details=str(folder),
    )
