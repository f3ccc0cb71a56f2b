"""The process that runs pipelines and painters on one device; started and watched by the gateway (see `engine`).

It speaks the same messages as everybody. `Submit` and `Imagine` with the job's id as their request, `Cancel`, `Keep`,
`FreeMemory` and `Shutdown` come in on one socket, read by a thread so that a running job hears them; what the worker
offers goes out there as `Welcome`, again when it changes. `Event` (not yet numbered), `Result`, `Imagined`, `Failed`,
`Cancelled` and `Pong` go out on another, from the main thread, which does the work. A closed standard input means that
the gateway is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from backend import devices
from backend.generators.text import registry as painter_registry
from backend.generators.text.base import Painter
from backend.pipelines import registry
from backend.pipelines.stage import CancelledError, KeepError, Preview, Progress, StageCache, Update
from protocol.directions import ClientMessage
from protocol.errors import TurnaroundError
from protocol.framing import MAX_FRAME, FieldError, ProtocolError, Received, decode, encode
from protocol.messages import (
    MAX_NOTE,
    MAX_NOTES,
    PROTOCOL_VERSION,
    Cancel,
    Cancelled,
    Event,
    FreeMemory,
    Imagine,
    Imagined,
    Keep,
    Message,
    Pong,
    Result,
    Shutdown,
    Submit,
    ViewCamera,
    Welcome,
)
from protocol.validation import check_imagine, extra_names

EVENT_INTERVAL, PREVIEW_INTERVAL = 0.05, 0.5
IDLE_SECONDS = 900.0
"""After so long without work the weights are freed; they load again when next needed."""
OFFER_SECONDS = 5.0
"""How often a worker looks whether weights have been installed or removed."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway writes to a worker's standard input, one line of JSON.

    Attributes:
        endpoint: of the gateway's socket for workers.
        identity: of this worker, new for each process.
        server_key: the gateway's public key.
        public: this worker's key pair, made for this process alone.
        secret: see `public`.
        device: "auto", "cpu", "cuda:0", ...
        cache: folder of the stages' results.
        pipelines: "module:attribute", a dict of pipelines that replaces the installed ones; "" for those.
        painters: the same for painters.
        warm: import torch before there is work.
    """

    endpoint: str
    identity: str
    server_key: str
    public: str
    secret: str
    device: str
    cache: str
    pipelines: str = ""
    painters: str = ""
    warm: bool = True

    def connect(self, context: zmq.Context, name: str) -> zmq.Socket:
        """A socket to the gateway."""
        socket = context.socket(zmq.DEALER)
        socket.routing_id = f"{self.identity}.{name}".encode()
        socket.curve_serverkey = self.server_key.encode()
        socket.curve_publickey, socket.curve_secretkey = self.public.encode(), self.secret.encode()
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
        socket.linger = 2000
        socket.connect(self.endpoint)
        return socket


class Worker:
    """Runs one job after the other."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context = zmq.Context()
        self._out = config.connect(self._context, "out")
        self._cache = StageCache(folder=Path(config.cache))
        self._pipelines: dict[str, registry.Pipeline] = _named(config.pipelines) or registry.pipelines()
        self._inbox: queue.Queue[Received] = queue.Queue()
        self._stopped: set[str] = set()
        self._kept: set[str] = set()
        self._lock = threading.Lock()
        self._job = ""
        self._progress = Progress()
        self._variants = 1
        self._held: dict[str, NDArray[Any]] = {}
        self._told: dict[str, Any] = {}
        self._sent = self._previewed = 0.0
        self._delivered = False
        self._stage: tuple[int, str, bool] | None = None

    def run(self) -> None:
        """Works until `Shutdown`."""
        listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        listener.start()
        device = self._config.device
        if self._config.warm or device == "auto":
            device = devices.resolve(device)
        others = devices.others(device) if self._config.device == "auto" else []
        self._send(Pong(devices=(devices.describe(device), *others)))
        while True:
            try:
                message, arrays = self._inbox.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._free()
                message, arrays = self._inbox.get()
            if isinstance(message, Shutdown):
                break
            if isinstance(message, FreeMemory):
                self._free()
            else:
                self._run(message, arrays, device)
            self._send(Pong(devices=(devices.describe(device),)))
        self._out.close()
        listener.join(2.0)
        self._context.term()

    # ------------------------------------------------------------------------------------- the listening thread

    def _listen(self) -> None:
        inbox = self._config.connect(self._context, "in")
        told: Welcome | None = None
        while True:
            offer = self._offer()
            if offer != told:
                told = offer
                inbox.send_multipart(encode(offer))
            if not inbox.poll(int(OFFER_SECONDS * 1000)):
                continue
            try:
                received = decode(inbox.recv_multipart(), ClientMessage)
            except (ProtocolError, FieldError) as error:  # the gateway has checked it: this is a mistake in here
                print(f"worker: {error} {error.details}", file=sys.stderr, flush=True)
                continue
            message = received.message
            if isinstance(message, (Cancel, Keep)):
                with self._lock:
                    (self._stopped if isinstance(message, Cancel) else self._kept).add(message.job)
                    self._pass_on_orders()
                continue
            if isinstance(message, FreeMemory):
                self._cache.clear_memory()
            self._inbox.put(received)
            if isinstance(message, Shutdown):
                with self._lock:
                    self._progress.cancel.set()
                inbox.close()
                return

    def _painters(self) -> dict[str, Painter]:
        return _named(self._config.painters) or painter_registry.painters()

    def _offer(self) -> Welcome:
        return Welcome(
            protocol=PROTOCOL_VERSION,
            version="",
            devices=(),
            pipelines=tuple(pipeline.info() for pipeline in self._pipelines.values()),
            painters=tuple(painter.info() for painter in self._painters().values()),
        )

    def _pass_on_orders(self) -> None:
        if self._job in self._stopped:
            self._progress.cancel.set()
        if self._job in self._kept:
            self._progress.keep.set()

    # ------------------------------------------------------------------------------------------ the main thread

    def _run(self, message: Submit | Imagine, arrays: dict[str, NDArray[Any]], device: str) -> None:
        job = message.request
        with self._lock:
            self._job, self._progress = job, Progress(report=self._report)
            self._pass_on_orders()
        self._held, self._told, self._stage, self._previewed, self._delivered = {}, {}, None, 0.0, False
        for last in (False, True):
            ran_out = self._attempt(message, arrays, device, last=last)
            if ran_out:  # here, where the error's frames no longer hold what should go
                self._free()
            if not ran_out or self._delivered:
                break
        with self._lock:
            self._stopped.discard(job)
            self._kept.discard(job)
            self._job = ""

    def _attempt(self, message: Submit | Imagine, arrays: dict[str, NDArray[Any]], device: str, *, last: bool) -> bool:
        """Does a job, or says why not. True if memory ran out.

        That is not said the first time, unless a variant has been sent: without the weights of other engines and
        painters there may be enough.
        """
        job = message.request
        try:
            devices.check(device)
            if isinstance(message, Imagine):
                self._paint(job, message, device)
            else:
                extras = tuple(arrays[name] for name in extra_names(message.settings))
                request = registry.Request(arrays["picture"], message.settings, arrays.get("matte"), extras)
                self._draw(job, self._pipelines[message.pipeline], request, device)
        except (CancelledError, KeepError):
            self._send(Cancelled(job=job))
        except TurnaroundError as error:
            self._send(error.failed(job=job))
        except Exception as error:
            ran_out = devices.is_out_of_memory(error)
            if last or self._delivered or not ran_out:
                self._send(_explain(error, ran_out).failed(job=job))
            return ran_out
        return False

    def _paint(self, job: str, message: Imagine, device: str) -> None:
        self._variants = 1
        painters = self._painters()
        message = check_imagine(message, {name: painter.info() for name, painter in painters.items()})  # may have gone
        painter = painters[message.painter]
        painting = painter.paint(message, device=device, cache=self._cache, progress=self._progress)
        self._send(Imagined(job=job, report=painting.report), {"picture": painting.picture})

    def _draw(self, job: str, pipeline: registry.Pipeline, request: registry.Request, device: str) -> None:
        """Runs the pipeline and sends each variant; *Keep This One* makes the variant at hand the last."""
        progress, done = self._progress, 0
        self._variants = request.settings.variants
        outputs = pipeline.generate(request, device=device, cache=self._cache, progress=progress)
        with contextlib.closing(outputs) if hasattr(outputs, "close") else contextlib.nullcontext():  # type: ignore[type-var]
            for output in outputs:
                done += 1
                with self._lock:
                    kept = job in self._kept  # the progress's own flag is the pipeline's to clear
                count = done if kept else request.settings.variants
                self._send(*_result(job, done - 1, count, output))
                self._delivered = True
                if done == count:
                    return
        raise RuntimeError(f"{done} of {request.settings.variants} variants came from the pipeline")

    def _report(self, update: Update) -> None:
        """Sends progress, at most 20 times a second, with previews at most twice a second; the last is never lost."""
        now = time.monotonic()
        stage = (update.variant, update.stage, update.can_keep)
        if update.preview is not None:
            self._held.update(_preview_arrays(update.preview))
            self._told.update(_preview_fields(update.preview))
        turned = stage != self._stage
        if not turned and now - self._sent < EVENT_INTERVAL and update.step != update.total:
            return
        arrays: dict[str, NDArray[Any]] = {}
        told: dict[str, Any] = {}
        if (self._held or self._told) and (turned or now - self._previewed >= PREVIEW_INTERVAL):
            arrays, told, self._held, self._told, self._previewed = self._held, self._told, {}, {}, now
        self._stage, self._sent = stage, now
        within = min(1.0, max(0.0, float(update.fraction)))
        event = Event(
            job=self._job,
            number=0,
            stage=update.stage,
            step=max(0, update.step),
            total=max(0, update.total),
            fraction=(update.variant + within) / max(self._variants, update.variant + 1),
            variant=update.variant,
            can_keep=update.can_keep,
            **told,
        )
        self._send(event, arrays)

    def _send(self, message: Message, arrays: dict[str, NDArray[Any]] | None = None) -> None:
        self._out.send_multipart(encode(message, arrays))

    def _free(self) -> None:
        self._cache.clear_memory()
        for pipeline in self._pipelines.values():
            pipeline.free()
        for painter in self._painters().values():
            painter.free()
        devices.empty_cache()


