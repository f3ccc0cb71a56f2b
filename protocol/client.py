"""The one client: polled by Blender's timer, waited on by the command line and the tests.

`poll` never blocks and keeps to its time; it connects, greets, connects again with growing pauses, submits again what
was not yet accepted, and attaches again to the jobs that it follows. Large messages are sent and put together a few
megabytes at a call. There is no thread but a short one that looks at a port where no backend answers.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import zmq
from numpy.typing import NDArray
from zmq.utils.monitor import recv_monitor_message

from .connection import Address, dealer, unreachable, version_error
from .directions import BackendMessage
from .errors import TurnaroundError
from .followed import Followed
from .framing import Buffer, FieldError, Joining, ProtocolError, Received, decode_header, encode
from .messages import (
    PROTOCOL_VERSION,
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Event,
    Failed,
    FreeMemory,
    Hello,
    Imagine,
    Imagined,
    Jobs,
    Keep,
    Message,
    Ping,
    Result,
    Settings,
    Shutdown,
    Submit,
    Welcome,
)
from .probe import Probe
from .validation import extra_names

BUDGET = 0.008
"""Seconds that a `poll` may take, half of what Blender's main thread is allowed."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
PATIENCE = 30.0
WAITING = {"backend.none", "backend.unreachable", "backend.lost"}
"""Problems that go away by themselves when a backend starts."""


