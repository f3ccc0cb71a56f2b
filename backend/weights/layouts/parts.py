"""What the layouts share: files to be written, and the networks that they have to fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

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
from backend.weights.store import WeightsEntry, catalogue, damaged
from protocol.errors import TurnaroundError

LARGEST_CONFIG = 2**20
"""Bytes of a configuration file."""

DEPRECATED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention in autoencoders that were published before diffusers 0.18."""

MANY = 256
"""No published network has more layers, or a longer list in its configuration."""

SHOWN = 4
"""Names that a sentence lists."""

MOST_CALLS = 2**16
"""Calls of torch while a network is made; the largest published one takes a sixth of this."""


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
    """Keys and shapes of a network's state dict; no memory is taken for it.

    Raises:
        ValueError: it is larger than any network, for its configuration is not trusted.
    """
    # what is stopped in the middle of no_grad does not leave it: so gradients are set back from out here
    with torch.no_grad(), torch.device("meta"), _Bounded():
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


class _Bounded(TorchFunctionMode):
    """Stops this thread when it has called torch more often than the making of any network does."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls it, and counts."""
        self._calls += 1
        if self._calls > MOST_CALLS:
            raise ValueError("it has more parts than any network")
        return func(*args, **(kwargs or {}))


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


def the_file(source: Path, entry: WeightsEntry, *names: str) -> Path:
    """The published file: `source` itself, or what stands under one of `names` somewhere in that folder.

    Args:
        source: a file or a folder.
        entry: whose weights it is to be. A file that the catalogue knows as another entry's is refused: two models
            of one architecture have the same keys and shapes, so nothing else tells them apart.
        names: the better first; patterns with "*" come last, and only one file may fit any of them.

    Raises:
        TurnaroundError: `weights.missing`; `weights.mismatch` if it is another entry's.
    """
    if source.is_file():
        return _not_of_another(source, entry)
    exact = [name for name in names if "*" not in name]
    for name in exact:
        found = sorted(path for path in source.rglob(name) if path.is_file())
        if found:
            return _not_of_another(found[0], entry)
    patterns = [name for name in names if "*" in name]
    found = sorted({path for name in patterns for path in source.rglob(name) if path.is_file()})
    if len(found) == 1:
        return _not_of_another(found[0], entry)
    if found:
        listed = ", ".join(path.relative_to(source).as_posix() for path in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise TurnaroundError(
            "weights.missing",
            f"{source.name} holds several files that could be {entry.title}: {listed}{more}.",
            "Give the path of the file instead of the folder.",
            details="\n".join(map(str, found)),
        )
    wanted = " or ".join(names)
    raise TurnaroundError(
        "weights.missing",
        f"There is no {wanted} in {source.name}.",
        "Give the path of the published file, or of the folder that holds it.",
        details=str(source),
    )


def _not_of_another(path: Path, entry: WeightsEntry) -> Path:
    if path.name in {Path(name).name for name in entry.files}:
        return path
    for other in catalogue():
        if not other.shipped and [Path(name).name for name in other.files] == [path.name]:
            raise TurnaroundError(
                "weights.mismatch",
                f"{path.name} is the file of {other.name}, not of {entry.name}.",
                f"Import it as {other.name}.",
                details=str(path),
            )
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A network's configuration, which is not trusted: it is small, and asks for no endless network.

    Raises:
        TurnaroundError: `weights.damaged`.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise damaged(path, "a configuration of this size")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise damaged(path, "not a table")
        _check_numbers(path, config)
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    return config


def _check_numbers(path: Path, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            _check_numbers(path, value)
        numbers = value if isinstance(value, list) else [value]
        many = len(numbers) > MANY
        deep = "layers" in key and any(isinstance(n, int) and n > MANY for n in numbers)
        if many or deep or any(isinstance(n, int) and abs(n) > 2**24 for n in numbers):
            raise damaged(path, f"{key} is {str(value)[:100]}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(content), indent=2, sort_keys=True) + "\n", encoding="utf-8")
