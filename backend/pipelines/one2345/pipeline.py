"""One-2-3-45 as a pipeline: the picture prepared, a recipe chosen by its weights, and the report written.

The recipes: `guided` runs on the weights that ship, `published` on the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from backend.pipelines.choosing import AUTO, TINY, choose_weights, missing_hint
from backend.pipelines.one2345.selection import MAX_VIEWS
from backend.pipelines.preparing import Framer, frame_finely, prepare
from backend.pipelines.registry import Output, Request
from backend.pipelines.reporting import make_report
from backend.pipelines.shaping import Recipe
from backend.pipelines.stage import Preview, Progress, StageCache, Stages
from backend.preparation.published import frame_as_published, lower_contrast
from backend.weights.store import catalogue, is_present
from protocol.messages import Framing, OptionSpec, PipelineInfo, Settings

NAME = "one2345"

SHIPPED = ("sparseneus", "xunet", "elevation")


OPTIONS = (
    OptionSpec(
        name="weights",
        label="Weights",
        description="What draws and builds: the small weights that ship, or installed ones of the published size; "
        "auto takes the published ones where they and a GPU are there",
        default=AUTO,
        choices=(AUTO, TINY),
    ),
    OptionSpec(
        name="views",
        label="Views",
        description="Views that the small weights draw of the other sides; -1 takes what the quality asks for, 0 uses "
        "the picture alone",
        default=-1,
        minimum=-1,
        maximum=MAX_VIEWS,
    ),
    OptionSpec(
        name="steps",
        label="Steps",
        description="Denoising steps of the views; 0 takes what the weights and the quality ask for. The small weights "
        "draw the likeliest shape in one step for seed 0, and bolder ones in four for other seeds",
        default=0,
        minimum=0,
        maximum=200,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the views follow the picture; -1 takes what suits the weights, 0 is fastest",
        default=-1.0,
        minimum=-1.0,
        maximum=10.0,
    ),
    OptionSpec(
        name="elevation_from",
        label="Elevation From",
        description="How the elevation is found when it is not given: read off the picture, or by matching near views; "
        "auto takes what suits the weights",
        default=AUTO,
        choices=(AUTO, "regression", "matching"),
    ),
    OptionSpec(
        name="schedule",
        label="Schedule",
        description="How the published weights take off noise: in few steps, or in the paper's 75 and 50",
        default="fast",
        choices=("fast", "paper"),
    ),
    OptionSpec(
        name="paper_framing",
        label="Frame as Published",
        description="The published weights see the picture framed as the paper's code does it: to whole pixels, at 256",
        default=False,
    ),
    OptionSpec(
        name="lower_contrast",
        label="Lower Contrast",
        description="The published weights see the picture at 0.8 of its brightness, which keeps shadows off the back; "
        "the mesh is darker too",
        default=False,
    ),
    OptionSpec(
        name="picture_is_source",
        label="Build from the Picture Too",
        description="The published reconstruction looks at the picture beside the drawn views; the paper's does not",
        default=True,
    ),
    OptionSpec(
        name="fitted_cube",
        label="Fit the Cube",
        description="Spend the published reconstruction's resolution on the object and not on empty space",
        default=False,
    ),
    OptionSpec(
        name="low_memory",
        label="Low Memory",
        description="Keep one published network on the GPU at a time; auto does so below 10 GB",
        default=AUTO,
        choices=(AUTO, "on", "off"),
    ),
    OptionSpec(
        name="compile",
        label="Compile",
        description="Compile the published view generator: the first mesh takes minutes longer, later ones less",
        default=False,
    ),
)


class One2345:
    """The pipeline `one2345`; loads its networks when first asked for a mesh."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._recipe_key: tuple[Any, ...] = ()

    def info(self) -> PipelineInfo:
        """How it presents itself."""
        hint = missing_hint(SHIPPED)
        return PipelineInfo(
            name=NAME,
            label="One-2-3-45",
            description="Draws the other sides with a diffusion model and builds a signed distance field from them",
            options=(structs.replace(OPTIONS[0], choices=(AUTO, TINY, *published())), *OPTIONS[1:]),
            ready=not hint,
            hint=hint,
            licence="GPL-3.0-or-later",
        )

    def free(self) -> None:
        """Drops the loaded networks."""
        self._recipe, self._recipe_key = None, ()

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """See `registry.Pipeline`."""
        weights = chosen_weights(request.settings, device)
        for variant in range(request.settings.variants):
            progress.variant, progress.seconds, progress.cached = variant, {}, []
            yield self._variant(request, weights, request.settings.seed + variant, device, Stages(cache, progress))

    def _variant(self, request: Request, weights: str, seed: int, device: str, stages: Stages) -> Output:
        progress = stages.progress
        progress.begin("Cutting Out", (0.0, 0.02))
        picture, framing, notes = prepare(request, stages, device, chosen_framer(weights, request.settings))
        progress.begin("Loading Networks", (0.02, 0.05), Preview(cutout=picture, framing=framing, notes=notes))
        recipe = self._load(weights, request.settings, device)
        made = recipe.make(picture, request.settings, seed, stages)
        progress.step(1, 1)
        report = make_report(NAME, request.settings, seed, made, framing, notes, weights, device, progress)
        return Output(made.mesh, made.views, picture, report)

    def _load(self, weights: str, settings: Settings, device: str) -> Recipe:
        """The recipe that the settings ask for; its networks stay loaded until another is asked for."""
        options = settings.options
        key: tuple[Any, ...] = (weights, device)
        if weights != TINY:
            key += tuple(options.get(name) for name in ("low_memory", "compile", "fitted_cube", "picture_is_source"))
        if self._recipe is None or self._recipe_key != key:
            self.free()
            self._recipe, self._recipe_key = make_recipe(weights, settings, device), key
        return self._recipe


