"""3DiM as a pipeline: the pictures prepared, views drawn from a growing pool, and a shape built from all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from backend.pipelines.choosing import AUTO, TINY, choose_weights, missing_hint
from backend.pipelines.preparing import prepare
from backend.pipelines.registry import Output, Request
from backend.pipelines.reporting import make_report
from backend.pipelines.stage import Preview, Progress, StageCache, Stages
from backend.weights.store import catalogue, is_present
from protocol.messages import OptionSpec, PipelineInfo, Settings

if TYPE_CHECKING:
    from backend.pipelines.threedim.recipe import Recipe

NAME = "3dim"

SHIPPED = ("sparseneus", "3dim", "elevation")

MAX_VIEWS = 24
"""The shipped reconstructor has learnt from up to 32, pictures included."""

OPTIONS = (
    OptionSpec(
        name="weights",
        label="Weights",
        description="What draws the views: the small weights that ship, or installed ones; auto takes installed ones "
        "where they and a GPU are there",
        default=AUTO,
        choices=(AUTO, TINY),
    ),
    OptionSpec(
        name="views",
        label="Views",
        description="Views that are drawn of the other sides; -1 takes what the quality asks for, 0 uses the pictures "
        "alone",
        default=-1,
        minimum=-1,
        maximum=MAX_VIEWS,
    ),
    OptionSpec(
        name="steps",
        label="Steps",
        description="Denoising steps of each view; 0 takes what the quality asks for, 256 is the paper's",
        default=0,
        minimum=0,
        maximum=1000,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the views follow the pictures; -1 takes what suits the weights, 0 is fastest",
        default=-1.0,
        minimum=-1.0,
        maximum=10.0,
    ),
    OptionSpec(
        name="sampler",
        label="Sampler",
        description="How noise is taken off: ddim in few steps, ancestral as in the paper, in many",
        default="ddim",
        choices=("ddim", "ancestral"),
    ),
    OptionSpec(
        name="conditioning",
        label="Conditioning",
        description="What every view is drawn from: at each step another of the pictures and the finished views, or "
        "the pictures alone",
        default="stochastic",
        choices=("stochastic", "input"),
    ),
    OptionSpec(
        name="batch",
        label="Drawn Together",
        description="Views that are drawn at the same time and do not see each other; 1 is the paper's, more are "
        "faster and agree less",
        default=1,
        minimum=1,
        maximum=MAX_VIEWS,
    ),
    OptionSpec(
        name="picture_azimuth",
        label="Picture's Side",
        description="Degrees. Installed weights know which way the cars or chairs that they have learnt from face: the "
        "side that the picture shows, in the world of their training",
        default=0.0,
        minimum=-180.0,
        maximum=180.0,
    ),
    OptionSpec(
        name="camera_distance",
        label="Distance",
        description="How far cameras stood from what installed weights have learnt from: 1.3 for SRN's cars, 2 for its "
        "chairs; 0 takes what the weights say",
        default=0.0,
        minimum=0.0,
        maximum=10.0,
    ),
)


class ThreeDim:
    """The pipeline `3dim`; loads its networks when first asked for a mesh."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._key: tuple[str, str] | None = None

    def info(self) -> PipelineInfo:
        """How it presents itself."""
        hint = missing_hint(SHIPPED)
        return PipelineInfo(
            name=NAME,
            label="3DiM",
            description="Draws any number of views that agree with one another, from one picture or several, and "
            "builds a shape from them",
            options=(structs.replace(OPTIONS[0], choices=(AUTO, TINY, *installed())), *OPTIONS[1:]),
            ready=not hint,
            hint=hint,
            licence="GPL-3.0-or-later",
            several_pictures=True,
            novel_views=True,
        )

    def free(self) -> None:
        """Drops the loaded networks."""
        self._recipe, self._key = None, None

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """See `registry.Pipeline`."""
        weights = chosen_weights(request.settings, device)
        for variant in range(request.settings.variants):
            progress.variant, progress.seconds, progress.cached = variant, {}, []
            yield self._variant(request, weights, request.settings.seed + variant, device, Stages(cache, progress))

    def _variant(self, request: Request, weights: str, seed: int, device: str, stages: Stages) -> Output:
        settings, progress = request.settings, stages.progress
        progress.begin("Cutting Out", (0.0, 0.02))
        picture, framing, notes = prepare(request, stages, device)
        pictures: list[NDArray[np.uint8]] = [picture]
        for extra in request.extra_pictures:
            # where the subject is in the first picture says nothing of the others
            elsewhere = structs.replace(settings, subject_box=None, subject_points=())
            further, _, more = prepare(replace(request, picture=extra, matte=None, settings=elsewhere), stages, device)
            pictures.append(further)
            notes = (*notes, *more)
        shown = Preview(cutout=picture, framing=framing, notes=notes)
        progress.begin("Loading Networks", (0.02, 0.05), shown)
        made = self._load(weights, device).make(pictures, settings, seed, stages)
        progress.step(1, 1)
        report = make_report(NAME, settings, seed, made, framing, notes, weights, device, progress)
        return Output(made.mesh, made.views, picture, report)

    def _load(self, weights: str, device: str) -> Recipe:
        if self._recipe is None or self._key != (weights, device):
            from backend.pipelines.threedim.recipe import Recipe  # torch is imported when it is first needed

            self.free()
            self._recipe, self._key = Recipe(weights, device), (weights, device)
        return self._recipe


def installed() -> tuple[str, ...]:
    """Names of the installed view generators."""
    return tuple(entry.name for entry in catalogue() if entry.layout == "xunet" and is_present(entry))


def chosen_weights(settings: Settings, device: str) -> str:
    """`TINY`, or the name of an installed generator.

    Raises:
        TurnaroundError: `weights.absent`.
    """
    return choose_weights(
        settings,
        device,
        installed(),
        lambda wanted: (
            f"The weights {wanted} are not installed, or not those of a view generator.",
            f"Import them: turnaround models import {wanted} PATH.",
        ),
    )