def _named(spec: str) -> dict[str, Any]:
    """The dict that "module:attribute" names; an empty one for ""."""
    module, _, attribute = spec.partition(":")
    found: dict[str, Any] = getattr(importlib.import_module(module), attribute) if spec else {}
    return found


def _preview_arrays(preview: Preview) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    if preview.mesh is not None:
        arrays |= _mesh_arrays(preview.mesh)
    if preview.views is not None:
        arrays["views"] = preview.views
    if preview.cutout is not None:
        arrays["cutout"] = preview.cutout
    return arrays


def _preview_fields(preview: Preview) -> dict[str, Any]:
    """What of a preview goes into the event itself, cut to what an event may hold."""
    fields: dict[str, Any] = {}
    if preview.notes:
        fields["notes"] = tuple(note[:MAX_NOTE] for note in preview.notes[:MAX_NOTES])
    if preview.framing is not None:
        fields["framing"] = preview.framing
    return fields


def _mesh_arrays(mesh: Any) -> dict[str, NDArray[Any]]:
    return {
        "vertices": np.ascontiguousarray(mesh.vertices, np.float32),
        "faces": np.ascontiguousarray(mesh.faces, np.int32),
        "colors": np.ascontiguousarray(mesh.colors, np.uint8),
    }


def _result(job: str, index: int, count: int, output: registry.Output) -> tuple[Result, dict[str, NDArray[Any]]]:
    cameras = tuple(
        ViewCamera(
            elevation_deg=float(c.elevation_deg),
            azimuth_deg=float(c.azimuth_deg),
            distance=float(c.distance),
            fov_deg=float(c.fov_deg),
        )
        for c in output.views.cameras
    )
    arrays = _mesh_arrays(output.mesh) | {"views": output.views.images, "cutout": output.cutout}
    if output.splats is not None:
        arrays["splats"] = output.splats
    return Result(job=job, index=index, count=count, report=output.report, view_cameras=cameras), arrays


def _explain(error: Exception, out_of_memory: bool) -> TurnaroundError:
    details = "".join(traceback.format_exception(error))[-60_000:]
    if out_of_memory:
        return TurnaroundError(
            "memory.out",
            "The device ran out of memory.",
            "Press Free Memory, lower Mesh Resolution or Variants, or close other programs that use it.",
            details=details,
        )
    return TurnaroundError(
        "pipeline.failed",
        "The engine stopped with an error.",
        "Copy the details and report them; other pictures or settings may work.",
        details=details,
    )


def _watch_gateway() -> None:
    """Ends this process when the gateway is gone, whatever it is doing."""
    while os.read(0, 4096):  # not through sys.stdin: its lock would be held when the interpreter ends
        pass
    os._exit(0)


def main() -> None:
    """Reads its configuration from standard input and works."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all; the gateway ends its workers
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=Config)
    threading.Thread(target=_watch_gateway, name="watcher", daemon=True).start()
    Worker(config).run()


if __name__ == "__main__":
    main()
