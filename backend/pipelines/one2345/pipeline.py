"""One-2-3-45 as a pipeline: a recipe chosen by its weights.

The recipes: `guided` runs on the weights that ship, `published` on the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.pipelines.choosing import AUTO, TINY
from backend.pipelines.engine import Choice, Engine
from backend.pipelines.one2345.selection import MAX_VIEWS
from backend.pipelines.preparing import Framer, frame_finely
from backend.pipelines.shaping import OUTLINE, Recipe
from backend.preparation.published import frame_as_published, lower_contrast
from backend.weights.store import catalogue, is_present
from protocol.messages import Framing, OptionSpec, PipelineInfo, Settings

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
        description="Views that the small weights draw of the other sides; 0 uses the picture alone",
        default=7,
        automatic=True,
        minimum=0,
        maximum=MAX_VIEWS,
    ),
    OptionSpec(
        name="steps",
        label="Steps",
        description="Denoising steps of the views. The small weights draw the likeliest shape in one step for seed 0, "
        "and bolder ones in four for other seeds",
        default=4,
        automatic=True,
        minimum=1,
        maximum=200,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the views follow the picture; 0 is fastest",
        default=2.0,
        automatic=True,
        minimum=0.0,
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
        label="Picture as Source",
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
    OUTLINE,
)


INFO = PipelineInfo(
    name="one2345",
    label="One-2-3-45",
    description="Draws the other sides with a diffusion model and builds a signed distance field from them",
    options=OPTIONS,
    licence="GPL-3.0-or-later",
)


@dataclass(frozen=True)
class PublishedChoice(Choice):
    """How the published networks are loaded; see `Published`.

    Attributes:
        low_memory: see there, as are the others.
        compiled: see there.
        fitted: see there.
        input_is_source: see there.
    """

    low_memory: bool
    compiled: bool
    fitted: bool
    input_is_source: bool


class One2345(Engine):
    """The pipeline `one2345`."""

    def __init__(self) -> None:
        super().__init__(INFO, SHIPPED)

    def installed(self) -> tuple[str, ...]:
        """The Zero123s that can be used: they are installed, as is the reconstructor that goes with them."""
        entries = [entry for entry in catalogue() if entry.pipeline == INFO.name and not entry.shipped]
        if not any(entry.layout == "sparseneus" and is_present(entry) for entry in entries):
            return ()
        return tuple(entry.name for entry in entries if entry.layout == "zero123" and is_present(entry))

    def absent(self, wanted: str) -> tuple[str, str]:
        """See `Engine`."""
        return (
            f"The weights {wanted} are not installed, or not those of the reconstructor.",
            f"Install both: turnaround models install {wanted}, and one2345-sparseneus.",
        )

    def choose(self, settings: Settings, device: str) -> Choice:
        """See `Engine`."""
        choice, options = super().choose(settings, device), settings.options
        if choice.weights == TINY:
            return choice
        from backend.pipelines.one2345.published import is_short_of_memory

        low_memory = options.get("low_memory", AUTO)
        return PublishedChoice(
            choice.weights,
            choice.device,
            low_memory=is_short_of_memory(device) if low_memory == AUTO else low_memory == "on",
            compiled=bool(options.get("compile", False)),
            fitted=bool(options.get("fitted_cube", False)),
            input_is_source=bool(options.get("picture_is_source", True)),
        )

    def framer(self, choice: Choice, settings: Settings) -> Framer:
        """See `Engine`."""
        return chosen_framer(choice.weights, settings)

    def make_recipe(self, choice: Choice) -> Recipe:
        """See `Engine`."""
        if not isinstance(choice, PublishedChoice):
            from backend.pipelines.one2345.guided import Guided

            return Guided(choice.device)
        from backend.pipelines.one2345.published import Published

        return Published(
            choice.weights,
            choice.device,
            low_memory=choice.low_memory,
            compiled=choice.compiled,
            fitted=choice.fitted,
            input_is_source=choice.input_is_source,
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
