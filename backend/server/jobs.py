"""What happens to a job: accepted, queued, run, retried once after a crash, ended; and who is told of it."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from backend.server.engine import FromWorker, LocalEngine, Slot
from backend.server.estimate import Stopwatch, kind_of_work
from backend.server.journal import Journal, Record
from backend.server.peers import Peer, Peers
from protocol.errors import TurnaroundError
from protocol.framing import Arrays, Buffer, encode, join
from protocol.messages import (
    Accepted,
    Cancel,
    Cancelled,
    Event,
    Failed,
    Imagine,
    Imagined,
    Keep,
    PainterInfo,
    PipelineInfo,
    Result,
    Submit,
)
from protocol.validation import check_extras, check_imagine, check_picture, check_subject, check_submit, extra_names

MAX_QUEUED = 256
MAX_ATTEMPTS = 2
CANCEL_SECONDS = 30.0
"""A job that has not stopped so long after it was told to loses its worker."""


class Offers(NamedTuple):
    """What can be asked for, by name."""

    pipelines: Mapping[str, PipelineInfo]
    painters: Mapping[str, PainterInfo]


@dataclass
class Running:
    """A job that a worker has.

    Attributes:
        preview: frames of the last event with arrays, and its number, for who attaches in the middle.
        told_to_stop: when, or None.
        failure: what went wrong in the gateway; the job ends with it once the worker has stopped.
    """

    slot: Slot
    work: str
    stopwatch: Stopwatch
    preview: tuple[int, list[Buffer]] | None = None
    told_to_stop: float | None = None
    failure: TurnaroundError | None = None


class Jobs:
    """The queue, over the journal, the engine and the peers.

    Jobs that were running when an earlier backend was killed are run once more, first of all.
    """

    def __init__(self, journal: Journal, engine: LocalEngine, peers: Peers) -> None:
        self._journal, self._engine, self._peers = journal, engine, peers
        self.running: dict[str, Running] = {}
        self._numbers: dict[str, int] = {}
        self.queue: deque[str] = deque()
        for record in journal.in_state("running"):
            self._give_back(record, "backend.restarted", "The backend was stopped in the middle of this job.", "")
        self.queue.extend(r.job for r in journal.in_state("queued") if r.job not in self.queue)

    # --------------------------------------------------------------------------------------- what clients ask

    def submit(self, peer: Peer, message: Submit | Imagine, frames: list[Buffer], offers: Offers) -> None:
        """Accepts a job; the same request again is the same job.

        Raises:
            TurnaroundError: it cannot be done, with the field.
            ProtocolError: its frames are not what it says.
        """
        known = self._journal.by_request(message.request)
        if known is None:
            arrays = join(message.arrays, frames)
            if isinstance(message, Submit):
                check_submit(message, arrays, offers.pipelines)
                arrays = self._arrays(message, arrays)
            else:
                message = check_imagine(message, offers.painters)
            if len(self.queue) >= MAX_QUEUED:
                raise TurnaroundError("queue.full", "Too many jobs are waiting.", "Wait for some, or cancel them.")
            job = uuid.uuid4().hex
            self._journal.prune()
            self._journal.add(job, message, arrays)
            self.queue.append(job)
        else:
            job = known.job
        position = self.queue.index(job) + (1 if self._engine.idle() is None else 0) if job in self.queue else 0
        self._peers.send(peer, encode(Accepted(request=message.request, job=job, queue_position=position)))
        if known is not None:
            self.attach(peer, job, 0)
            return
        peer.follows.add(job)
        self._event(job, "Waiting", queue_position=position)
        self.schedule()

    def attach(self, peer: Peer, job: str, last_seen: int) -> None:
        """Sends what a client has missed, and from then on what comes.

        Raises:
            TurnaroundError: `job.unknown`.
        """
        record = self._known(job)
        running = self.running.get(job)
        for body in self._journal.events(job, last_seen):
            frames: list[Buffer] = [body]
            if running and running.preview and msgspec.msgpack.decode(body, type=Event).number == running.preview[0]:
                frames = running.preview[1]
            self._peers.send(peer, frames)
        for index in self._journal.result_indices(job):
            self._send_result(peer, job, index)
        if record.outcome is not None:
            self._peers.send(peer, [record.outcome])
        if record.state in ("queued", "running"):
            peer.follows.add(job)

    def cancel(self, job: str) -> None:
        """Stops a job; one that has ended stays as it is. Raises like `attach`."""
        self._known(job)
        if job in self.running:
            running = self.running[job]
            running.told_to_stop = running.told_to_stop or time.monotonic()
            self._engine.send(running.slot, Cancel(job=job))
        elif job in self.queue:
            self.queue.remove(job)
            self._end(job, Cancelled(job=job))
            self._tell_positions()

    def keep(self, job: str) -> None:
        """Passes *Keep This One* on. Raises like `attach`."""
        self._known(job)
        if job in self.running:
            self._engine.send(self.running[job].slot, Keep(job=job))

    # ---------------------------------------------------------------------------------------- what workers say

    def take(self, said: FromWorker) -> None:
        """Takes note of what a worker said of its job and passes it on."""
        message = said.message
        job = getattr(message, "job", None)
        if job is None or said.slot.job != job:
            return
        if isinstance(message, Event):
            self._on_event(message, said.frames)
        elif isinstance(message, (Result, Imagined)):
            self._on_result(message, said.frames)
        elif isinstance(message, (Failed, Cancelled)):
            running = self._release(job)
            self._end(job, running.failure.failed() if running and running.failure else message)
            self.schedule()

    def lost(self, job: str, how: str) -> None:
        """A worker has ended with a job: it is run once more, unless that was its second time or it was to stop."""
        running = self._release(job)
        record = self._journal.get(job)
        if record is None:
            return
        if running is not None and running.told_to_stop is not None:
            self._end(job, Cancelled(job=job))
        else:
            self._give_back(record, "worker.crashed", "The backend's worker stopped in the middle of this job.", how)
        self.schedule()

    # ------------------------------------------------------------------------------------------------ the queue

    def schedule(self) -> None:
        """Gives queued jobs to idle workers."""
        started = False
        while self.queue and (slot := self._engine.idle()) is not None:
            started = True
            self._start(self.queue.popleft(), slot)
        if started:
            self._tell_positions()

    def look_after(self) -> None:
        """Ends the workers whose jobs do not stop."""
        for running in self.running.values():
            if running.told_to_stop is not None and time.monotonic() - running.told_to_stop > CANCEL_SECONDS:
                self._engine.kill(running.slot)

    def stop(self) -> None:
        """Cancels what runs; what is queued stays for the next backend."""
        for job in list(self.running):
            self._release(job)
            self._end(job, Cancelled(job=job))

    def _start(self, job: str, slot: Slot) -> None:
        record = self._journal.get(job)
        if record is None:
            return
        asked = record.message
        try:
            frames = self._journal.work_frames(record)
        except TurnaroundError as error:
            self._end(job, error.failed(job=job))
            return
        asked = msgspec.structs.replace(asked, request=job)
        if isinstance(asked, Submit):
            asked = msgspec.structs.replace(asked, picture_of=None)
        frames[0] = msgspec.msgpack.encode(asked)
        self._journal.set_state(job, "running")
        work = kind_of_work(asked, slot.info)
        variants = asked.settings.variants if isinstance(asked, Submit) else 1
        self.running[job] = Running(slot, work, Stopwatch(variants, self._journal.timings(work)))
        slot.job = job
        self._event(job, "Starting")
        if not self._engine.send_frames(slot, frames):
            self._engine.kill(slot)  # it has gone, or is stuck; either way `lost` gives the job to the next

    def _give_back(self, record: Record, code: str, sentence: str, details: str) -> None:
        if record.attempts < MAX_ATTEMPTS:
            self._journal.set_state(record.job, "queued")
            self.queue.appendleft(record.job)
            self._event(record.job, "Starting Again")
            return
        hint = "Try again with a lower Mesh Resolution; if it stops again, copy the details and report them."
        self._end(record.job, TurnaroundError(code, sentence, hint, details=details).failed(job=record.job))

    def _release(self, job: str) -> Running | None:
        running = self.running.pop(job, None)
        if running is not None and running.slot.job == job:
            running.slot.job = ""
        return running

    # ------------------------------------------------------------------------------------------------- telling

    def _on_event(self, event: Event, frames: list[bytes]) -> None:
        running = self.running[event.job]
        number = self._number(event.job)
        remaining = running.stopwatch.update(event)
        event = msgspec.structs.replace(event, number=number, remaining_seconds=remaining)
        full: list[Buffer] = [msgspec.msgpack.encode(event), *frames[1:]]
        bare: list[Buffer] = encode(event)
        self._journal.add_event(event.job, number, bare[0])
        if len(frames) > 1:
            running.preview = (number, full)
        for peer in self._peers.following(event.job):
            self._peers.send(peer, full, bare=bare)

    def _on_result(self, message: Result | Imagined, frames: list[bytes]) -> None:
        job, running = message.job, self.running[message.job]
        if running.failure is None:
            try:
                self._journal.add_result(job, message.index, frames)
            except TurnaroundError as error:
                running.failure = error
                self._engine.send(running.slot, Cancel(job=job))
            else:
                for peer in self._peers.following(job):
                    self._send_result(peer, job, message.index)
        if message.index == message.count - 1:
            self._finish(job, running)

    def _finish(self, job: str, running: Running) -> None:
        self._release(job)
        if running.failure is not None:
            self._end(job, running.failure.failed())
        else:
            self._journal.add_timings(running.work, running.stopwatch.finish())
            self._journal.set_state(job, "done")
            self._let_go(job)
        self.schedule()

    def _end(self, job: str, outcome: Failed | Cancelled) -> None:
        outcome = msgspec.structs.replace(outcome, job=job, arrays=())
        frame = encode(outcome)
        self._journal.set_state(job, "failed" if isinstance(outcome, Failed) else "cancelled", frame[0])
        for peer in self._peers.following(job):
            self._peers.send(peer, frame)
        self._let_go(job)

    def _let_go(self, job: str) -> None:
        self._numbers.pop(job, None)
        for peer in self._peers.following(job):
            peer.follows.discard(job)

    def _event(self, job: str, stage: str, queue_position: int = 0) -> None:
        """An event of the queue's own."""
        event = Event(job=job, number=self._number(job), stage=stage, queue_position=queue_position)
        frames = encode(event)
        self._journal.add_event(job, event.number, frames[0])
        for peer in self._peers.following(job):
            self._peers.send(peer, frames)

    def _tell_positions(self) -> None:
        for position, job in enumerate(self.queue, start=1):
            self._event(job, "Waiting", queue_position=position)

    def _number(self, job: str) -> int:
        number = self._numbers.get(job) or self._journal.last_event(job)
        self._numbers[job] = number + 1
        return number + 1

    def _send_result(self, peer: Peer, job: str, index: int) -> None:
        """Queues a result, which is mapped from its file when its turn comes; forgotten by then, it is said to be."""

        def fetch() -> list[Buffer] | None:
            try:
                return self._journal.result_frames(job, index)
            except TurnaroundError as error:
                return encode(error.failed(job=job))

        self._peers.send(peer, fetch)

    # ------------------------------------------------------------------------------------------------- looking

    def _known(self, job: str) -> Record:
        record = self._journal.get(job)
        if record is None:
            raise TurnaroundError(
                "job.unknown", "The backend does not know this job any more.", "Generate it again.", field="job"
            )
        return record

    def _arrays(self, message: Submit, arrays: Arrays) -> Arrays:
        """The pictures to work from: those sent, over those of the job that `picture_of` names."""
        if message.picture_of is None:
            return arrays
        earlier = dict(self._journal.pictures(self._known(message.picture_of)))
        wanted = {"picture", "matte", *extra_names(message.settings)}
        together = {name: array for name, array in (earlier | arrays).items() if name in wanted}
        check_picture(together["picture"], together.get("matte"))
        check_subject(message.settings, together["picture"])
        check_extras(message.settings, together)
        return together
