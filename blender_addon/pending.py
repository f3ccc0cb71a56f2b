"""Jobs that outlive their Blender: one small file for each running Blender, so that a result is not lost with it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from .jobs import Job
from .protocol.connection import alive
from .protocol.messages import Imagine, Settings
from .scene.results import Wish

LARGEST = 1 << 20


class Pending(msgspec.Struct, kw_only=True):
    """What is needed to fetch the results of a job; see `Job` for the fields."""

    id: str
    pipeline: str
    settings: Settings
    wish: Wish
    scene: str
    undo: str
    imagine: Imagine | None = None

    def job(self) -> Job:
        """The job to go on with."""
        return Job(
            self.pipeline, self.settings, None, self.wish, self.scene, self.undo, imagine=self.imagine, id=self.id
        )


def remember(folder: Path, job: Job) -> None:
    """Writes down the job that this Blender waits for; a full disk costs only that."""
    fields = {name: getattr(job, name) for name in Pending.__struct_fields__}
    pending = Pending(**fields)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _file(folder, os.getpid()).write_bytes(msgspec.json.encode(pending))
    except OSError:
        return


def forget(folder: Path) -> None:
    """This Blender waits for nothing any more."""
    _file(folder, os.getpid()).unlink(missing_ok=True)


def take_left_over(folder: Path) -> Job | None:
    """The newest job that a Blender left which is gone; what it and older ones left is removed."""
    files = [path for path in folder.glob("job-*.json") if path.stem[4:].isdecimal() and not alive(int(path.stem[4:]))]
    newest: Job | None = None
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        with contextlib.suppress(OSError, msgspec.DecodeError):  # a torn file is as good as none
            newest = msgspec.json.decode(path.read_bytes()[:LARGEST], type=Pending).job()
        path.unlink(missing_ok=True)
    return newest


def _file(folder: Path, pid: int) -> Path:
    return folder / f"job-{pid}.json"
