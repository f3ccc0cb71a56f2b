"""The one connection to the backend, and the one timer that everything slow comes through.

`Session.tick` is a plain function: Blender's timer calls it, and so do tests, because timers never fire without a
window. Nothing here runs in a thread, and nothing waits.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from pathlib import Path

import bpy

from . import delivery, engines, painters, pending, screen
from .installation import Installation
from .jobs import Job, with_its_picture
from .link import Link, State
from .models import Models
from .protocol.client import Client
from .protocol.errors import TurnaroundError
from .protocol.messages import Accepted, Cancel, Cancelled, Event, Failed, Imagined, Result, Welcome
from .protocol.models import ModelList, ModelProgress
from .scene import cutouts, preview
from .settings import own_folder

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.05
REDRAW_SECONDS = 0.2
"""A panel that is drawn again more often shows no more, and may lose a quick click."""
STARTING_SECONDS = 0.25
IDLE_SECONDS = 1.0
PING_SECONDS = 10.0
TICK_BUDGET = 0.008
"""Messages that would take a tick beyond this wait for the next one; a screen's frame is 0.016."""
FORGOTTEN = {"job.unknown", "job.forgotten"}
"""Codes with which a backend says that it no longer has the picture of an earlier job."""


class Session:
    """What the add-on knows about the backend and the job that runs there.

    Attributes:
        link: the connection, and the process behind it if this Blender started it.
        job: the one that runs, or None.
        problem: what went wrong last, until it is dismissed or the next job begins.
        installation: the backend being set up, or None.
        left_over: a job that an earlier Blender waited for when it went, or None.
        models: the weights on the backend's computer.
    """

    def __init__(self) -> None:
        self.link = Link()
        self.job: Job | None = None
        self.problem: TurnaroundError | None = None
        self.installation: Installation | None = None
        self.left_over = pending.take_left_over(own_folder())
        self.models = Models(self.link)
        self._inbox: deque = deque()
        self._drawn: tuple = ()
        self._last_ping = 0.0
        self._next_redraw = 0.0

    # ------------------------------------------------------------------------------------------ what panels show

    @property
    def ready(self) -> bool:
        """Whether the backend has answered."""
        return self.link.state is State.READY

    def needs_set_up(self) -> bool:
        """Whether there is no backend, and nothing known that could start one."""
        return self.link.needs_set_up()

    def details(self, problem: TurnaroundError | None = None) -> str:
        """All that is known of a problem, the session's if none is given, to be pasted into a report."""
        problem = problem or self.problem
        if problem is None:
            return ""
        version = ".".join(map(str, bpy.app.version))
        lines = [
            f"{problem.code}: {problem.sentence}",
            problem.hint,
            f"Field: {problem.field}" if problem.field else "",
        ]
        lines += [f"Blender {version}, backend {self.link.version or 'unknown'}", "", problem.details]
        return "\n".join(lines).strip()

    # --------------------------------------------------------------------------------------------- what is asked for

    def begin(self, job: Job) -> None:
        """Takes on a job: it goes out as soon as the backend answers, which is started if it has to be.

        Raises:
            TurnaroundError: one runs already, or no backend can be reached; see `Link.open`.
        """
        if self.job is not None:
            raise TurnaroundError("job.running", "A job is running.", "Wait for its end, or cancel it.")
        self.dismiss()
        self._submit(job, self.link.open())
        self.redraw()

    def fetch_left_over(self) -> None:
        """Goes on with the job that an earlier Blender left; raises like `begin`."""
        job, self.left_over = self.left_over, None
        if job is not None and self.job is None:
            self.dismiss()
            job.request = self.link.open().attach(job.id)
            self.job = job
            pending.remember(own_folder(create=True), job)
        self.redraw()

    def forget_left_over(self) -> None:
        """Gives it up."""
        self.left_over = None
        self.redraw()

    def open(self) -> None:
        """Connects to the backend, and starts it if there is none; raises like `Link.open`."""
        self.link.open()
        self.redraw()

    def stop(self) -> None:
        """Stops the backend and gives up the job that runs there."""
        self._end_job()
        self.link.stop()
        self.redraw()

    def reset(self) -> None:
        """Starts anew with the backend that the preferences name now."""
        self._end_job()
        self.dismiss()
        self.link.reset()
        self.models = Models(self.link)

    def install(self, source: str, folder: Path) -> None:
        """Begins to set up the backend; what comes of it shows by the timer."""
        self.dismiss()
        self.installation = Installation(source, folder)
        self.redraw()

    def cancel_installation(self) -> None:
        """Stops setting up."""
        if self.installation is not None:
            self.installation.cancel()
            self.installation = None
        self.redraw()

    def free_memory(self) -> None:
        """Asks the backend to drop what no job needs."""
        if self.link.client is not None:
            self.link.client.free_memory()

    def cancel(self) -> None:
        """Stops the job; one that has not reached the backend, or cannot, is given up at once."""
        job, client = self.job, self.link.client
        if job is None:
            return
        if client is not None and client.ready:
            job.cancelling = True
            client.cancel(job.request)
        else:
            if client is not None and job.id:
                client.send(Cancel(job=job.id))  # reaches the backend when it is back
            self._end_job()
        self.redraw()

    def keep(self) -> None:
        """Ends the drawing now: *Keep This One*."""
        if self.job is not None and self.link.client is not None:
            self.job.keeping = True
            self.link.client.keep(self.job.request)

    def fail(self, error: TurnaroundError) -> None:
        """Shows what went wrong."""
        self.problem = error
        log.warning("%s: %s", error.code, error)
        self.redraw()

    def dismiss(self) -> None:
        """Hides what went wrong."""
        self.problem = None
        self.redraw()

    def close(self) -> None:
        """Lets go of everything, for good; a job that goes on elsewhere can be fetched by the next Blender."""
        self.cancel_installation()
        if self.job is not None and self.link.ends_with_blender():
            pending.forget(own_folder())
        preview.clear()
        self.link.close()

    # -------------------------------------------------------------------------------------------------------- the tick

    def tick(self) -> float:
        """Does what has become possible since the last call; returns the seconds until the next."""
        try:
            self._advance()
        except TurnaroundError as error:
            self._lose_job(error)
        except Exception as error:  # a timer that raises is dropped by Blender, and everything would stand still
            details = traceback.format_exc()
            log.exception("tick")
            sentence = f"Something unforeseen happened in Blender: {type(error).__name__}."
            self._lose_job(TurnaroundError("addon.unforeseen", sentence, "Copy Details says where.", details=details))
        if self.job is None or time.monotonic() >= self._next_redraw:
            self.redraw()
        if self.job is not None:
            return BUSY_SECONDS
        if self.installation is not None or self.models.busy:
            return STARTING_SECONDS
        return IDLE_SECONDS if self.link.state in {State.OFF, State.READY} else STARTING_SECONDS

    def _advance(self) -> None:
        deadline = time.perf_counter() + TICK_BUDGET
        if self.installation is not None:
            self._install_on()
        self._inbox.extend(self.link.poll())
        job, client = self.job, self.link.client
        if job is not None:
            job.connected = client is not None and client.ready
            if not job.connected and self.link.is_gone():
                raise TurnaroundError(
                    "backend.lost", "The backend stopped in the middle of the job.", "Start it, and generate again."
                )
        seen: dict = {}
        while self._inbox and time.perf_counter() < deadline:
            message, arrays = self._inbox[0]
            finished = self.job if isinstance(message, (Result, Imagined)) and self._is_ours(message.job) else None
            if finished is not None and delivery.must_wait(finished):
                break
            self._inbox.popleft()
            if isinstance(message, Event) and arrays and self._is_ours(message.job):
                seen = preview.merged(seen, arrays)
            self._receive(message, arrays)
            if finished is not None:
                seen = {}
                break  # one result a tick
        if seen and self.job is not None:
            delivery.show_preview(self.job, seen)
        pause = PING_SECONDS if self.link.devices else IDLE_SECONDS
        if client is not None and client.ready and time.monotonic() - self._last_ping > pause:
            self._last_ping = time.monotonic()
            client.ping()

    def _install_on(self) -> None:
        assert self.installation is not None
        try:
            done = self.installation.poll()
        except TurnaroundError:
            self.installation = None
            raise
        if done:
            self.installation = None
            self.link.open()

    def _receive(self, message: object, arrays: dict) -> None:
        job = self.job
        match message:
            case Welcome():
                engines.offer(message.pipelines)
                painters.offer(message.painters)
                self.models.ask()
            case ModelList() | ModelProgress():
                self.models.take(message)
            case Accepted() if job is not None and message.request == job.request:
                job.id, job.queue_position = message.job, message.queue_position
                pending.remember(own_folder(create=True), job)
            case Event() if job is not None and message.job == job.id:
                job.hear(message)
            case Result() if job is not None and message.job == job.id:
                self._take(job, message, arrays)
            case Imagined() if job is not None and message.job == job.id:
                self._go_on(job, message, arrays)
            case Cancelled() if self._is_ours(message.job):
                self._end_job()
            case Failed():
                self._failed(message)

    def _is_ours(self, job: str | None) -> bool:
        return self.job is not None and bool(job) and job == self.job.id

    def _submit(self, job: Job, client: Client) -> None:
        if job.imagine is not None:
            job.request = client.imagine(job.imagine)
        else:
            job.request = client.submit(
                job.pipeline,
                job.settings,
                job.picture,
                matte=job.matte,
                picture_of=job.picture_of,
                extra_pictures=job.extra_pictures,
                label=job.wish.picture,
            )
        self.job = job

    def _failed(self, message: Failed) -> None:
        job, client = self.job, self.link.client
        if job is None or client is None or not (message.request == job.request or self._is_ours(message.job)):
            if message.job is None and message.request is None:
                self.fail(TurnaroundError.from_failed(message))
            return
        again = with_its_picture(job) if message.code in FORGOTTEN else None
        self._end_job()
        if again is not None:
            self._submit(again, client)
        else:
            self.fail(TurnaroundError.from_failed(message))

    def _lose_job(self, error: TurnaroundError) -> None:
        self._end_job()
        self.fail(error)

    def _end_job(self) -> None:
        """Lets go of the job; its previews go with it."""
        if self.job is not None:
            pending.forget(own_folder())
            if self.link.client is not None:
                self.link.client.followed.pop(self.job.request, None)
        self.job = None
        self._inbox.clear()
        preview.clear()

    def _take(self, job: Job, message: Result, arrays: dict) -> None:
        """Puts a result into the scene; the job is done with its last one."""
        problem = delivery.deliver(job, message, arrays)
        if problem is not None:
            self.fail(problem)
        if message.index == message.count - 1:
            self._end_job()

    def _go_on(self, job: Job, message: Imagined, arrays: dict) -> None:
        """From the picture that was drawn to its meshes, unless Cancel was pressed just then."""
        client = self.link.client
        following = delivery.deliver_picture(job, message, arrays)
        self._end_job()
        if client is not None and not job.cancelling:
            self._submit(following, client)

    def redraw(self) -> None:
        """Has the panels drawn again, if what they show has changed."""
        job = self.job
        shown = (
            self.link.state,
            self.link.version,
            self.link.devices,
            tuple(engines.offered().values()),
            painters.offered(),
            self.problem,
            self.left_over,
            self.installation and (self.installation.text, self.installation.detail),
            (self.models.known, self.models.progress),
            job and (job.id, job.describe(), job.fraction, job.can_keep, job.cancelling, job.notes, job.framing),
        )
        if shown == self._drawn:
            return
        self._drawn, self._next_redraw = shown, time.monotonic() + REDRAW_SECONDS
        screen.redraw()


