"""The worker processes of this machine: started, given work, watched, and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zmq

from backend.server.worker import Config
from backend.server.zap import protect
from protocol.directions import BackendMessage
from protocol.framing import MAX_FRAME, Buffer, FieldError, ProtocolError, decode_header, encode
from protocol.messages import (
    DeviceInfo,
    Message,
    PainterInfo,
    PipelineInfo,
    Pong,
    Shutdown,
    Welcome,
)
from protocol.security import KeyPair

DOMAIN = "workers"
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0


@dataclass
class Slot:
    """The place of one worker process; the process in it changes.

    Attributes:
        device: as asked for.
        identity: of the process at hand; messages of earlier ones are not heard.
        job: what it runs, "" when idle.
        ready: it has connected and can be given work.
        info: its device, once it has said so.
    """

    device: str
    generation: int = 0
    identity: str = ""
    process: subprocess.Popen[bytes] | None = None
    job: str = ""
    ready: bool = False
    info: DeviceInfo | None = None
    pause: float = FIRST_PAUSE
    start_at: float = 0.0
    pipelines: tuple[PipelineInfo, ...] = ()
    painters: tuple[PainterInfo, ...] = ()


@dataclass(frozen=True)
class FromWorker:
    """A message of a worker: decoded frame 0, and all frames as they came."""

    slot: Slot
    message: Any
    frames: list[bytes]


class LocalEngine:
    """One worker process for each of `devices`, spoken to over an encrypted loopback socket that only they can join.

    Args:
        context: shared with the gateway, whose authenticator asks `allows`.
        devices: torch device strings or "auto".
        cache: folder of the stages' results.
        pipelines: see `worker.Config`.
        painters: see `worker.Config`.
        warm: see `worker.Config`.
    """

    def __init__(
        self,
        context: zmq.Context,
        devices: Sequence[str],
        cache: Path,
        pipelines: str = "",
        painters: str = "",
        warm: bool = True,
    ) -> None:
        self.slots = [Slot(device) for device in devices]
        self._cache, self._pipelines, self._painters, self._warm = cache, pipelines, painters, warm
        self._server, self._worker = (KeyPair(*(k.decode() for k in zmq.curve_keypair())) for _ in range(2))
        self.socket = context.socket(zmq.ROUTER)
        protect(self.socket, DOMAIN, self._server.public, self._server.secret)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.linger = 0
        self._endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def allows(self, key: str) -> bool:
        """Whether a public key is that of our workers."""
        return key == self._worker.public

    def start(self) -> None:
        """Starts all workers."""
        for slot in self.slots:
            self._start(slot)

    def receive(self) -> list[FromWorker]:
        """What the workers said; their greetings are taken note of on the way."""
        received: list[FromWorker] = []
        while True:
            try:
                identity, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return received
            name = identity.decode("ascii", "replace").rpartition(".")[0]
            slot = next((slot for slot in self.slots if slot.identity == name), None)
            try:
                message = decode_header(frames[:1], BackendMessage)
            except (ProtocolError, FieldError) as error:
                print(f"gateway: a worker sent nonsense: {error.details}", file=sys.stderr, flush=True)
                continue
            if slot is None:
                continue
            if isinstance(message, Welcome):
                slot.ready, slot.pipelines, slot.painters = True, message.pipelines, message.painters
            elif isinstance(message, Pong) and message.devices:
                slot.info, slot.pause = message.devices[0], FIRST_PAUSE
                self._add(message.devices[1:])
            received.append(FromWorker(slot, message, frames))

    def idle(self) -> Slot | None:
        """A worker that can be given a job."""
        return next((slot for slot in self.slots if slot.ready and not slot.job), None)

    def send(self, slot: Slot, message: Message) -> bool:
        """Sends a message without arrays; see `send_frames`."""
        return self.send_frames(slot, encode(message))

    def send_frames(self, slot: Slot, frames: Sequence[Buffer]) -> bool:
        """Sends frames to a worker; False if it is not there."""
        try:
            self.socket.send_multipart([f"{slot.identity}.in".encode(), *frames], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:
            return False
        return True

    def look_after(self) -> list[tuple[Slot, str, str]]:
        """Starts workers that have ended again, after a pause that grows while they fail at once.

        Returns:
            For each that was found ended: its slot, the job that it had ("" for none), and how it ended.
        """
        ended = []
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is not None:
                how = f"exit code {slot.process.returncode}"
                ended.append((slot, slot.job, how))
                self._forget(slot)
                slot.start_at = time.monotonic() + slot.pause
                slot.pause = min(slot.pause * 2, LONGEST_PAUSE)
            elif slot.process is None and time.monotonic() >= slot.start_at:
                self._start(slot)
        return ended

    def kill(self, slot: Slot) -> None:
        """Ends a worker that does not listen; `look_after` finds it."""
        if slot.process is not None:
            slot.process.kill()

    def stop(self, seconds: float) -> None:
        """Ends all workers, those that are not done after `seconds` by force."""
        for slot in self.slots:
            self.send(slot, Shutdown())
        end = time.monotonic() + seconds
        for slot in self.slots:
            if slot.process is None:
                continue
            try:
                slot.process.wait(max(0.0, end - time.monotonic()) if slot.ready else 0.1)
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
            self._forget(slot)
        self.socket.close()

    def _add(self, others: Sequence[DeviceInfo]) -> None:
        """Starts a worker for each further GPU that the first, asked for "auto", has found."""
        if others and len(self.slots) == 1:
            self.slots += [Slot(f"cuda:{number}") for number, _ in enumerate(others, start=1)]

    def _start(self, slot: Slot) -> None:
        slot.generation += 1
        slot.identity = f"{self.slots.index(slot)}-{slot.generation}"
        config = Config(
            endpoint=self._endpoint,
            identity=slot.identity,
            server_key=self._server.public,
            public=self._worker.public,
            secret=self._worker.secret,
            device=slot.device,
            cache=str(self._cache),
            pipelines=self._pipelines,
            painters=self._painters,
            warm=self._warm,
        )
        slot.process = subprocess.Popen(
            [sys.executable, "-m", "backend.server.worker"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert slot.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already; `look_after` will see
            slot.process.stdin.write(msgspec.json.encode(config) + b"\n")
            slot.process.stdin.flush()

    def _forget(self, slot: Slot) -> None:
        if slot.process is not None and slot.process.stdin is not None:
            with contextlib.suppress(OSError):
                slot.process.stdin.close()
        slot.process, slot.ready, slot.job, slot.identity = None, False, "", ""
