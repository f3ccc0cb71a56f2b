"""Where weights are, what they are, and how they get in and out of a network.

A weights file is safetensors; the network's config is JSON under its metadata's key "config". Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from platformdirs import user_data_path
from safetensors import SafetensorError, safe_open

from protocol.errors import TurnaroundError

if TYPE_CHECKING:
    import torch

TINY = Path(__file__).parent / "tiny"
"""Weights that ship with the package: trained by this project, no network needed."""

CATALOGUE = Path(__file__).parent / "catalogue.toml"

STORED: dict[str, tuple[str, ...]] = {
    "zero123": (
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "cc_projection/config.json",
        "cc_projection/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ),
    "sparseneus": ("sparseneus.safetensors",),
    "loftr": ("loftr.safetensors",),
    "sam": ("config.json", "model.safetensors", "preprocessor_config.json"),
    "xunet": ("xunet.safetensors",),
    "lpips": ("lpips.safetensors",),
    "inception": ("inception.safetensors",),
    "lgm": ("lgm.safetensors",),
    "ouroboros3d": ("mv_model_unet.safetensors", "recon_model.safetensors"),
    "video": (
        "unet/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ),
    "pipeline": (
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ),
}
"""Layout -> the files in `weights_folder` that it needs at least, whatever the model was published as."""


# ------------------------------------------------------------------------------------------------------ catalogue


class WeightsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint that a pipeline can use.

    Attributes:
        name: what the command line calls it.
        title: for people.
        pipeline: the pipeline that uses it.
        layout: what it is stored as, a key of `STORED`; a converter in `layouts` makes it from the source's files.
        files: in the source's repository, or names in `TINY` if it ships; of "a|b" the first that exists is taken.
        source: repository id on huggingface.co, or the https address of the one file; "" if it ships
            or nobody publishes it.
        shipped: it is part of this package.
        pose: meaning of the fourth entry of a Zero123's pose: the difference of the distances, or the polar angle of
            the input (Stable Zero123).
        rotation: what an LGM's quaternions are normalised over, see its config.
        sha256: file name -> hex digest, as far as known.
        size_gb: of the download; None where it is not known.
        licence: SPDX id or the licence's own name; "" where the source states none.
        commercial: whether the licence allows commercial use; "conditions" if only under some.
        memory_gb: device memory that a run needs; None where it is not known.
        note: one sentence more.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+$")]
    title: str
    pipeline: str
    layout: Literal[
        "shipped",
        "zero123",
        "sparseneus",
        "loftr",
        "sam",
        "xunet",
        "lgm",
        "ouroboros3d",
        "video",
        "pipeline",
        "lpips",
        "inception",
    ]
    files: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    source: str = ""
    shipped: bool = False
    pose: Literal["relative", "absolute_polar"] = "relative"
    rotation: Literal["each", "all"] = "each"
    sha256: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]] = {}
    licence: str
    commercial: Literal["yes", "no", "conditions", "unknown"]
    size_gb: float | None = None
    memory_gb: float | None = None
    note: str = ""

    @property
    def needs_acceptance(self) -> bool:
        """Whether the licence has to be accepted before a download: all but those that plainly allow any use."""
        return bool(self.source) and self.commercial != "yes"


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
    return TINY if entry.shipped else weights_root() / entry.name


def weights_root() -> Path:
    """The folder of all that is installed."""
    root = os.environ.get("TURNAROUND_WEIGHTS")
    return Path(root) if root else user_data_path("turnaround", appauthor=False) / "weights"


def find_entry(name: str) -> WeightsEntry:
    """The entry of a name.

    Raises:
        TurnaroundError: `weights.unknown`, with the names that there are.
    """
    entries = catalogue()
    for entry in entries:
        if entry.name == name:
            return entry
    raise TurnaroundError(
        "weights.unknown", f'There is no model called "{name}".', f"There is {', '.join(e.name for e in entries)}."
    )


def stored_files(entry: WeightsEntry) -> list[Path]:
    """Where the files of a checkpoint are, or will be when it is installed."""
    names = entry.files if entry.shipped else STORED[entry.layout]
    return [weights_folder(entry) / name for name in names]


def is_present(entry: WeightsEntry) -> bool:
    """Whether all files of a checkpoint are there; their content is checked when they are loaded."""
    try:
        return all(path.is_file() and path.stat().st_size > 0 for path in stored_files(entry))
    except OSError:  # a folder that may not be read; the others can still be used
        return False


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


def entry_digest(entry: WeightsEntry) -> str:
    """Hash of all weights of a checkpoint that is present, as `weights_digest` is of one file."""
    paths = [path for path in stored_files(entry) if path.suffix == ".safetensors"]
    return hashlib.blake2b("".join(map(weights_digest, paths)).encode()).hexdigest()[:32]


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
        with open_safetensors(path) as file:
            config = json.loads((file.metadata() or {})["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise damaged(path, f"no config in the metadata: {error!r}") from error
    if not isinstance(config, dict):
        raise damaged(path, "the config is not a table")
    return config


def load_into(module: torch.nn.Module, path: Path) -> None:
    """Copies a weights file into a network, all of it or nothing; stored precision becomes the network's own.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`; `weights.mismatch`, which lists in its details every
            key that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    with open_safetensors(path) as file:
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
                f"The weights in {path.name} do not fit this model ({first_of(problems)}).",
                "Get the file again for this version, or choose another model.",
                details="\n".join(problems),
            )
        module.load_state_dict({name: file.get_tensor(name) for name in own}, strict=True)


def first_of(problems: Sequence[str]) -> str:
    """What differs between weights and a network, for a sentence; all of it belongs in the details."""
    first = problems[0].splitlines()[0]  # the libraries' own may have several
    return f"{len(problems)} parts differ, first {first}" if len(problems) > 1 else f"1 part differs, {first}"


def open_safetensors(path: Path) -> Any:
    """The file, opened for reading: `keys`, `get_slice`, `get_tensor`.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`.
    """
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
        raise damaged(path, str(error)) from error


Config = TypeVar("Config")


def read_typed_config(path: Path, cls: type[Config], what: str) -> Config:
    """A weights file's config as its network's own dataclass.

    Args:
        path: as `save_weights` writes them.
        cls: of the config.
        what: whose weights they should be, for the sentence: "a view generator".

    Raises:
        TurnaroundError: as `read_config`; `weights.damaged` if the config is another network's.
    """
    try:
        return msgspec.convert(read_config(path), cls)
    except msgspec.ValidationError as error:
        raise TurnaroundError(
            "weights.damaged",
            f"The weights {path.name} are not {what}'s.",
            "Get the file again: it may be of another kind.",
            details=f"{path}: {error}",
        ) from error


def damaged(path: Path, why: str) -> TurnaroundError:
    """The error for a file that is not what it should be; `why` is for the log."""
    return TurnaroundError(
        "weights.damaged",
        f"The weights {path.name} cannot be read.",
        "Get the file again: it may be cut off or of another kind.",
        details=f"{path}: {why}",
    )
