"""Opening what `torch.save` wrote: nothing in it is run, and nothing of it is in memory until it is asked for."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from backend.weights.lazy import CODES, LazyTensor
from backend.weights.store import damaged
from protocol.errors import TurnaroundError

LARGEST_LEGACY = 4 * 2**30
"""Bytes; files of before torch 1.6 (2020) can only be read whole."""

BYSTANDERS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "numpy.")
"""Packages whose objects training programs leave beside the weights. They are replaced by `Bystander`s."""

REFUSALS = ("Unsupported global", "unsupported GLOBAL", "Unsupported class", "TorchScript")
"""What torch says when it meets more than data."""

DEPTH = 5
"""Levels of dictionaries that are looked into."""


class Bystander:
    """Stands where an object of a training program was; takes whatever it is given and does nothing."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def open_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a checkpoint, nested as it is there, with a `LazyTensor` for every tensor.

    Entries that are neither tensors nor dictionaries (optimizer settings, counters) are left out.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`; `weights.unsafe` if it asks for code to be run;
            `weights.legacy` if it is of the old format and too large for memory.
    """
    if not path.is_file():
        raise TurnaroundError("weights.missing", f"There is no file {path.name}.", "Check the path.", details=str(path))
    try:
        archive = _Archive(path) if zipfile.is_zipfile(path) else None
        content = _open_zip(path) if archive else _open_legacy(path)
    except (TurnaroundError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle fails in any way it likes
        if any(word in str(error) for word in REFUSALS):
            raise _unsafe(path, str(error)) from error
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(content, Mapping):
        raise damaged(path, f"it holds a {type(content).__name__}, not a dictionary of weights")

    def plain(content: Mapping[Any, Any], prefix: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in content.items():
            name = f"{prefix}{key}"
            if isinstance(value, Tensor):
                result[str(key)] = _lazy(name, value, archive, path)
            elif isinstance(value, Mapping) and depth:
                result[str(key)] = plain(value, f"{name}.", depth - 1)
        return result

    return plain(content, "", DEPTH)


# ---------------------------------------------------------------------------------------------------- torch >= 1.6


def _open_zip(path: Path) -> Any:
    unsafe = get_unsafe_globals_in_checkpoint(str(path))
    strangers = [name for name in unsafe if not name.startswith(BYSTANDERS)]
    if strangers:
        raise _unsafe(path, f"it asks for {', '.join(sorted(strangers))}")
    bystanders: Any = [(type("Stand", (Bystander,), {}), name) for name in unsafe]
    with FakeTensorMode(), safe_globals(bystanders):
        return torch.load(path, map_location="cpu", weights_only=True)


def _lazy(name: str, tensor: Tensor, archive: _Archive | None, path: Path) -> LazyTensor:
    if tensor.dtype not in CODES or tensor.layout != torch.strided:
        raise damaged(path, f"{name} is of the kind {tensor.dtype}, {tensor.layout}")
    shape, stride, start = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
    dtype = tensor.dtype
    if archive is None:  # of a legacy file, already in memory
        return LazyTensor(name, shape, dtype, lambda: tensor.detach())
    record = archive.record(tensor.untyped_storage()._checkpoint_offset)  # a fake tensor's own size may be made up
    reach = start + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1
    if math.prod(shape) and reach * dtype.itemsize > record.file_size:
        raise damaged(archive.path, f"{name} reaches beyond its data")

    def read() -> Tensor:
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(archive.read(record), dtype=dtype).as_strided(shape, stride, start)

    return LazyTensor(name, shape, dtype, read)


class _Archive:
    """The records of a checkpoint by where their data starts, which is how torch names them.

    torch compares no checksums; those of the tensors are compared when they are read, all others at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        self._records = {}
        size = path.stat().st_size
        with path.open("rb") as file:
            for info in self._zip.infolist():
                file.seek(info.header_offset + 26)
                name, extra = struct.unpack("<HH", file.read(4))
                self._records[info.header_offset + 30 + name + extra] = info
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:  # a small file stays small
                    raise damaged(path, f"{info.filename} is compressed, which torch never does")
                if "/data/" not in info.filename:
                    self._zip.read(info)

    def record(self, offset: int | None) -> zipfile.ZipInfo:
        """The record whose data starts at `offset`."""
        info = self._records.get(-1 if offset is None else offset)
        if info is None:
            raise damaged(self.path, f"there is no record at {offset}")
        return info

    def read(self, info: zipfile.ZipInfo) -> bytearray:
        """A record's bytes; reading to its end compares its checksum."""
        try:
            with self._zip.open(info) as record:
                data = bytearray(info.file_size)
                view = memoryview(data)
                while count := cast(io.BufferedIOBase, record).readinto(view):
                    view = view[count:]
                complete = not view and not record.read(1)
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, struct.error) as error:
            raise damaged(self.path, str(error)) from error
        if not complete:
            raise damaged(self.path, f"{info.filename} is cut off")
        return data


# ----------------------------------------------------------------------------------------------------- torch < 1.6


def _open_legacy(path: Path) -> Any:
    if path.stat().st_size > LARGEST_LEGACY:
        raise TurnaroundError(
            "weights.legacy",
            f"{path.name} is of a format from before 2020 that can only be read whole, and it is very large.",
            "Open it with torch.load on a machine with enough memory and save it again with torch.save.",
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _unsafe(path: Path, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.unsafe",
        f"{path.name} is more than weights: it asks for code to be run, so it was not opened.",
        "Get it from the model's own page, or as a safetensors file.",
        details=why,
    )
