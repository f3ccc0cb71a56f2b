"""The backend's process on this machine: found, started, watched and stopped. Knows nothing of bpy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .protocol.errors import TurnaroundError

PYTHON_VARIABLE = "TURNAROUND_PYTHON"
"""Environment variable that names the Python which has the backend installed."""
LOG_NAME = "backend.log"
LOG_TAIL = 8192


def python_in(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def find_command(chosen: str, own_environment: Path) -> list[str] | None:
    """The command that runs `turnaround`, or None if there is none.

    Args:
        chosen: a Python, an environment's folder, one with a `.venv` in it, or a `turnaround` program, as the artist
            set it; may be empty.
        own_environment: where *Set Up Backend* installs.
    """
    for candidate in (
        chosen,
        os.environ.get(PYTHON_VARIABLE, ""),
        str(own_environment),
        shutil.which("turnaround") or "",
    ):
        path = Path(candidate).expanduser()
        if candidate and path.is_dir():
            path = next(filter(Path.is_file, (python_in(path), python_in(path / ".venv"))), path)
        if candidate and path.is_file():
            return [str(path)] if path.stem.lower() == "turnaround" else [str(path), "-m", "backend.cli"]
    return None


@dataclass
class BackendProcess:
    """A backend that this Blender started."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: list[str], log_folder: Path, *, stays: bool) -> BackendProcess:
        """Starts it without waiting for it.

        Args:
            command: from `find_command`.
            log_folder: where its output goes.
            stays: whether it outlives this Blender.

        Raises:
            TurnaroundError: `backend.start`, the command cannot be run.
        """
        log = log_folder / LOG_NAME
        arguments = ["serve", *([] if stays else ["--parent-pid", str(os.getpid())])]
        # Blender's own Python must not leak into the backend's.
        environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONHOME", "PYTHONPATH"}}
        windows = sys.platform == "win32"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=log_folder,
                    start_new_session=not windows,  # Blender's Ctrl C is not the backend's
                    creationflags=0x0800_0200 if windows else 0,  # no console window; its own process group
                )
        except OSError as error:
            raise TurnaroundError(
                "backend.start",
                "The backend could not be started.",
                "Check its Python in the preferences.",
                details=f"{' '.join(command)}: {error}",
            ) from None
        return cls(process, log)

    def running(self) -> bool:
        """Whether it still runs; never waits."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Asks it to end; never waits."""
        if self.running():
            self.process.terminate()

    def ended(self) -> TurnaroundError:
        """Why it is gone, as far as its log tells."""
        said = self.last_words()
        if re.search(r"No module named '?backend\b", said):
            return TurnaroundError(
                "backend.absent",
                "The chosen Python does not have the backend installed.",
                "Choose another one in the preferences.",
                details=said,
            )
        return TurnaroundError(
            "backend.ended",
            "The backend has stopped by itself.",
            "Start it again; if it happens twice, Copy Details has its last words.",
            details=f"code {self.process.poll()}\n{said}",
        )

    def last_words(self) -> str:
        """The end of its log."""
        return tail_of(self.log)


def tail_of(log: Path) -> str:
    """The end of a log, without the name of the user's folder."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL))
            data = file.read()
    except OSError:
        return ""
    return data.decode("utf-8", errors="replace").replace(str(Path.home()), "~")
