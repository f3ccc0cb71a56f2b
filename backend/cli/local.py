"""Runs jobs in this process."""

from __future__ import annotations

from collections.abc import Iterator

from backend.generators.text import registry as painter_registry
from backend.generators.text.base import Painting
from backend.geometry.cameras import Camera
from backend.pipelines import registry
from backend.pipelines.stage import Progress, StageCache, Update
from backend.server.folders import cache_folder
from protocol.messages import Imagine, PainterInfo, PipelineInfo, ViewCamera

from .console import Bar, cancel_on_interrupt
from .device import DeviceChoice, choose
from .job import Job, Variant


class Local:
    """The pipelines and painters that are installed here.

    Args:
        device: what `--device` says.
        keep: whether the results of stages are kept on disk between runs.
    """

    def __init__(self, device: DeviceChoice, *, keep: bool) -> None:
        self._device, self._keep = device, keep

    def info(self, name: str) -> PipelineInfo:
        """How the pipeline presents itself; raises `pipeline.unknown`."""
        return registry.pipeline(name).info()

    def run(self, job: Job, bar: Bar) -> Iterator[Variant]:
        """Yields the job's variants; raises like `Pipeline.generate`."""
        several = job.settings.variants > 1

        def report(update: Update) -> None:
            label = f"Variant {update.variant + 1}: " if several else ""
            bar.update(update.stage, update.step, update.total, update.fraction, label)
            if update.preview is not None:
                bar.note(update.preview.notes)

        progress = Progress(report=report)
        cache = self._cache()
        request = registry.Request(job.picture, job.settings, extra_pictures=job.extra_pictures)
        with cancel_on_interrupt(progress.cancel):
            outputs = registry.pipeline(job.pipeline).generate(
                request, device=choose(self._device), cache=cache, progress=progress
            )
            for output in outputs:
                cameras = tuple(_camera(camera) for camera in output.views.cameras)
                yield Variant(output.mesh, output.views.images, output.cutout, cameras, output.report, output.splats)

    def painters(self) -> dict[str, PainterInfo]:
        """How the painters present themselves, by name."""
        return {name: painter.info() for name, painter in painter_registry.painters().items()}

    def imagine(self, request: Imagine, bar: Bar) -> Painting:
        """The picture; raises like `Painter.paint`. Its weights are dropped, for the pipeline comes next."""
        progress = Progress(report=lambda u: bar.update(u.stage, u.step, u.total, u.fraction))
        painter = painter_registry.painters()[request.painter]
        try:
            with cancel_on_interrupt(progress.cancel):
                return painter.paint(request, device=choose(self._device), cache=self._cache(), progress=progress)
        finally:
            painter.free()

    def _cache(self) -> StageCache:
        return StageCache(folder=cache_folder() / "stages" if self._keep else None)

    def close(self) -> None:
        """Nothing is left open."""


def _camera(camera: Camera) -> ViewCamera:
    return ViewCamera(
        elevation_deg=camera.elevation_deg,
        azimuth_deg=camera.azimuth_deg,
        distance=camera.distance,
        fov_deg=camera.fov_deg,
    )