def published() -> tuple[str, ...]:
    """Names of the Zero123s that can be used: installed, as is the reconstructor that goes with them."""
    entries = [entry for entry in catalogue() if entry.pipeline == "one2345" and not entry.shipped]
    if not any(entry.layout == "sparseneus" and is_present(entry) for entry in entries):
        return ()
    return tuple(entry.name for entry in entries if entry.layout == "zero123" and is_present(entry))


def chosen_weights(settings: Settings, device: str) -> str:
    """`TINY`, or the name of an installed Zero123.

    Raises:
        TurnaroundError: `weights.absent`, those that are asked for are not installed.
    """
    return choose_weights(
        settings,
        device,
        published(),
        lambda wanted: (
            f"The weights {wanted} are not installed, or not those of the reconstructor.",
            f"Install both: turnaround models install {wanted}, and one2345-sparseneus.",
        ),
    )


def chosen_framer(weights: str, settings: Settings) -> Framer:
    """How the cutout is framed: the small weights always see it finely and as bright as it is."""
    options = settings.options
    if weights == TINY:
        return frame_finely
    framer = frame_as_published if options.get("paper_framing") else frame_finely
    if not options.get("lower_contrast"):
        return framer

    def darker(cutout: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Framing]:
        return framer(lower_contrast(cutout))

    return darker


def make_recipe(weights: str, settings: Settings, device: str) -> Recipe:
    """The recipe of these weights; torch is imported here, when it is first needed."""
    if weights == TINY:
        from backend.pipelines.one2345.guided import Guided

        return Guided(device)
    from backend.pipelines.one2345.published import Published, is_short_of_memory

    options = settings.options
    low_memory = options.get("low_memory", AUTO)
    return Published(
        weights,
        device,
        low_memory=is_short_of_memory(device) if low_memory == AUTO else low_memory == "on",
        compiled=bool(options.get("compile", False)),
        fitted=bool(options.get("fitted_cube", False)),
        input_is_source=bool(options.get("picture_is_source", True)),
    )
