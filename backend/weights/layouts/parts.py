"""What the layouts share: files to be written, and the networks that they have to fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.weights.layouts import Fraction
from backend.weights.lazy import (
    LazyState,
    LazyTensor,
    Shapes,
    check_shapes,
    read_safetensors,
    size_of,
    write_safetensors,
)
from backend.weights.pickles import open_pickle
from backend.weights.store import damaged
from protocol.errors import TurnaroundError

LARGEST_CONFIG = 2**20
"""Bytes of a configuration file."""

DEPRECATED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention in autoencoders that were published before diffusers 0.18."""

MANY = 256
"""No published network has more layers, or a longer list in its configuration."""


@dataclass(frozen=True)
class Part:
    """One safetensors file to be written.

    Attributes:
        title: what it is, for people.
        path: in the stored folder.
        tensors: under the network's names.
        expected: what the network asks for.
        half: store as float16.
        metadata: of the file.
        unused: names of the source that have found no place, which they ought to have.
    """

    title: str
    path: str
    tensors: LazyState
    expected: Shapes
    half: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def write_parts(parts: Iterable[Part], folder: Path, report: Fraction) -> None:
    """Checks all parts, then writes them; nothing is written if one does not fit.

    Raises:
        TurnaroundError: `weights.mismatch`, `weights.damaged`.
    """
    parts = list(parts)
    for part in parts:
        check_shapes(part.title, part.tensors, part.expected, part.unused)
    total = sum(size_of(part.tensors, half=part.half) for part in parts)
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    report(0, total)
    for part in parts:
        path = folder / part.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, part.tensors, half=part.half, metadata=part.metadata, report=written)


def shapes_of(build: Callable[[], nn.Module]) -> Shapes:
    """Keys and shapes of a network's state dict; no memory is taken for it."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file or of a pickle, told apart by what is in the file."""
    with path.open("rb") as file:
        start = file.read(9)
    return dict(read_safetensors(path)) if start[8:9] == b"{" else open_pickle(path)


def state_dict(content: Mapping[str, Any], *wrappers: str) -> dict[str, LazyTensor]:
    """The flat state dict in a checkpoint, taken out of the first of `wrappers` that it has."""
    for wrapper in wrappers:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, LazyTensor)}


def modern_attention(tensors: LazyState) -> dict[str, LazyTensor]:
    """An autoencoder under diffusers' present names for attention; other names are kept."""
    result = {}
    for name, tensor in tensors.items():
        for old, new in DEPRECATED.items() if ".attentions." in name else ():
            name = name.replace(old, new)
        result[name] = tensor
    return result


def without_prefix(tensors: Mapping[str, LazyTensor], prefix: str) -> dict[str, LazyTensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def the_file(source: Path, *names: str) -> Path:
    """The published file: `source` itself, or the first of `names` that stands somewhere in that folder.

    Raises:
        TurnaroundError: `weights.missing`.
    """
    if source.is_file():
        return source
    for name in names:
        found = sorted(source.rglob(name)) if source.is_dir() else []
        if found:
            return found[0]
    wanted = " or ".join(names).replace("|", " or ")
    raise TurnaroundError(
        "weights.missing", f"There is no {wanted} in {source.name}.", "Check the path.", details=str(source)
    )


def read_json(path: Path) -> dict[str, Any]:
    """A network's configuration, which is not trusted: it is small, and asks for no endless network.

    Raises:
        TurnaroundError: `weights.damaged`.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise damaged(path, "a configuration of this size")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(config, dict):
        raise damaged(path, "not a table")
    for key, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        many = len(numbers) > MANY
        deep = "layers" in key and any(isinstance(n, int) and n > MANY for n in numbers)
        if many or deep or any(isinstance(n, int) and abs(n) > 2**24 for n in numbers):
            raise damaged(path, f"{key} is {str(value)[:100]}")
    return config


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(content), indent=2, sort_keys=True) + "\n", encoding="utf-8")
