"""Installing, importing, checking and removing weights: all of a checkpoint or nothing.

A download is kept until it is complete and converted, so that a broken one goes on where it stopped. Conversion works
in a folder of its own beside the others, which takes its final name in one step.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.pipelines.stage import CancelledError
from backend.weights.download import fetch, remote_files, sha256_of
from backend.weights.store import (
    STORED,
    WeightsEntry,
    catalogue,
    damaged,
    is_present,
    stored_files,
    weights_folder,
    weights_root,
)
from protocol.errors import TurnaroundError

RECORD = "installed.json"
"""Beside the weights: where they are from and the digest of each file."""

LARGEST_ZERO123 = 25 * 10**8
"""Bytes of a stored Zero123; what is published may hold an optimizer as well, many times as large."""

LISTED = 3
"""Missing files that a sentence names."""


@dataclass(frozen=True)
class InstallProgress:
    """How far an installation is.

    Attributes:
        stage: for people, in Title Case.
        done: bytes.
        total: bytes; 0 if not known.
    """

    stage: str
    done: int
    total: int

    @property
    def fraction(self) -> float:
        """Of the stage; 0 if not known."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


Report = Callable[[InstallProgress], None]
Cancel = Callable[[], bool]


def install(
    entry: WeightsEntry,
    *,
    accept_licence: bool = False,
    progress: Report = lambda progress: None,
    cancel: Cancel = lambda: False,
) -> None:
    """Downloads a checkpoint, converts it and puts it in its place; nothing is done if it is there.

    Args:
        entry: what to install.
        accept_licence: whoever asked for it accepts the licence, where that `needs_acceptance`.
        progress: told how far it is, at least every few megabytes.
        cancel: asked as often; True stops it, and what has been downloaded is kept for the next time.

    Raises:
        TurnaroundError: `weights.licence`, `weights.network`, `weights.login`, `weights.source`,
            `weights.unpublished`, `weights.no_space`, `weights.folder`, `weights.busy`, and what `import_from` raises.
        CancelledError: `cancel` said so.
    """
    if is_present(entry):
        return
    if entry.needs_acceptance and not accept_licence:
        raise TurnaroundError(
            "weights.licence",
            f"The licence of {entry.title} has to be accepted first: {licence_words(entry)}.",
            f"Read it at {licence_page(entry)}, then install with --accept-licence.",
        )
    step = _steps(progress, cancel)
    with _alone(entry), _disk():
        if is_present(entry):  # they came back from an installation that was killed
            return
        downloads = _downloads(entry)
        step("Looking Up Files", 0, 0)
        files = remote_files(entry, lambda: step("Looking Up Files", 0, 0))
        known = all(file.size for file in files)
        total = sum(file.size for file in files) if known else 0
        had = 0
        here = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
        _need_space(downloads, total - here + _stored_at_least(entry, total))
        for file in files:

            def fetched(done: int, size: int, had: int = had) -> None:
                step("Downloading", had + done, total or size)

            had += fetch(file, downloads, fetched).stat().st_size
        try:
            _convert(entry, downloads, step)
        except TurnaroundError as error:
            if error.code in ("weights.damaged", "weights.mismatch", "weights.unsafe"):
                shutil.rmtree(downloads, ignore_errors=True)  # going on with it would fail in the same way
            raise
        shutil.rmtree(downloads)


def import_from(
    entry: WeightsEntry,
    path: Path,
    *,
    progress: Report = lambda progress: None,
    cancel: Cancel = lambda: False,
) -> None:
    """Converts a checkpoint that is on this machine and puts it in its place, instead of what may be there.

    Args:
        entry: what it is.
        path: the published file or folder; it is only read.
        progress: as for `install`.
        cancel: as for `install`.

    Raises:
        TurnaroundError: `weights.missing`; `weights.damaged` if it cannot be read or holds values that are not
            finite; `weights.mismatch` if it is of another model; `weights.unsafe`, `weights.legacy`;
            `weights.unreadable`; `weights.no_space`, `weights.folder`, `weights.busy`; `weights.shipped`.
        CancelledError: `cancel` said so.
    """
    if entry.shipped:
        raise TurnaroundError("weights.shipped", f"{entry.title} is a part of turnaround and cannot be replaced.")
    with _reading(path):
        if not path.exists():
            raise TurnaroundError(
                "weights.missing", f"There is nothing at {path.name}.", "Check the path.", details=str(path)
            )
    step = _steps(progress, cancel)
    with _alone(entry), _disk(), _reading(path):
        expected = entry.sha256.get(path.name)
        if expected and path.is_file():
            size = path.stat().st_size
            if sha256_of(path, lambda: step("Checking", 0, size)) != expected:
                raise damaged(path, f"its sha256 is not {expected}")
        _convert(entry, path, step)


