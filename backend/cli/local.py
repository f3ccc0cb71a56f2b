"""Runs a job in this process."""

from __future__ import annotations

from collections.abc import Iterator

from backend.geometry.cameras import Camera
from backend.pipelines import registry
from backend.pipelines.stage import Progress, StageCache, Update
from backend.server.folders import cache_folder
from protocol.messages import PipelineInfo, ViewCamera

from .console import Bar, cancel_on_interrupt
from .device import DeviceChoice, choose
from .job import Job, Variant


class Local:
    """The pipelines that are installed here.

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

        progress = Progress(report=report)
        cache = StageCache(folder=cache_folder() / "stages" if self._keep else None)
        request = registry.Request(job.picture, job.settings)
        with cancel_on_interrupt(progress.cancel):
            outputs = registry.pipeline(job.pipeline).generate(
                request, device=choose(self._device), cache=cache, progress=progress
            )
            for output in outputs:
                cameras = tuple(_camera(camera) for camera in output.views.cameras)
                yield Variant(output.mesh, output.views.images, output.cutout, cameras, output.report)

    def close(self) -> None:
        """Nothing is left open."""


def _camera(camera: Camera) -> ViewCamera:
    return ViewCamera(
        elevation_deg=camera.elevation_deg,
        azimuth_deg=camera.azimuth_deg,
        distance=camera.distance,
        fov_deg=camera.fov_deg,
    )
