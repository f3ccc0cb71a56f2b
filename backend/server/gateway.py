"""The door of a backend: one encrypted socket for clients, and the loop that joins it to jobs and workers.

It never runs a model and never imports torch. What strangers send does not get past ZeroMQ's CURVE handshake; what
known clients send is bounded, decoded, validated, and answered, or dropped and counted.
"""

from __future__ import annotations

import ipaddress
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import zmq

from backend.server.engine import LocalEngine
from backend.server.installs import INSTALLER, Installs
from backend.server.jobs import Jobs, Offers
from backend.server.journal import Journal
from backend.server.peers import Peer, Peers
from backend.server.zap import Authenticator, protect
from protocol.connection import version_error
from protocol.directions import ClientMessage
from protocol.errors import TurnaroundError
from protocol.framing import MAX_FRAME, FieldError, ProtocolError, decode_header, encode, join
from protocol.messages import (
    PROTOCOL_VERSION,
    Attach,
    Cancel,
    FreeMemory,
    Hello,
    Imagine,
    JobList,
    Keep,
    Message,
    Ping,
    Pong,
    Shutdown,
    Submit,
    Welcome,
)
from protocol.messages import Jobs as JobsQuestion
from protocol.models import CancelModel, ImportModel, ModelOrder, ModelProgress, Models
from protocol.security import allowed_clients, home, server_keys

DOMAIN = "clients"
TICK_RUNNING, TICK_IDLE, TICK_SENDING = 0.1, 0.5, 0.01
ALLOWED_SECONDS = 5.0
"""How long the list of allowed keys is remembered while the folder does not change."""


def backend_version() -> str:
    """Version of this distribution."""
    try:
        return version("turnaround")
    except PackageNotFoundError:
        return "unknown"


@dataclass
class Counts:
    """What was turned away."""

    malformed: int = 0
    ungreeted: int = 0


