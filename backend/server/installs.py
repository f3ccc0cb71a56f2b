"""The models that a client can see and change: one order at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from backend.weights.install import licence_page
from backend.weights.store import WeightsEntry, catalogue, find_entry, is_present
from protocol.errors import TurnaroundError
from protocol.messages import Failed, Message
from protocol.models import ModelInfo, ModelList, ModelOrder, ModelProgress

INSTALLER = "backend.server.installer"
STOP_SECONDS = 10.0
"""What does not listen is ended by force after so long; an installation that is not complete is not there."""
MAX_LINE = 1 << 20
MAX_DETAILS = 16_384
"""Characters of a failure's details: a list of all models has to fit into one frame."""

Told = ModelProgress | Failed


@dataclass
class _Work:
    """An order that is being carried out.

    Attributes:
        told: what the process says; None at its end.
        stop_by: when it is ended by force; None while nobody wants it to stop.
    """

    order: ModelOrder
    process: subprocess.Popen[bytes]
    told: queue.SimpleQueue[Told | None] = field(default_factory=queue.SimpleQueue)
    progress: ModelProgress | None = None
    failed: Failed | None = None
    stop_by: float | None = None
    silent: bool = False

    def listen(self) -> None:
        """Reads what the process says until it ends; in a thread of its own."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            while line := lines.readline(MAX_LINE):
                with contextlib.suppress(msgspec.DecodeError):
                    self.told.put(msgspec.json.decode(line, type=Told))  # type: ignore[arg-type]
        self.told.put(None)

    def stop(self) -> None:
        """Asks it to stop."""
        if self.stop_by is None:
            self.stop_by = time.monotonic() + STOP_SECONDS
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class Installs:
    """What is done to the installed weights. Nothing here waits, but `stop`.

    Args:
        tell: hands a message to all who want to know.
        installer: the module that is run for each order.
    """

    def __init__(self, tell: Callable[[Message], None], installer: str = INSTALLER) -> None:
        self._tell, self._installer = tell, installer
        self._waiting: deque[ModelOrder] = deque()
        self._work: _Work | None = None
        self._failed: dict[str, Failed] = {}

    @property
    def busy(self) -> bool:
        """Whether an order is being carried out."""
        return self._work is not None

    def models(self) -> ModelList:
        """All models of the catalogue, and how things stand with them.

        Raises:
            TurnaroundError: `weights.catalogue`.
        """
        progress = self._work.progress if self._work is not None else None
        return ModelList(models=tuple(self._info(entry) for entry in catalogue()), progress=progress)

    def ask(self, order: ModelOrder) -> None:
        """Takes an order on; one that is known already changes nothing.

        Raises:
            TurnaroundError: `weights.unknown`; `weights.busy`, something else is being done to this model.
        """
        entry = find_entry(order.name)
        for known in (*self._waiting, *([self._work.order] if self._work is not None else [])):
            if known.name == order.name:
                if known == order:
                    return
                raise TurnaroundError("weights.busy", f"{entry.title} is being changed already.", "Wait, or cancel it.")
        self._failed.pop(order.name, None)
        self._waiting.append(order)
        self._start_next()
        self._tell(self.models())

    def cancel(self, name: str) -> None:
        """Stops what is done to a model, or will be; nothing if that is nothing."""
        kept = [order for order in self._waiting if order.name != name]
        if len(kept) < len(self._waiting):
            self._waiting = deque(kept)
            self._tell(self.models())
        elif self._work is not None and self._work.order.name == name:
            self._work.stop()

    def look_after(self) -> None:
        """Takes note of what the installer says, of its end, and starts the next."""
        work = self._work
        if work is None:
            return
        while not work.told.empty():
            said = work.told.get()
            if isinstance(said, ModelProgress):
                work.progress = said
                self._tell(said)
            elif isinstance(said, Failed):
                work.failed = said
            else:
                work.silent = True
        if work.stop_by is not None and time.monotonic() > work.stop_by:
            work.process.kill()
        if work.silent and work.process.poll() is not None:
            self._end(work)
            self._start_next()
            self._tell(self.models())

    def stop(self, seconds: float) -> None:
        """Ends what is being done, by force if it takes longer than `seconds`; what waits is dropped."""
        self._waiting.clear()
        if self._work is None:
            return
        self._work.stop()
        process = self._work.process
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._work = None

    def _start_next(self) -> None:
        if self._work is not None or not self._waiting:
            return
        order = self._waiting.popleft()
        process = subprocess.Popen(
            [sys.executable, "-m", self._installer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already; `look_after` will see
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        self._work = _Work(order, process)
        threading.Thread(target=self._work.listen, name="installer", daemon=True).start()

    def _end(self, work: _Work) -> None:
        self._work = None
        wanted = work.stop_by is not None
        work.stop()  # closes its standard input
        if work.process.returncode == 0 or wanted:
            return
        crashed = TurnaroundError(
            "weights.crashed",
            "The work on these weights ended unexpectedly.",
            "Try again; the computer may have run out of memory.",
            details=f"exit code {work.process.returncode}",
        )
        failed = work.failed or crashed.failed()
        self._failed[work.order.name] = msgspec.structs.replace(failed, details=failed.details[:MAX_DETAILS])

    def _info(self, entry: WeightsEntry) -> ModelInfo:
        return ModelInfo(
            name=entry.name,
            title=entry.title,
            pipeline=entry.pipeline,
            licence=entry.licence,
            licence_page="" if not entry.source or "://" in entry.source else licence_page(entry),
            source=(urlsplit(licence_page(entry)).hostname or "") if entry.source else "",
            commercial=entry.commercial,
            needs_acceptance=entry.needs_acceptance,
            size_gb=entry.size_gb,
            memory_gb=entry.memory_gb,
            note=entry.note,
            shipped=entry.shipped,
            state=self._state(entry),
            failed=self._failed.get(entry.name),
        )

    def _state(self, entry: WeightsEntry) -> Literal["absent", "waiting", "working", "present"]:
        if self._work is not None and self._work.order.name == entry.name:
            return "working"
        if any(order.name == entry.name for order in self._waiting):
            return "waiting"
        return "present" if is_present(entry) else "absent"
