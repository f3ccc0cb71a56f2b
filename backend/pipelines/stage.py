"""Stages, their cache, and the progress that they report.

A pipeline is a sequence of stages. A stage is a function of its inputs, its parameters and its seed; its key is a
hash of those and of the weights' digest, so that asking again for what has not changed costs nothing.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from backend.geometry.mesh import Mesh
from protocol.messages import Framing


class CancelledError(Exception):
    """The job was cancelled; raised from `Progress.step` and caught by whoever runs the job."""


class KeepError(Exception):
    """*Keep This One* was pressed; raised from `Progress.step` where a pipeline said that it can."""


@dataclass
class Preview:
    """What can be shown before a job is done; every part is optional.

    Attributes:
        mesh: the shape so far.
        views: uint8 [V, H, W, 4], those drawn so far.
        cutout: uint8 [S, S, 4], the framed picture that the pipeline works on.
        framing: where the cutout lies in the picture.
        notes: what is wrong with the picture, as sentences for the artist (see `matting.warnings`): she can cancel
            before the heavy work.
    """

    mesh: Mesh | None = None
    views: NDArray[np.uint8] | None = None
    cutout: NDArray[np.uint8] | None = None
    framing: Framing | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """One progress report: see `protocol.messages.Event` for what each field means; `fraction` is of the variant."""

    stage: str
    step: int
    total: int
    fraction: float
    variant: int
    can_keep: bool
    preview: Preview | None


@dataclass
class Progress:
    """Carries progress out of a pipeline and the cancel flag into it.

    Attributes:
        report: receives every `Update`; must not block.
        cancel: set by another thread to stop the job; every denoising step looks at it.
        keep: set by another thread to end the drawing early, where `can_keep` was reported.
    """

    report: Callable[[Update], None] = lambda update: None
    cancel: threading.Event = field(default_factory=threading.Event)
    keep: threading.Event = field(default_factory=threading.Event)
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds spent in it, filled by `Stages`."""
    cached: list[str] = field(default_factory=list)
    stage: str = ""
    variant: int = 0
    span: tuple[float, float] = (0.0, 1.0)
    """The part of the whole variant, as fractions, that the current stage fills."""
    can_keep: bool = False
    """Whether the current stage may be ended early: there is something to build the result from."""

    def begin(
        self, stage: str, span: tuple[float, float], preview: Preview | None = None, *, can_keep: bool = False
    ) -> None:
        """Enters a stage with a Title Case name for people, which fills `span` of the whole variant."""
        self.stage, self.span, self.can_keep = stage, span, can_keep
        self.step(0, 0, preview)

    def step(self, step: int, total: int, preview: Preview | None = None, *, can_keep: bool = False) -> None:
        """Reports step of total, and stops the job if that was asked for.

        Raises:
            CancelledError: `cancel` is set.
            KeepError: `keep` is set and this step can be kept.
        """
        if self.cancel.is_set():
            raise CancelledError
        can_keep = can_keep or self.can_keep
        low, high = self.span
        fraction = low + (high - low) * (step / total if total else 0.0)
        self.report(Update(self.stage, step, total, fraction, self.variant, can_keep, preview))
        if can_keep and self.keep.is_set():
            raise KeepError


# ---------------------------------------------------------------------------------------------------------- cache