class Gateway:
    """A bound socket and its loop.

    Args:
        context: of all sockets.
        journal: opened.
        make_engine: makes the engine in `context`.
        host: address to listen on.
        port: 0 takes any that is free.
        installer: see `Installs`.

    Raises:
        TurnaroundError: `port.taken`, or what `security.load` says.
    """

    def __init__(
        self,
        context: zmq.Context,
        journal: Journal,
        make_engine: Callable[[zmq.Context], LocalEngine],
        host: str,
        port: int,
        installer: str = INSTALLER,
    ) -> None:
        keys = server_keys()
        self._allowed: tuple[float, int, set[str]] = (0.0, 0, set())
        domains: dict[str, Callable[[str], bool]] = {DOMAIN: self._is_client, "workers": self._is_worker}
        self._zap = Authenticator(context, domains)
        self._engine = make_engine(context)
        self._socket = context.socket(zmq.ROUTER)
        protect(self._socket, DOMAIN, keys.public, keys.secret)
        for option, value in (
            (zmq.MAXMSGSIZE, MAX_FRAME),
            (zmq.RCVHWM, 8),
            (zmq.SNDHWM, 64),
            (zmq.HANDSHAKE_IVL, 5000),
            (zmq.HEARTBEAT_IVL, 2000),
            (zmq.HEARTBEAT_TIMEOUT, 15_000),
            (zmq.BACKLOG, 64),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.LINGER, 1000),
            (zmq.IPV6, int(":" in host)),
        ):
            self._socket.setsockopt(option, value)
        self.port = _bind(self._socket, host, port)
        self.counts = Counts()
        self.stopping = ""
        self._journal = journal
        self._peers = Peers(self._socket)
        self._jobs = Jobs(journal, self._engine, self._peers)
        self._installs = Installs(self._tell_of_models, installer)
        self._tried = False  # a worker has started, or has ended before it could: clients can be answered
        self._greeting: list[Peer] = []
        self._freeing: list[Peer] = []
        self._told: list[str] = []

    def run(self, is_over: Callable[[], str]) -> None:
        """Serves until `stopping` is set or `is_over` gives a reason, then ends the workers.

        Args:
            is_over: asked at each turn of the loop.
        """
        self._engine.start()
        poller = zmq.Poller()
        for socket in (self._zap.socket, self._engine.socket, self._socket):
            poller.register(socket, zmq.POLLIN)
        while not self.stopping:
            sending = self._peers.flush()
            tick = TICK_SENDING if sending else TICK_RUNNING if self._jobs.running or self._installs.busy else TICK_IDLE
            poller.poll(int(tick * 1000))
            self._zap.answer()
            self._hear_workers()
            self._hear_clients()
            self._look_after()
            self.stopping = self.stopping or is_over()

    def close(self) -> None:
        """Cancels what runs, ends the workers, and tells clients as far as they listen."""
        self._jobs.stop()
        self._peers.flush()
        self._installs.stop(5.0)
        self._engine.stop(5.0)
        self._socket.close()
        self._zap.close()

    # ------------------------------------------------------------------------------------------------- clients

    def _hear_clients(self) -> None:
        for _ in range(64):  # so that a busy client does not keep the workers waiting
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            peer = self._peers.get(identity.bytes)
            message: Any = None
            try:
                message = decode_header([frame.buffer for frame in frames[:1]], ClientMessage)
                if isinstance(message, ImportModel):
                    _check_local(identity)
                self._answer(peer, message, [frame.buffer for frame in frames[1:]])
            except ProtocolError as error:
                self.counts.malformed += 1
                _log(f"dropped what is not a message: {error.details[:200]}")
            except FieldError as error:
                self._peers.send(peer, encode(error.failed(request=error.request)))
            except TurnaroundError as error:
                request, job = getattr(message, "request", None), getattr(message, "job", None)
                self._peers.send(peer, encode(error.failed(request=request, job=job)))
            except Exception as error:  # a mistake in here costs one message, never the backend
                _log(f"could not answer a {type(message).__name__}: {type(error).__name__}: {error}")
                failed = TurnaroundError(
                    "backend.error", "The backend made a mistake.", "Report it.", details=repr(error)
                )
                self._peers.send(peer, encode(failed.failed(request=getattr(message, "request", None))))

    def _answer(self, peer: Peer, message: Any, frames: list[Any]) -> None:
        if not isinstance(message, Submit):
            join(message.arrays, frames, max_bytes=0)
        if isinstance(message, Hello):
            self._greet(peer, message)
        elif not peer.greeted:
            self.counts.ungreeted += 1
        elif isinstance(message, (Submit, Imagine)):
            offers = self._offers()
            if not offers.pipelines and not offers.painters:
                raise TurnaroundError(
                    "worker.missing",
                    "The backend's worker does not start.",
                    "See the backend's log, or run turnaround doctor.",
                )
            self._jobs.submit(peer, message, frames, offers)
        elif isinstance(message, Cancel):
            self._jobs.cancel(message.job)
        elif isinstance(message, Keep):
            self._jobs.keep(message.job)
        elif isinstance(message, Attach):
            self._jobs.attach(peer, message.job, message.last_seen)
        elif isinstance(message, JobsQuestion):
            self._peers.send(peer, encode(JobList(jobs=self._journal.summaries())))
        elif isinstance(message, Ping):
            self._peers.send(peer, encode(self._pong()))
        elif isinstance(message, FreeMemory):
            self._free(peer)
        elif isinstance(message, Models):
            peer.watches = True
            self._peers.send(peer, encode(self._installs.models()))
        elif isinstance(message, ModelOrder):
            self._installs.ask(message)
        elif isinstance(message, CancelModel):
            self._installs.cancel(message.name)
        elif isinstance(message, Shutdown):
            self.stopping = "a client asked for it"

    def _greet(self, peer: Peer, message: Hello) -> None:
        if message.protocol != PROTOCOL_VERSION:
            theirs = version_error(PROTOCOL_VERSION, backend_version())
            sentence = (
                f"The backend ({backend_version()}) speaks version {PROTOCOL_VERSION} of the protocol,"
                f" this program version {message.protocol}."
            )
            hint = (
                "Update this program to the backend's version."
                if message.protocol < PROTOCOL_VERSION
                else "Update the backend, then start it again."
            )
            self._peers.send(peer, encode(TurnaroundError(theirs.code, sentence, hint).failed()))
        elif self._tried:
            peer.greeted = True
            self._peers.send(peer, encode(self._welcome()))
        else:
            self._greeting.append(peer)

    def _free(self, peer: Peer) -> None:
        for slot in self._engine.slots:
            self._engine.send(slot, FreeMemory())
        if self._jobs.running:
            self._peers.send(peer, encode(self._pong()))
        else:
            self._freeing.append(peer)

    def _tell_of_models(self, message: Message) -> None:
        frames = encode(message)
        for peer in self._peers.watching():
            if not (peer.waiting and isinstance(message, ModelProgress)):  # a slow one can do without
                self._peers.send(peer, frames)

    def _welcome(self) -> Welcome:
        devices = tuple(slot.info for slot in self._engine.slots if slot.info is not None)
        offers = self._offers()
        return Welcome(
            protocol=PROTOCOL_VERSION,
            version=backend_version(),
            devices=devices,
            pipelines=tuple(offers.pipelines.values()),
            painters=tuple(offers.painters.values()),
        )

    def _pong(self) -> Pong:
        devices = tuple(slot.info for slot in self._engine.slots if slot.info is not None)
        return Pong(devices=devices, running=len(self._jobs.running), queued=len(self._jobs.queue))

    def _offers(self) -> Offers:
        slots = self._engine.slots
        return Offers(
            {info.name: info for slot in slots for info in slot.pipelines},
            {info.name: info for slot in slots for info in slot.painters},
        )

    # ------------------------------------------------------------------------------------------------- workers

    def _hear_workers(self) -> None:
        for said in self._engine.receive():
            try:
                if isinstance(said.message, Welcome):
                    self._on_worker_ready()
                elif isinstance(said.message, Pong):
                    self._on_worker_pong()
                else:
                    self._jobs.take(said)
            except Exception as error:  # as with clients
                _log(f"could not take a {type(said.message).__name__}: {type(error).__name__}: {error}")

    def _on_worker_ready(self) -> None:
        self._tried = True
        greeting, self._greeting = self._greeting, []
        for peer in greeting:
            peer.greeted = True
        for peer in self._peers.greeted():
            self._peers.send(peer, encode(self._welcome()))
        self._jobs.schedule()

    def _on_worker_pong(self) -> None:
        names = [slot.info.name for slot in self._engine.slots if slot.info is not None]
        if names != self._told:
            self._told = names
            if self._tried:  # who was greeted before is told; the others wait until the worker says what it offers
                self._on_worker_ready()
        freeing, self._freeing = self._freeing, []
        for peer in freeing:
            self._peers.send(peer, encode(self._pong()))

    def _look_after(self) -> None:
        for _slot, job, how in self._engine.look_after():
            _log(f"a worker ended ({how})")
            if job:
                self._jobs.lost(job, how)
            if not self._tried:
                self._on_worker_ready()
        self._jobs.look_after()
        self._installs.look_after()

    # ------------------------------------------------------------------------------------------ authentication

    def _is_worker(self, key: str) -> bool:
        return self._engine.allows(key)

    def _is_client(self, key: str) -> bool:
        """Reads the keys when one came or went, and now and then; not each time that a stranger knocks."""
        changed = (home() / "clients").stat().st_mtime_ns
        read, at, keys = self._allowed
        if changed != at or time.monotonic() - read > ALLOWED_SECONDS:
            keys = allowed_clients()
            self._allowed = (time.monotonic(), changed, keys)
        return key in keys


def _bind(socket: zmq.Socket, host: str, port: int) -> int:
    host = "127.0.0.1" if host == "localhost" else host  # ZeroMQ takes only addresses here
    address = f"[{host}]" if ":" in host else host
    try:
        socket.bind(f"tcp://{address}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == zmq.EADDRINUSE:
            raise TurnaroundError(
                "port.taken",
                f"Port {port} is taken by another program.",
                "Choose another port, or 0 for any that is free.",
                field="port",
            ) from None
        raise TurnaroundError(
            "host.unknown",
            f'The backend cannot listen on "{host}".',
            "Use 127.0.0.1, or an address of this machine.",
            field="host",
            details=str(error),
        ) from None
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def _check_local(frame: zmq.Frame) -> None:
    """Raises unless a frame came from this machine: only there does a path mean what the artist means by it."""
    address = ipaddress.ip_address(str(frame.get("Peer-Address")).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_loopback:
        raise TurnaroundError(
            "weights.elsewhere",
            "A file can only be imported on the computer where the backend runs.",
            'Use "turnaround models import" there.',
        )


def _log(line: str) -> None:
    print(f"gateway: {line}", file=sys.stderr, flush=True)
