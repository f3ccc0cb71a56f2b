"""What a painter is: a text in, a picture out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from backend.pipelines.stage import Progress, StageCache
from protocol.messages import Imagine, PainterInfo, PictureReport


@dataclass(frozen=True)
class Painting:
    """A finished picture.

    Attributes:
        picture: uint8 [H, W, 4], straight-alpha sRGB, top row first.
        report: how it came about.
    """

    picture: NDArray[np.uint8]
    report: PictureReport


@runtime_checkable
class Painter(Protocol):
    """From a text to a picture. One instance serves a worker for its life; it keeps its loaded weights."""

    def info(self) -> PainterInfo:
        """How it presents itself; cheap, no torch."""

    def paint(self, request: Imagine, *, device: str, cache: StageCache, progress: Progress) -> Painting:
        """The picture of `request.text`; the same request gives the same picture.

        Args:
            request: the job's input, already validated.
            device: a torch device string, "cpu" or "cuda:0".
            cache: results of stages, shared by all jobs of the worker.
            progress: where to report; its `step` raises CancelledError when the job is to stop.

        Raises:
            TurnaroundError: missing or damaged weights, in words for the artist.
            CancelledError: the job was cancelled.
        """

    def free(self) -> None:
        """Drops loaded weights; they load again when next needed."""