def remove(entry: WeightsEntry) -> bool:
    """Removes a checkpoint and what may be left of its download; False if there was neither.

    Raises:
        TurnaroundError: `weights.shipped`, `weights.folder`, `weights.busy`.
    """
    if entry.shipped:
        raise TurnaroundError("weights.shipped", f"{entry.title} is a part of turnaround and stays.")
    with _alone(entry), _disk():
        folders = [folder for folder in (weights_folder(entry), _downloads_path(entry)) if folder.exists()]
        for folder in folders:
            trash = _staging(entry)
            folder.replace(trash / "gone")  # in one step, even if emptying it is interrupted
            shutil.rmtree(trash)
    return bool(folders)


def verify(entry: WeightsEntry, *, progress: Report = lambda progress: None, cancel: Cancel = lambda: False) -> None:
    """Checks an installed checkpoint: digests where they are known, every key and shape, every value finite.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, `weights.mismatch`, `weights.unreadable`.
        CancelledError: `cancel` said so.
    """
    folder = weights_folder(entry)
    with _disk(), _reading(folder):
        if not folder.exists():
            raise _absent(entry, "is not installed")
        gone = [path for path in stored_files(entry) if not path.is_file() or not path.stat().st_size]
        if gone:
            names = ", ".join(path.relative_to(folder).as_posix() for path in gone[:LISTED])
            more = f" and {len(gone) - LISTED} more" if len(gone) > LISTED else ""
            raise _absent(entry, f"is not complete without {names}{more}")
        _check_stored(entry, folder, _steps(progress, cancel))


def _absent(entry: WeightsEntry, what: str) -> TurnaroundError:
    hint = "Install Turnaround again." if entry.shipped else f'Use "turnaround models install {entry.name}".'
    return TurnaroundError("weights.missing", f"{entry.title} {what}.", hint)


def _check_stored(entry: WeightsEntry, folder: Path, step: Callable[[str, int, int], None]) -> None:
    import torch

    from backend.weights.layouts import layout
    from backend.weights.lazy import check_shapes, read_safetensors

    digests = _recorded(folder)
    stored = {path.relative_to(folder).as_posix() for path in stored_files(entry)}
    files = {name: folder / name for name in sorted(stored | digests.keys())}
    gone = [name for name, path in files.items() if not path.is_file()]
    if gone:
        raise damaged(folder / gone[0], "it was there when it was installed")
    total = sum(path.stat().st_size for path in files.values())
    done = 0
    for name, path in files.items():
        step("Checking Files", done, total)
        if name in digests and sha256_of(path, partial(step, "Checking Files", done, total)) != digests[name]:
            raise damaged(path, "its digest has changed since it was installed")
        done += path.stat().st_size
    expected = layout(entry.layout).expected(folder) if not entry.shipped else {}
    done = 0
    for name, path in files.items():
        if path.suffix != ".safetensors":
            continue
        tensors = read_safetensors(path)
        if name in expected:
            check_shapes(name, tensors, expected[name])
        for tensor in tensors.values():
            step("Checking Values", done, total)
            done += tensor.nbytes
            if tensor.dtype.is_floating_point and not torch.isfinite(tensor.read()).all():
                raise damaged(path, f"{tensor.name} holds values that are not finite")


def licence_words(entry: WeightsEntry) -> str:
    """The licence and what it means, in a few words."""
    use = {
        "yes": "commercial use is allowed",
        "no": "no commercial use",
        "conditions": "commercial use under conditions",
        "unknown": "ask the source about commercial use",
    }
    return f"{entry.licence or 'no licence is stated'}, {use[entry.commercial]}"


def licence_page(entry: WeightsEntry) -> str:
    """Where the licence can be read."""
    return entry.source if "://" in entry.source else f"https://huggingface.co/{entry.source}"


# ------------------------------------------------------------------------------------------------- the steps of it


