"""A pipeline and a painter that take no time and misbehave on request, for tests of the server."""

import os
import signal
import time

import msgspec
import numpy as np

from backend.generators.text.base import Painting
from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.registry import Output
from backend.pipelines.stage import KeepError, Preview
from protocol.errors import TurnaroundError
from protocol.messages import (
    Framing,
    OptionSpec,
    PainterInfo,
    PictureReport,
    PipelineInfo,
    Report,
    ViewCamera,
)

NOTES = ("It is dark.", *("?" * 1000 for _ in range(20)))
"""More and longer ones than a message may hold."""
MODES = ("good", "crash", "crash_once", "oom", "error", "refuse", "deaf")


class Fake:
    def info(self):
        return PipelineInfo(
            name="fake",
            label="Fake",
            description="",
            options=(
                OptionSpec(name="steps", label="Steps", description="", default=5, minimum=1, maximum=100_000),
                OptionSpec(name="delay", label="Delay", description="", default=0.0, minimum=0.0, maximum=10.0),
                OptionSpec(name="vertices", label="Vertices", description="", default=10, minimum=1, maximum=10**7),
                OptionSpec(name="mode", label="Mode", description="", default="good", choices=MODES),
            ),
            several_pictures=True,
            novel_views=True,
        )

    def free(self):
        pass

    def generate(self, request, *, device, cache, progress):
        options = {spec.name: spec.default for spec in self.info().options} | request.settings.options
        for variant in range(request.settings.variants):
            progress.variant = variant
            steps = self._draw(options, request, cache, progress)
            yield self._output(request, variant, steps, int(options["vertices"]), device)

    def _draw(self, options, request, cache, progress):
        mode = options["mode"]
        framing = Framing(center_x=4.0, center_y=4.0, side=8.0)
        first = Preview(cutout=request.picture[:8, :8], framing=framing, notes=NOTES)
        progress.begin("Drawing Views", (0.0, 0.9), first)
        step = 0
        try:
            for step in range(1, options["steps"] + 1):
                time.sleep(options["delay"])
                if mode != "deaf":
                    progress.step(step, options["steps"], can_keep=True)
                if step == 3:
                    misbehave(mode, cache)
        except KeepError:
            progress.keep.clear()  # as ours do
        progress.begin("Meshing", (0.9, 1.0))
        return step

    def _output(self, request, variant, steps, count, device):
        seed = request.settings.seed + variant
        vertices = np.random.default_rng(seed).random((count, 3), np.float32)
        vertices[0] = request.picture[0, 0, :3]
        camera = ViewCamera(elevation_deg=0.0, azimuth_deg=0.0, distance=1.6, fov_deg=40.0)
        extras = [f"extra {extra[0, 0].tolist()}" for extra in request.extra_pictures]
        report = Report(
            pipeline="fake",
            seed=seed,
            settings=request.settings,
            elevation_deg=0.0,
            elevation_source="assumed",
            elevation_spread_deg=0.0,
            camera=camera,
            framing=Framing(center_x=0.0, center_y=0.0, side=1.0),
            seconds={"views": 0.0},
            warnings=(f"pid {os.getpid()}", f"steps {steps}", *extras),
            device=device,
        )
        mesh = Mesh(vertices, np.zeros((1, 3), np.int32), np.zeros((count, 4), np.uint8))
        views = ViewSet(np.zeros((1, 4, 4, 4), np.uint8), (Camera(0.0, 0.0, 1.6, 40.0),))
        return Output(mesh, views, request.picture[:8, :8].copy(), report)


def misbehave(mode, cache):
    if mode == "oom":
        raise MemoryError
    if mode == "oom_once" and cache.get("full") is None:
        cache.put("full", {"yes": np.ones(1, np.uint8)})
        raise MemoryError
    if mode == "error":
        raise ZeroDivisionError("by design")
    if mode == "refuse":
        raise TurnaroundError("picture.empty", "There is nothing on the picture.", "Choose another.", field="picture")
    if mode == "crash" or (mode == "crash_once" and cache.get("crashed") is None):
        cache.put("crashed", {"yes": np.ones(1, np.uint8)})
        os.kill(os.getpid(), signal.SIGKILL)


class FakePainter:
    """Paints one colour, by the prompt's length and the seed; a prompt that is a mode misbehaves."""

    def __init__(self, name="brush", ready=True):
        hint = "" if ready else "Install it: turnaround models install dry"
        self._info = PainterInfo(name=name, label=name.title(), ready=ready, hint=hint, licence="CC0-1.0")
        self._freed = False

    def info(self):
        return self._info

    def free(self):
        self._freed = True

    def paint(self, request, *, device, cache, progress):
        steps = request.steps or 5
        progress.begin("Painting", (0.0, 1.0))
        for step in range(1, steps + 1):
            time.sleep(0.05 if request.prompt == "slow" else 0.0)
            progress.step(step, steps)
            if step == 3:
                misbehave(request.prompt, cache)
        picture = np.full((12, 16, 4), 255, np.uint8)
        picture[..., :2] = len(request.text), request.seed
        fields = {name: getattr(request, name) for name in ("prompt", "negative_prompt", "single_object", "seed")}
        info = self._info
        report = PictureReport(**fields, steps=steps, painter=info.name, label=info.label, licence=info.licence)
        if self._freed:
            report = msgspec.structs.replace(report, warnings=("freed before",))
        return Painting(picture, report)


PIPELINES = {"fake": Fake()}
PAINTERS = {"dry": FakePainter("dry", ready=False), "brush": FakePainter()}