class Client:
    """A connection to a backend that looks after itself.

    Args:
        address: where the backend is, or a function that says so at each attempt, e.g. `connection.local_address`.
        name: what the backend's log calls this client.

    Attributes:
        welcome: the backend's greeting while connected, else None.
        problem: why there is no connection, else None; each attempt sets it anew.
        followed: the jobs by request id.
        malformed: messages dropped because they could not be read.
    """

    def __init__(self, address: Address | Callable[[], Address], *, name: str = "") -> None:
        self._find: Callable[[], Address] = address if callable(address) else lambda: address
        self._name = name
        self.welcome: Welcome | None = None
        self.problem: TurnaroundError | None = None
        self.followed: dict[str, Followed] = {}
        self.malformed = 0
        self._context = zmq.Context()
        self._socket: zmq.Socket | None = None
        self._monitor: zmq.Socket | None = None
        self._address: Address | None = None
        self._probe: Probe | None = None
        self._tcp = self._greeted = self._closed = False
        self._pause, self._retry_at = FIRST_PAUSE, 0.0
        self._outbox: deque[tuple[Buffer, int]] = deque()
        self._waiting: list[Message] = []
        self._joining: tuple[Any, Joining] | None = None
        self._going: TurnaroundError | None = None

    # ------------------------------------------------------------------------------------------------- asking

    @property
    def ready(self) -> bool:
        """Whether the backend has answered and can be asked."""
        return self.welcome is not None

    def submit(
        self,
        pipeline: str,
        settings: Settings,
        picture: NDArray[Any] | None = None,
        *,
        matte: NDArray[Any] | None = None,
        picture_of: str | None = None,
        extra_pictures: Sequence[NDArray[Any]] = (),
        label: str = "",
    ) -> str:
        """Asks for meshes; returns the request id. May be called before the connection stands.

        Args:
            pipeline: name of a pipeline that `welcome` lists.
            settings: what is asked.
            picture: uint8 [H, W, 4], straight-alpha sRGB, top row first; must stay unchanged.
            matte: uint8 [H, W].
            picture_of: job whose picture is meant instead.
            extra_pictures: as `picture`, one for each of `settings.extra_pictures`.
            label: for lists of jobs.
        """
        arrays = {name: a for name, a in (("picture", picture), ("matte", matte)) if a is not None}
        if extra_pictures:  # else those of the job that `picture_of` names
            arrays |= dict(zip(extra_names(settings), extra_pictures, strict=True))
        request = uuid.uuid4().hex
        message = Submit(
            request=request, pipeline=pipeline, settings=settings, label=label[:4096], picture_of=picture_of
        )
        return self._ask(message, arrays)

    def imagine(self, message: Imagine) -> str:
        """Asks for a picture from a text, as `submit` does for meshes; returns the message's own request id."""
        return self._ask(message, {})

    def attach(self, job: str, last_seen: int = 0) -> str:
        """Follows a job from an earlier connection; returns the id to follow it by."""
        self.followed[job] = Followed(job, job=job, last_seen=last_seen)
        if self.ready:
            self._send(Attach(job=job, last_seen=last_seen))
        return job

    def cancel(self, request: str) -> None:
        """Stops a job."""
        self._order(request, Cancel)

    def keep(self, request: str) -> None:
        """Ends a job's drawing and builds from what there is."""
        self._order(request, Keep)

    def jobs(self) -> None:
        """Asks for `JobList`."""
        self.send(Jobs())

    def ping(self) -> None:
        """Asks for `Pong`."""
        self.send(Ping())

    def free_memory(self) -> None:
        """Asks the backend to free what no job uses."""
        self.send(FreeMemory())

    def shutdown(self) -> None:
        """Asks the backend to stop; `poll` until `ready` is False before closing, or it may not hear."""
        self.send(Shutdown())

    def send(self, message: Message) -> None:
        """Sends a message without arrays, once connected."""
        if self.ready:
            self._send(message)
        elif len(self._waiting) < 64:
            self._waiting.append(message)

    # ----------------------------------------------------------------------------------------------- receiving

    def poll(self, budget: float = BUDGET) -> list[Received]:
        """What has arrived; returns at once, or after about `budget` seconds if there is much to do."""
        end = time.monotonic() + budget
        received: list[Received] = []
        if self._closed:
            return received
        self._look_after_connection()
        while self._socket is not None:
            worked = self._push() | self._pull(received)
            if not worked and self._going is not None:
                self._lost(self._going)
            if not worked or time.monotonic() >= end:
                break
        return received

    def wait(self, timeout: float) -> list[Received]:
        """What arrives within `timeout` seconds, as soon as there is something; blocks until then."""
        end = time.monotonic() + timeout
        while True:
            received = self.poll(0.05)
            left = end - time.monotonic()
            if received or left <= 0 or self._closed:
                return received
            self._sleep(min(left, 0.05))

    def connect(self, timeout: float = 10.0) -> Welcome:
        """Waits for the connection.

        Raises:
            TurnaroundError: why there is none; at once where waiting would not help.
        """
        end = time.monotonic() + timeout
        while not self.ready:
            self.poll(0.05)
            late = time.monotonic() >= end
            if self.problem is not None and (late or self.problem.code not in WAITING):
                raise self.problem
            if late:
                raise TurnaroundError("backend.silent", "The backend does not answer.", "Start it again.")
            self._sleep(0.02)
        assert self.welcome is not None
        return self.welcome

    def follow(self, request: str, patience: float = PATIENCE) -> Iterator[Received]:
        """Yields all that comes for one job until it ends; blocks in between. Messages of others are passed over.

        Raises:
            TurnaroundError: the job failed, or there has been no backend for `patience` seconds.
        """
        followed = self.followed[request]
        seen = time.monotonic()
        while True:
            for received in self.wait(0.25):
                message = received.message
                mine = getattr(message, "job", None) in (followed.job or "", request)
                if mine or getattr(message, "request", None) == request:
                    if isinstance(message, Failed):
                        raise TurnaroundError.from_failed(message)
                    yield received
            if followed.ended:
                return
            if self.ready:
                seen = time.monotonic()
            elif time.monotonic() - seen > patience or (self.problem and self.problem.code not in WAITING):
                raise self.problem or TurnaroundError("backend.silent", "The backend does not answer.")

    def close(self) -> None:
        """Ends the connection; jobs go on in the backend."""
        self._closed = True
        self._drop()
        self._context.term()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------- connection

    def _look_after_connection(self) -> None:
        if self._probe is not None and not self._probe.is_alive():
            self.problem, self._probe = self._probe.problem, None
        if self._socket is None:
            if self._probe is None and time.monotonic() >= self._retry_at:
                self._open()
            return
        while self._monitor is not None:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            except zmq.Again:
                return
            self._on_event(zmq.Event(event))

    def _open(self) -> None:
        try:
            address = self._find()
        except TurnaroundError as problem:
            self._lost(problem)
            return
        socket = dealer(self._context, address)
        self._address, self._socket, self._monitor = address, socket, socket.get_monitor_socket()
        self._tcp = self._greeted = False
        try:
            socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            self._lost(unreachable(address, str(error)))

    def _on_event(self, event: zmq.Event) -> None:
        assert self._address is not None
        if event == zmq.Event.CONNECTED:
            self._tcp = True
        elif event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self._greeted = True
            self._send(Hello(protocol=PROTOCOL_VERSION, client=self._name))
        elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            self._lost(
                TurnaroundError(
                    "keys.client",
                    "The backend does not know this program's key.",
                    "Copy the connection string from the backend again, or start the backend again.",
                )
            )
        elif event in (zmq.Event.DISCONNECTED, zmq.Event.CLOSED):
            if self._greeted:  # what arrived before is still there to be read
                self._going = TurnaroundError(
                    "backend.lost",
                    "The connection to the backend was lost.",
                    "Start the backend again if it has stopped; jobs go on where they were.",
                )
            elif self._tcp:
                # What a backend cannot answer with its key, and all foreign programs, end up here: see what it is.
                self._lost(self.problem if self.problem and self.problem.code not in WAITING else None)
                self._probe = Probe(self._address.host, self._address.port)
                self._probe.start()
            else:
                self._lost(unreachable(self._address))

    def _lost(self, problem: TurnaroundError | None) -> None:
        self._drop()
        self.problem = problem
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _drop(self) -> None:
        self.welcome = None
        self._joining = self._going = None
        self._outbox.clear()
        if self._socket is not None:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close(linger=0)
            self._socket.close(linger=0)
        self._socket = self._monitor = None

    def _sleep(self, seconds: float) -> None:
        if self._socket is None or self._outbox:
            time.sleep(min(seconds, 0.02))
            return
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        poller.poll(int(seconds * 1000))

    # ------------------------------------------------------------------------------------------------ messages

    def _ask(self, message: Submit | Imagine, arrays: dict[str, NDArray[Any]]) -> str:
        self.followed[message.request] = Followed(message.request, submission=(message, arrays))
        if self.ready:
            self._send(message, arrays)
        return message.request

    def _order(self, request: str, order: type[Cancel] | type[Keep]) -> None:
        followed = self.followed.get(request)
        if followed is None:
            self.send(order(job=request))
        elif followed.job is None:
            followed.orders.append(order)
        elif not followed.ended:
            self.send(order(job=followed.job))

    def _send(self, message: Message, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        frames = encode(message, arrays)
        last = len(frames) - 1
        self._outbox.extend((frame, zmq.SNDMORE if i < last else 0) for i, frame in enumerate(frames))
        self._push()

    def _push(self) -> bool:
        """Sends one frame; a copy of 4 MiB takes a millisecond, and spares pyzmq's thread for frames not copied."""
        if not self._outbox or self._socket is None:
            return False
        frame, more = self._outbox[0]
        try:
            self._socket.send(frame, zmq.NOBLOCK | more)
        except zmq.Again:
            return False
        self._outbox.popleft()
        return True

    def _pull(self, received: list[Received]) -> bool:
        """Receives a message, or puts one more frame of it in place."""
        assert self._socket is not None
        if self._joining is None:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            try:
                message = decode_header([frames[0].buffer], BackendMessage)
                self._joining = message, Joining(message.arrays, [frame.buffer for frame in frames[1:]])
            except (ProtocolError, FieldError):
                self._on_malformed(frames[0].buffer)
                return self._socket is not None
        message, joining = self._joining
        if joining.step():
            self._joining = None
            if self._on_message(message):
                received.append(Received(message, joining.arrays))
        return self._socket is not None

    def _on_malformed(self, header: memoryview) -> None:
        """Counts it, unless it is the greeting of another version."""
        self.malformed += 1
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            raw = msgspec.msgpack.decode(header)
            if isinstance(raw, dict) and raw.get("type") == "welcome" and isinstance(raw.get("protocol"), int):
                self._lost(version_error(raw["protocol"]))

    def _on_message(self, message: Any) -> bool:
        """Takes note of a message; False for one that was handed out before."""
        if isinstance(message, Welcome):
            self._on_welcome(message)
        elif isinstance(message, Failed) and message.code == "protocol.version":
            self._lost(TurnaroundError.from_failed(message))
        elif isinstance(message, (Accepted, Event, Result, Imagined, Failed, Cancelled)):
            news = [followed.take(message, self.send) for followed in self._followed(message)]
            return any(news) or not news
        return True

    def _on_welcome(self, message: Welcome) -> None:
        if message.protocol != PROTOCOL_VERSION:
            self._lost(version_error(message.protocol, message.version))
            return
        first, self.welcome, self.problem, self._pause = not self.ready, message, None, FIRST_PAUSE
        if not first:
            return
        for followed in self.followed.values():
            if followed.ended:
                continue
            if followed.job is not None:
                self._send(Attach(job=followed.job, last_seen=followed.last_seen))
            elif followed.submission is not None:
                self._send(*followed.submission)
        waiting, self._waiting = self._waiting, []
        for message_waiting in waiting:
            self._send(message_waiting)

    def _followed(self, message: Accepted | Event | Result | Imagined | Failed | Cancelled) -> list[Followed]:
        request, job = getattr(message, "request", None), message.job
        return [
            followed
            for followed in self.followed.values()
            if (job is not None and followed.job == job) or (request is not None and followed.request == request)
        ]