def digest(*parts: Any) -> str:
    """Hash of numbers, strings, arrays, dataclasses and nested containers of these; 32 hex digits."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        _feed(h, part)
    return h.hexdigest()


def _feed(h: Any, part: Any) -> None:
    if isinstance(part, np.ndarray):
        h.update(f"array{part.dtype.str}{part.shape}".encode())
        h.update(np.ascontiguousarray(part).data)
    elif isinstance(part, Mapping):
        for key in sorted(part):
            h.update(f"key{key!r}".encode())
            _feed(h, part[key])
    elif isinstance(part, (list, tuple)):
        h.update(f"list{len(part)}".encode())
        for item in part:
            _feed(h, item)
    elif hasattr(part, "__dataclass_fields__"):
        h.update(type(part).__name__.encode())
        _feed(h, {name: getattr(part, name) for name in part.__dataclass_fields__})
    elif isinstance(part, msgspec.Struct):
        h.update(type(part).__name__.encode())
        _feed(h, msgspec.structs.asdict(part))
    elif part is None or isinstance(part, (bool, int, float, str, bytes)):
        h.update(f"{type(part).__name__}{part!r}".encode())
    else:
        raise TypeError(f"cannot hash a {type(part).__name__} into a stage's key")


def _nbytes(arrays: Mapping[str, NDArray[Any]]) -> int:
    return sum(a.nbytes for a in arrays.values())


class StageCache:
    """Results of stages by key: in memory, and behind that on disk; both bounded, least recently used out first.

    A result is a dict of numpy arrays, so that a file of it is safetensors and nothing has to be unpickled. Safe to
    use from several threads.

    Args:
        memory_bytes: bound of what is held in memory.
        folder: where results are kept across restarts; None keeps them in memory alone.
        disk_bytes: bound of the folder.
    """

    def __init__(self, memory_bytes: int = 512 << 20, folder: Path | None = None, disk_bytes: int = 4 << 30) -> None:
        self._memory: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        self._memory_bytes, self._disk_bytes, self._folder = memory_bytes, disk_bytes, folder
        self._held = 0
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The result stored under `key`, or None. Arrays are shared: treat them as read-only."""
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        if self._folder is None:
            return None
        path = self._folder / f"{key}.safetensors"
        try:
            arrays = dict(load_file(path))
            path.touch()
        except FileNotFoundError:
            return None
        except Exception:  # a torn or foreign file is as good as none, and must not stop a job
            path.unlink(missing_ok=True)
            return None
        self._remember(key, arrays)
        return arrays

    def put(self, key: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Stores a result; a full disk costs only the copy on disk."""
        arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        self._remember(key, arrays)
        if self._folder is None:
            return
        temporary = self._folder / f".{key}.{threading.get_ident()}.tmp"
        try:
            save_file(arrays, temporary)
            temporary.replace(self._folder / f"{key}.safetensors")
            self._prune()
        except OSError:
            temporary.unlink(missing_ok=True)

    def clear_memory(self) -> None:
        """Drops what is held in memory; what is on disk stays."""
        with self._lock:
            self._memory.clear()
            self._held = 0

    def _remember(self, key: str, arrays: dict[str, NDArray[Any]]) -> None:
        with self._lock:
            if key in self._memory:
                self._held -= _nbytes(self._memory.pop(key))
            self._memory[key] = arrays
            self._held += _nbytes(arrays)
            while self._held > self._memory_bytes and len(self._memory) > 1:
                _, old = self._memory.popitem(last=False)
                self._held -= _nbytes(old)

    def _prune(self) -> None:
        assert self._folder is not None
        files = []
        for path in self._folder.glob("*.safetensors"):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._disk_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


class Stages:
    """Runs stages of one job through the cache and keeps their times.

    Example:
        views = stages.run("views", draw, picture=picture, camera=camera, seed=seed, weights=weights_digest)
    """

    def __init__(self, cache: StageCache, progress: Progress) -> None:
        self.cache, self.progress = cache, progress

    def run(
        self, name: str, function: Callable[[], dict[str, NDArray[Any]]], **key_parts: Any
    ) -> dict[str, NDArray[Any]]:
        """The result of `function()`, from the cache if `key_parts` have been seen under `name` before.

        `key_parts` must hold everything that the result depends on: inputs, parameters, seed, weights' digest.
        """
        start = time.perf_counter()
        key = digest(name, key_parts)
        result = self.cache.get(key)
        if result is None:
            result = function()
            self.cache.put(key, result)
        else:
            self.progress.cached.append(name)
        self.progress.seconds[name] = self.progress.seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    def run_each(
        self, name: str, function: Callable[[list[int]], list[dict[str, NDArray[Any]]]], keys: Sequence[Any]
    ) -> list[dict[str, NDArray[Any]]]:
        """Like `run`, for many results of one stage, of which only the missing are computed, together.

        Args:
            name: of the stage.
            function: the results of the given places in `keys`, in their order.
            keys: all that each result depends on.
        """
        start = time.perf_counter()
        digests = [digest(name, key) for key in keys]
        results = {number: self.cache.get(key) for number, key in enumerate(digests)}
        missing = [number for number, result in results.items() if result is None]
        if not missing:
            self.progress.cached.append(name)
        for number, result in zip(missing, function(missing) if missing else [], strict=True):
            results[number] = result
            self.cache.put(digests[number], result)
        self.progress.seconds[name] = self.progress.seconds.get(name, 0.0) + time.perf_counter() - start
        return [result for result in results.values() if result is not None]
