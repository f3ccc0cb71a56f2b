"""Runs jobs in a backend that is already there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from backend.generators.text.base import Painting
from backend.geometry.mesh import Mesh
from backend.pipelines.stage import CancelledError
from protocol import connection
from protocol.client import Client
from protocol.connection import Address
from protocol.errors import TurnaroundError
from protocol.framing import Received
from protocol.messages import Cancelled, Event, Imagine, Imagined, PainterInfo, PipelineInfo, Result

from .console import Bar, cancel_on_interrupt
from .job import Job, Variant


class Remote:
    """The pipelines and painters of a running backend.

    Args:
        string: a connection string, or None for the backend of this machine.

    Raises:
        TurnaroundError: `connection.string`; `backend.none` and what else `local_address` says.
    """

    def __init__(self, string: str | None) -> None:
        if string is None:
            connection.local_address()  # says at once that none runs, where the client would wait for one to start
        address = connection.local_address if string is None else connection.parse(string)
        self._client = _Cancellable(address, name="turnaround generate")

    def info(self, name: str) -> PipelineInfo:
        """How the pipeline presents itself.

        Raises:
            TurnaroundError: `pipeline.unknown`, or why there is no connection.
        """
        offered = {info.name: info for info in self._client.connect().pipelines}
        if name not in offered:
            raise TurnaroundError(
                "pipeline.unknown",
                f'The backend has no engine called "{name}".',
                f"Choose one of: {', '.join(sorted(offered)) or 'it has none'}.",
                field="pipeline",
            )
        return offered[name]

    def run(self, job: Job, bar: Bar) -> Iterator[Variant]:
        """Yields the job's variants.

        Raises:
            TurnaroundError: the job failed or the backend was lost.
            CancelledError: Ctrl-C was pressed.
        """
        request = self._client.submit(job.pipeline, job.settings, job.picture, extra_pictures=job.extra_pictures)
        for received in self._follow(request, bar, several=job.settings.variants > 1):
            if isinstance(received.message, Result):
                yield _variant(received.message, received)

    def painters(self) -> dict[str, PainterInfo]:
        """How the painters present themselves, by name; raises why there is no connection."""
        return {info.name: info for info in self._client.connect().painters}

    def imagine(self, request: Imagine, bar: Bar) -> Painting:
        """The picture; raises like `run`."""
        followed = self._follow(self._client.imagine(request), bar)
        ((message, arrays),) = [(m, a) for m, a in followed if isinstance(m, Imagined)]
        return Painting(np.asarray(arrays["picture"], np.uint8), message.report)

    def _follow(self, request: str, bar: Bar, *, several: bool = False) -> Iterator[Received]:
        """All that comes for a job but its progress, which goes to the bar."""
        client = self._client
        with cancel_on_interrupt(client.interrupted):
            client.request = request
            for received in client.follow(request):
                message = received.message
                if isinstance(message, Event):
                    label = f"Variant {message.variant + 1}: " if several else ""
                    if message.queue_position:
                        label = f"Number {message.queue_position} in the queue: "
                    bar.update(message.stage, message.step, message.total, message.fraction, label)
                    bar.note(message.notes)
                elif isinstance(message, Cancelled):
                    raise CancelledError
                else:
                    yield received

    def close(self) -> None:
        """Ends the connection; an open one would keep the process from ending."""
        self._client.close()


class _Cancellable(Client):
    """A client that cancels its job when `interrupted` is set, which a signal's handler must not do itself."""

    def __init__(self, address: Address | Callable[[], Address], *, name: str) -> None:
        super().__init__(address, name=name)
        self.interrupted = threading.Event()
        self.request: str | None = None

    def wait(self, timeout: float) -> list[Received]:
        """As `Client.wait`, which `follow` calls again and again."""
        if self.interrupted.is_set() and self.request is not None:
            self.cancel(self.request)
            self.request = None
        return super().wait(timeout)


def _variant(message: Result, received: Received) -> Variant:
    arrays = received.arrays

    def array(name: str, shape: tuple[int, ...], dtype: type) -> NDArray:
        return np.asarray(arrays.get(name, np.zeros(shape, dtype)))

    mesh = Mesh(
        array("vertices", (0, 3), np.float32), array("faces", (0, 3), np.int32), array("colors", (0, 4), np.uint8)
    )
    views = array("views", (0, 1, 1, 4), np.uint8)
    cutout, splats = array("cutout", (1, 1, 4), np.uint8), arrays.get("splats")
    return Variant(mesh, views, cutout, message.view_cameras, message.report, splats)