# --------------------------------------------------------------------------------------------------- the one session

_current: Session | None = None


def current() -> Session:
    """The session; there is one while the add-on is enabled."""
    assert _current is not None, "the add-on is not enabled"
    return _current


def _pump() -> float | None:
    return _current.tick() if _current is not None else None


@bpy.app.handlers.persistent
def _after_jump(*_: object) -> None:
    """Undo and opened files can bring a preview back that belongs to no job any more."""
    if _current is not None and _current.job is None:
        preview.clear()


@bpy.app.handlers.persistent
def _after_load(*_: object) -> None:
    """Another file: the running job's results go to its first scene, and what is known of the old one goes away."""
    preview.clear()
    cutouts.forget()


_HANDLERS = (
    (bpy.app.handlers.undo_post, _after_jump),
    (bpy.app.handlers.redo_post, _after_jump),
    (bpy.app.handlers.load_post, _after_load),
)


def register() -> None:
    """Opens the session and starts its timer."""
    global _current
    _current = Session()
    bpy.app.timers.register(_pump, first_interval=0.5, persistent=True)
    for handlers, function in _HANDLERS:
        handlers.append(function)


def unregister() -> None:
    """Stops the timer and lets go of the backend."""
    global _current
    for handlers, function in _HANDLERS:
        if function in handlers:
            handlers.remove(function)
    if bpy.app.timers.is_registered(_pump):
        bpy.app.timers.unregister(_pump)
    if _current is not None:
        _current.close()
        _current = None
    engines.withdraw()
    painters.withdraw()
