"""What our pipelines have in common: the pictures are cut out, a recipe makes a mesh of them, a report says how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from backend.pipelines.choosing import AUTO, TINY, choose_weights, missing_hint, more_hint
from backend.pipelines.preparing import Framer, frame_finely, prepare
from backend.pipelines.registry import Output, Request
from backend.pipelines.reporting import make_report
from backend.pipelines.shaping import Recipe
from backend.pipelines.stage import Preview, Progress, StageCache, Stages
from protocol.messages import Framing, PipelineInfo, Settings


@dataclass(frozen=True)
class Choice:
    """Which recipe a job asks for; equal choices share one.

    Attributes:
        weights: `TINY`, or installed ones.
        device: torch device.
    """

    weights: str
    device: str


@dataclass(frozen=True)
class Prepared:
    """The pictures as a recipe sees them.

    Attributes:
        pictures: framed, uint8 [512, 512, 4], the first of which gives the frame.
        framing: of the first.
        notes: what an artist should know of the cutouts.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    framing: Framing
    notes: tuple[str, ...]


class Engine(ABC):
    """A `registry.Pipeline` whose recipe, networks included, stays loaded until another is asked for.

    Args:
        info: how it presents itself; its first option chooses the weights.
        shipped: names of the weights that ship with it.
    """

    def __init__(self, info: PipelineInfo, shipped: Sequence[str]) -> None:
        self._info, self._shipped = info, shipped
        self._recipe: Recipe | None = None
        self._choice: Choice | None = None

    @abstractmethod
    def installed(self) -> tuple[str, ...]:
        """Names of weights that can be chosen beside those that ship; the first is taken where there is a GPU."""

    @abstractmethod
    def absent(self, wanted: str) -> tuple[str, str]:
        """Sentence and hint for weights that cannot be chosen."""

    @abstractmethod
    def make_recipe(self, choice: Choice) -> Recipe:
        """The recipe with its networks; torch is imported here, when it is first needed."""

    def choose(self, settings: Settings, device: str) -> Choice:
        """What the settings ask for.

        Raises:
            TurnaroundError: `weights.absent`.
        """
        return Choice(choose_weights(settings, device, self.installed(), self.absent), device)

    def framer(self, choice: Choice, settings: Settings) -> Framer:
        """How cutouts are framed."""
        return frame_finely

    def info(self) -> PipelineInfo:
        """See `registry.Pipeline`; where it is ready, its hint says how there are more weights to choose from."""
        missing = missing_hint(self._shipped)
        weights, *others = self._info.options
        weights = structs.replace(weights, choices=(AUTO, TINY, *self.installed()))
        hint = missing or more_hint(self._info.name)
        return structs.replace(self._info, options=(weights, *others), ready=not missing, hint=hint)

    def free(self) -> None:
        """See `registry.Pipeline`."""
        self._recipe, self._choice = None, None

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """See `registry.Pipeline`."""
        choice = self.choose(request.settings, device)
        for variant in range(request.settings.variants):
            progress.variant, progress.seconds, progress.cached = variant, {}, []
            yield self._variant(request, choice, request.settings.seed + variant, Stages(cache, progress))

    def _variant(self, request: Request, choice: Choice, seed: int, stages: Stages) -> Output:
        settings, progress = request.settings, stages.progress
        progress.begin("Cutting Out", (0.0, 0.02))
        prepared = prepare_all(request, stages, choice.device, self.framer(choice, settings))
        picture, framing, notes = prepared.pictures[0], prepared.framing, prepared.notes
        progress.begin("Loading Networks", (0.02, 0.05), Preview(cutout=picture, framing=framing, notes=notes))
        made = self._load(choice).make(prepared.pictures, settings, seed, stages)
        progress.step(1, 1)
        report = make_report(
            self._info.name, settings, seed, made, framing, notes, choice.weights, choice.device, progress
        )
        return Output(made.mesh, made.views, picture, report, made.splats)

    def _load(self, choice: Choice) -> Recipe:
        if self._recipe is None or self._choice != choice:
            self.free()
            self._recipe, self._choice = self.make_recipe(choice), choice
        return self._recipe


def prepare_all(request: Request, stages: Stages, device: str, framer: Framer) -> Prepared:
    """The picture and all further ones."""
    picture, framing, notes = prepare(request, stages, device, framer)
    pictures = [picture]
    # where the subject is in the first picture says nothing of the others
    elsewhere = structs.replace(request.settings, subject_box=None, subject_points=())
    for extra in request.extra_pictures:
        another = replace(request, picture=extra, matte=None, settings=elsewhere)
        further, _, more = prepare(another, stages, device, framer)
        pictures.append(further)
        notes = (*notes, *more)
    return Prepared(tuple(pictures), framing, notes)
