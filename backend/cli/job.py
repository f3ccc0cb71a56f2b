"""A job at the command line, and who may do it: this process or a backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.messages import Imagine, PainterInfo, PipelineInfo, Report, Settings, ViewCamera

from .console import Bar

if TYPE_CHECKING:
    from backend.generators.text.base import Painting
    from backend.geometry.mesh import Mesh


@dataclass(frozen=True)
class Variant:
    """A finished mesh and what came with it, wherever it was made."""

    mesh: Mesh
    views: NDArray[np.uint8]
    cutout: NDArray[np.uint8]
    cameras: tuple[ViewCamera, ...]
    report: Report
    splats: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Job:
    """A job that has been checked."""

    picture: NDArray[np.uint8]
    pipeline: str
    settings: Settings
    extra_pictures: tuple[NDArray[np.uint8], ...] = ()


class Runner(Protocol):
    """Where jobs run: `Local` or `Remote`."""

    def info(self, name: str) -> PipelineInfo:
        """How a pipeline presents itself."""

    def run(self, job: Job, bar: Bar) -> Iterator[Variant]:
        """Yields the job's variants."""

    def painters(self) -> dict[str, PainterInfo]:
        """How the painters present themselves, by name."""

    def imagine(self, request: Imagine, bar: Bar) -> Painting:
        """Draws the picture of a request that has been checked."""

    def close(self) -> None:
        """Lets go of what it holds."""
