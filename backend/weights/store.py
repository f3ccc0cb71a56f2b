"""Where weights are, what they are, and how they get in and out of a network.

A weights file is safetensors; the network's config is JSON under its metadata's key "config". Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from platformdirs import user_data_path
from safetensors import SafetensorError, safe_open

from protocol.errors import TurnaroundError

if TYPE_CHECKING:
    import torch

TINY = Path(__file__).parent / "tiny"
"""Weights that ship with the package: trained by this project, no network needed."""

CATALOGUE = Path(__file__).parent / "catalogue.toml"


# ------------------------------------------------------------------------------------------------------ catalogue


class WeightsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint that a pipeline can use.

    Attributes:
        name: what the command line calls it.
        title: for people.
        pipeline: the pipeline that uses it.
        files: patterns in the source's repository, or names in `TINY` if it ships; "a|b" is met by either.
        source: repository id on huggingface.co; "" if it ships.
        shipped: it is part of this package.
        sha256: file name -> hex digest, as far as known.
        licence: SPDX id or the licence's own name; "" where the source states none.
        commercial: whether the licence allows commercial use; "conditions" if only under some.
        memory_gb: device memory that a run needs; None where it is not known.
        note: one sentence more.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+$")]
    title: str
    pipeline: str
    files: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    source: str = ""
    shipped: bool = False
    sha256: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]] = {}
    licence: str
    commercial: Literal["yes", "no", "conditions", "unknown"]
    memory_gb: float | None = None
    note: str = ""


class _Catalogue(msgspec.Struct, frozen=True):
    weights: list[WeightsEntry]


def catalogue(path: Path = CATALOGUE) -> list[WeightsEntry]:
    """All known checkpoints, in the file's order.

    Raises:
        TurnaroundError: `weights.catalogue`, if the file does not follow the schema.
    """
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Catalogue).weights
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise TurnaroundError(
            "weights.catalogue",
            "The list of models cannot be read.",
            "Reinstall turnaround, or correct the file.",
            details=f"{path.name}: {error}",
        ) from error
    return entries


def weights_folder(entry: WeightsEntry) -> Path:
    """Where the files of a checkpoint are kept: in the package, or in the user's data folder.

    The environment variable TURNAROUND_WEIGHTS moves the latter, to a larger disk for example.
    """
    if entry.shipped:
        return TINY
    root = os.environ.get("TURNAROUND_WEIGHTS")
    return (Path(root) if root else user_data_path("turnaround", appauthor=False) / "weights") / entry.name


def is_present(entry: WeightsEntry) -> bool:
    """Whether all files of a checkpoint are there; their content is checked when they are loaded."""
    folder = weights_folder(entry)
    return all(any(_non_empty(folder, pattern) for pattern in group.split("|")) for group in entry.files)


def _non_empty(folder: Path, pattern: str) -> bool:
    return any(path.is_file() and path.stat().st_size > 0 for path in folder.glob(pattern))


def tiny_path(name: str) -> Path:
    """File of the shipped weights called `name`: a safetensors file whose metadata holds the network's config."""
    return TINY / f"{name}.safetensors"


# -------------------------------------------------------------------------------------------------------- digests


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def weights_digest(path: Path) -> str:
    """Hash of a weights file; a part of every stage's key that depends on it."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


# ---------------------------------------------------------------------------------------------- reading and writing


def save_weights(
    path: Path, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any], *, half: bool = False
) -> None:
    """Writes weights and their config; a reader sees the whole file or the one before, never a part.

    Args:
        path: the safetensors file; its folder is made if need be.
        state_dict: the network's tensors.
        config: what `read_config` gives back; must be JSON.
        half: store floating-point tensors as float16, half the size.

    Raises:
        ValueError: a value does not fit into float16, or is not finite.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in state_dict.items():
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.half() if half else tensor
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds values that are not finite as {tensor.dtype}")
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"config": json.dumps(dict(config), sort_keys=True)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_config(path: Path) -> dict[str, Any]:
    """The config that is stored in a weights file; no tensor is read.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`.
    """
    try:
        with _open(path) as file:
            config = json.loads((file.metadata() or {})["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise _damaged(path, f"no config in the metadata: {error!r}") from error
    if not isinstance(config, dict):
        raise _damaged(path, "the config is not a table")
    return config


def load_into(module: torch.nn.Module, path: Path) -> None:
    """Copies a weights file into a network, all of it or nothing; stored precision becomes the network's own.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`; `weights.mismatch`, which lists in its details every
            key that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    with _open(path) as file:
        stored = set(file.keys())
        problems = [f"missing: {name}" for name in sorted(own.keys() - stored)]
        problems += [f"unexpected: {name}" for name in sorted(stored - own.keys())]
        for name in sorted(stored & own.keys()):
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(own[name].shape):
                problems.append(f"shape of {name}: {shape} in the file, {tuple(own[name].shape)} in the network")
        if problems:
            raise TurnaroundError(
                "weights.mismatch",
                f"The weights in {path.name} do not fit this model ({len(problems)} of {len(own)} parts differ).",
                "Get the file again for this version, or choose another model.",
                details="\n".join(problems),
            )
        module.load_state_dict({name: file.get_tensor(name) for name in own}, strict=True)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise TurnaroundError(
            "weights.missing",
            f"The weights {path.name} are not there.",
            'See "turnaround models list" for what is there and what is missing.',
            details=str(path),
        ) from error
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.damaged",
        f"The weights {path.name} cannot be read.",
        "Get the file again: it may be cut off or of another kind.",
        details=f"{path}: {why}",
    )
