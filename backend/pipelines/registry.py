"""What a pipeline is, and where pipelines are found.

Pipelines come from the entry-point group `turnaround.pipelines`, ours included, so that another package can add one.
An entry point names an object that follows `Pipeline`; importing it must be cheap (import torch inside `generate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.stage import Progress, StageCache
from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo, Report, Settings

GROUP = "turnaround.pipelines"

OURS = ("one2345", "ouroboros3d", "3dim")
"""In the order in which they are offered; the first is taken where nothing else is said."""


@dataclass(frozen=True)
class Request:
    """One job's input.

    Attributes:
        picture: uint8 [H, W, 4], straight-alpha sRGB, top row first.
        matte: uint8 [H, W], the subject's alpha if the artist gave one.
        settings: already validated.
        extra_pictures: further pictures like `picture`, one for each of `settings.extra_pictures`.
    """

    picture: NDArray[np.uint8]
    settings: Settings
    matte: NDArray[np.uint8] | None = None
    extra_pictures: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True)
class Output:
    """One finished variant.

    Attributes:
        mesh: in the object frame, the input camera at azimuth 0.
        views: the generated views.
        cutout: uint8 [S, S, 4], the framed picture that the pipeline saw.
        report: how it came about.
        splats: float32 [N, 14], see `Gaussians.packed`, where the mesh was made of Gaussians.
    """

    mesh: Mesh
    views: ViewSet
    cutout: NDArray[np.uint8]
    report: Report
    splats: NDArray[np.float32] | None = None


@runtime_checkable
class Pipeline(Protocol):
    """From a picture to meshes. One instance serves a worker for its life; it keeps its loaded weights."""

    def info(self) -> PipelineInfo:
        """How it presents itself; cheap, no torch."""

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """Yields `settings.variants` outputs; seeds are `seed`, `seed + 1`, ...

        Args:
            request: the job's input.
            device: a torch device string, "cpu" or "cuda:0".
            cache: results of stages, shared by all jobs of the worker.
            progress: where to report; its `step` raises CancelledError when the job is to stop.

        Raises:
            TurnaroundError: bad input or missing weights, in words for the artist.
            CancelledError: the job was cancelled.
        """

    def free(self) -> None:
        """Drops loaded weights; they load again when next needed."""


def pipelines() -> dict[str, Pipeline]:
    """All installed pipelines by name: ours first. One that fails to import is left out and takes none with it."""
    found: dict[str, Pipeline] = {}
    for entry in sorted(entry_points(group=GROUP), key=_turn):
        try:
            found[entry.name] = entry.load()
        except Exception:  # somebody else's package; `doctor` lists the failures through `broken`
            continue
    return found


def _turn(entry: EntryPoint) -> tuple[int, str]:
    return (OURS.index(entry.name) if entry.name in OURS else len(OURS)), entry.name


def broken(group: str = GROUP) -> dict[str, str]:
    """Entry points of a group that failed to import, with the error's text."""
    errors: dict[str, str] = {}
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            errors[entry.name] = f"{type(error).__name__}: {error}"
    return errors


def pipeline(name: str) -> Pipeline:
    """The pipeline called `name`.

    Raises:
        TurnaroundError: `pipeline.unknown`, naming those that exist.
    """
    found = pipelines()
    if name not in found:
        raise TurnaroundError(
            "pipeline.unknown",
            f'There is no engine called "{name}".',
            f"Choose one of: {', '.join(sorted(found)) or 'none is installed'}.",
            field="pipeline",
        )
    return found[name]
