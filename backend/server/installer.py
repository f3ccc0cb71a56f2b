"""One change to the installed weights, in a process of its own: it holds up nobody, and can be ended at any time.

Standard input brings the order, a line of JSON; when it is closed, the work is to stop. Standard output takes
`ModelProgress`, and `Failed` if it comes to that, each a line of JSON. The exit code is 0 only after all is done.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import BinaryIO

import msgspec

from backend.pipelines.stage import CancelledError
from backend.weights.install import InstallProgress, import_from, install, remove
from backend.weights.store import find_entry
from protocol.errors import TurnaroundError
from protocol.messages import Message
from protocol.models import ImportModel, InstallModel, ModelOrder, ModelProgress

PROGRESS_INTERVAL = 0.1
FAILED, STOPPED = 1, 2
"""Exit codes."""


class Installer:
    """Carries out one order.

    Args:
        order: what to do.
        out: takes what there is to tell.
        stop: set from outside when the work is to stop.
    """

    def __init__(self, order: ModelOrder, out: BinaryIO, stop: threading.Event) -> None:
        self._order, self._out, self._stop = order, out, stop
        self._stage, self._told = "", 0.0

    def run(self) -> int:
        """Does it; returns the exit code."""
        try:
            self._do()
        except CancelledError:
            return STOPPED
        except TurnaroundError as error:
            self._tell(error.failed())
            return FAILED
        except Exception:
            failed = TurnaroundError(
                "weights.failed",
                "Something unforeseen happened to these weights.",
                "Try again; if it happens twice, copy the details and report them.",
                details=traceback.format_exc()[-60_000:],
            )
            self._tell(failed.failed())
            return FAILED
        return 0

    def _do(self) -> None:
        order, entry = self._order, find_entry(self._order.name)
        if isinstance(order, InstallModel):
            install(entry, accept_licence=order.accept_licence, progress=self._progress, cancel=self._stop.is_set)
        elif isinstance(order, ImportModel):
            import_from(entry, Path(order.path), progress=self._progress, cancel=self._stop.is_set)
        else:
            self._progress(InstallProgress("Removing", 0, 0))
            remove(entry)

    def _progress(self, progress: InstallProgress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage or now - self._told >= PROGRESS_INTERVAL or progress.done == progress.total:
            self._stage, self._told = progress.stage, now
            self._tell(
                ModelProgress(name=self._order.name, stage=progress.stage, done=progress.done, total=progress.total)
            )

    def _tell(self, message: Message) -> None:
        self._out.write(msgspec.json.encode(message) + b"\n")
        self._out.flush()


def main() -> None:
    """Reads its order from standard input and carries it out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all; the gateway stops its installer
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the lines
    order: ModelOrder = msgspec.json.decode(sys.stdin.buffer.readline(), type=ModelOrder)  # type: ignore[arg-type]
    stop = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):  # not through sys.stdin: its lock would be held when the interpreter ends
            pass
        stop.set()

    threading.Thread(target=watch, name="watcher", daemon=True).start()
    sys.exit(Installer(order, out, stop).run())


if __name__ == "__main__":
    main()