def _convert(entry: WeightsEntry, source: Path, step: Callable[[str, int, int], None]) -> None:
    from backend.weights.layouts import layout

    staging = _staging(entry)
    try:
        new = staging / "new"
        new.mkdir()
        spaced = False

        def written(done: int, total: int) -> None:
            nonlocal spaced
            if not spaced:
                _need_space(new, total)
                spaced = True
            step("Converting", done, total)

        layout(entry.layout).convert(source, new, entry, written)
        missing = [name for name in STORED[entry.layout] if not (new / name).is_file()]
        if missing:
            raise TurnaroundError(
                "weights.damaged",
                f"{entry.title} is not complete: nothing in {source.name} makes {missing[0]}.",
                "Get it again: some of what was published may be missing.",
                details=f"{source}: {', '.join(missing)}",
            )
        digests = {}
        for path in sorted(path for path in new.rglob("*") if path.is_file()):
            digests[path.relative_to(new).as_posix()] = sha256_of(path, lambda: step("Finishing", 0, 0))
        record = {"name": entry.name, "source": entry.source, "licence": entry.licence, "sha256": digests}
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        step("Finishing", 1, 1)  # the last chance to stop
        target = weights_folder(entry)
        if target.exists():
            target.replace(staging / "old")
        new.replace(target)
    finally:
        _clear(staging, weights_folder(entry))


def _clear(staging: Path, target: Path) -> None:
    """Removes a folder of `_staging`; weights in it that nothing has come instead of go back to their place."""
    old = staging / "old"
    if old.exists() and not target.exists():
        old.replace(target)
    shutil.rmtree(staging, ignore_errors=True)


def _steps(progress: Report, cancel: Cancel) -> Callable[[str, int, int], None]:
    def step(stage: str, done: int, total: int) -> None:
        if cancel():
            raise CancelledError
        progress(InstallProgress(stage, done, total))

    return step


def _recorded(folder: Path) -> dict[str, str]:
    try:
        digests = json.loads((folder / RECORD).read_text(encoding="utf-8"))["sha256"]
        inside = {str(name): str(digest) for name, digest in digests.items()}
        return {name: digest for name, digest in inside.items() if ".." not in name and not name.startswith("/")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # put there by hand: its structure is all that can be checked


def _downloads_path(entry: WeightsEntry) -> Path:
    return weights_root() / ".downloads" / entry.name


def _downloads(entry: WeightsEntry) -> Path:
    folder = _downloads_path(entry)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _staging(entry: WeightsEntry) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=weights_root()))


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _no_space(f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


def _stored_at_least(entry: WeightsEntry, downloaded: int) -> int:
    """Bytes that the converted copy takes beside its download: half of it, single precision being stored as half.

    What the converter itself asks for is exact, but comes after the download.
    """
    return min(downloaded // 2, LARGEST_ZERO123) if entry.layout == "zero123" else downloaded // 2


@contextmanager
def _alone(entry: WeightsEntry) -> Iterator[None]:
    """One installation of a checkpoint at a time; clears up what those that were killed have left."""
    from filelock import FileLock, Timeout

    root = weights_root()
    with _disk():
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{entry.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise TurnaroundError(
                "weights.busy", f"{entry.title} is being installed already.", "Wait until that is done."
            ) from error
    try:
        _clear_up(entry)
        yield
    finally:
        lock.release()


def _clear_up(entry: WeightsEntry) -> None:
    """Clears what is left of installations of this checkpoint, whose lock is held, and of all that nobody works on."""
    from filelock import FileLock, Timeout

    root = weights_root()
    names = {known.name for known in catalogue() if not known.shipped}  # all else there is somebody else's
    for left in root.glob(".*.*"):
        name = left.name[1:].partition(".")[0]
        if name not in names or not left.is_dir():
            continue
        # what cannot be cleared now, since a file in it is open, has to wait for the next time
        held = nullcontext() if name == entry.name else FileLock(root / f".{name}.lock", timeout=0)
        with suppress(OSError, Timeout), held:
            _clear(left, root / name)


@contextmanager
def _disk() -> Iterator[None]:
    """Failures of the disk in words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(str(error)) from error
        raise TurnaroundError(
            "weights.folder",
            "The folder of the weights cannot be used.",
            "Check that you may write there, or set TURNAROUND_WEIGHTS to another folder.",
            details=str(error),
        ) from error


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Failures of what is only read, the disk's own apart: they are no fault of the folder that is written to."""
    try:
        yield
    except OSError as error:
        at = Path(error.filename) if isinstance(error.filename, str) else None
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # a copy that finds no space names its source as well
        if full or at is None or not at.is_relative_to(source):
            raise
        if isinstance(error, FileNotFoundError):
            where = f" in {at.parent.name}" if at != source else ""
            raise TurnaroundError(
                "weights.missing", f"There is no {at.name}{where}.", "Get the files again.", details=str(error)
            ) from error
        raise TurnaroundError(
            "weights.unreadable",
            f"{at.name} cannot be read.",
            "Check that it is a file, and that you may read it.",
            details=str(error),
        ) from error


def _no_space(why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.no_space",
        "The disk is too full for these weights.",
        "Free some space, or set TURNAROUND_WEIGHTS to a folder on a larger disk.",
        details=why,
    )
