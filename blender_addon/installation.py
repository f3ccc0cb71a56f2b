"""Sets up the backend on this computer: an environment of its own, so that torch stays out of Blender's Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from .process import python_in, tail_of
from .protocol.errors import TurnaroundError

LOG_NAME = "setup.log"
DOWNLOAD = "PyTorch and what it needs: 0.5 GB, or up to 4 GB where it brings CUDA"
"""What is downloaded, for people."""


class Installation:
    """A running installation; `poll` moves it on and never waits.

    Args:
        source: what pip is to install: the project's folder, a wheel, or a requirement.
        folder: where the environment and the log go.
    """

    def __init__(self, source: str, folder: Path) -> None:
        self.environment = folder / "environment"
        self._log = folder / LOG_NAME
        self._log.write_bytes(b"")
        python = str(python_in(self.environment))
        constraints = Path(source) / "constraints.txt"
        pinned = ["--constraint", str(constraints)] if constraints.is_file() else []
        self._steps = [
            ("Making the Environment", [sys.executable, "-m", "venv", "--clear", str(self.environment)]),
            ("Downloading", [python, "-m", "pip", "install", "--disable-pip-version-check", *pinned, source]),
            ("Checking", [python, "-c", "import backend.cli, torch"]),
        ]
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def text(self) -> str:
        """What it is doing, for the panel."""
        return self._steps[0][0] if self._steps else "Done"

    @property
    def detail(self) -> str:
        """The last line that it said."""
        lines = [line.strip() for line in tail_of(self._log).splitlines() if line.strip()]
        return lines[-1][:80] if lines else ""

    def poll(self) -> bool:
        """Moves on; True when all is done.

        Raises:
            TurnaroundError: `setup.failed`.
        """
        if self._running is not None:
            code = self._running.poll()
            if code is None:
                return False
            self._running = None
            if code:
                raise self._failed(f"code {code}")
            del self._steps[0]
        if not self._steps:
            return True
        try:
            with self._log.open("ab") as output:
                self._running = subprocess.Popen(
                    self._steps[0][1], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
        except OSError as error:
            raise self._failed(str(error)) from None
        return False

    def cancel(self) -> None:
        """Stops it, and removes what it made."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
        shutil.rmtree(self.environment, ignore_errors=True)

    def _failed(self, why: str) -> TurnaroundError:
        text, details = self.text, f"{why}\n{tail_of(self._log)}"
        shutil.rmtree(self.environment, ignore_errors=True)
        return TurnaroundError(
            "setup.failed",
            f'The backend could not be set up: "{text}" failed.',
            "Check the network, the free disk space and the folder, then try again.",
            details=details,
        )
