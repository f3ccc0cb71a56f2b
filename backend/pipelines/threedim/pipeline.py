"""3DiM as a pipeline: views are drawn from a growing pool of pictures, and a shape is built from all."""

from __future__ import annotations

from backend.pipelines.choosing import AUTO, TINY
from backend.pipelines.engine import Choice, Engine
from backend.pipelines.shaping import OUTLINE, Recipe
from backend.weights.store import catalogue, is_present
from protocol.messages import OptionSpec, PipelineInfo

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
        description="Views that are drawn of the other sides; 0 uses the pictures alone",
        default=8,
        automatic=True,
        minimum=0,
        maximum=MAX_VIEWS,
    ),
    OptionSpec(
        name="steps",
        label="Steps",
        description="Denoising steps of each view; 256 is the paper's",
        default=32,
        automatic=True,
        minimum=1,
        maximum=1000,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the views follow the pictures; 0 is fastest",
        default=2.0,
        automatic=True,
        minimum=0.0,
        maximum=10.0,
    ),
    OptionSpec(
        name="sampler",
        label="Sampler",
        description="How noise is taken off: ancestral as in the paper, where every step can still mend what the ones "
        "before it did, or ddim; auto takes what suits the weights",
        default=AUTO,
        choices=(AUTO, "ddim", "ancestral"),
    ),
    OptionSpec(
        name="conditioning",
        label="Conditioning",
        description="What every view is drawn from. Stochastic, as in the paper: at each step any of the pictures and "
        "the finished views. Anchored: a picture at every other step, and between them the nearest finished views. "
        "Input: the pictures alone. Auto takes what suits the weights",
        default=AUTO,
        choices=(AUTO, "stochastic", "anchored", "input"),
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
        "chairs. Where it is not set, what the weights say",
        default=1.3,
        automatic=True,
        minimum=0.1,
        maximum=10.0,
    ),
    OUTLINE,
)


INFO = PipelineInfo(
    name="3dim",
    label="3DiM",
    description="Draws any number of views that agree with one another, from one picture or several, and builds a "
    "shape from them",
    options=OPTIONS,
    licence="GPL-3.0-or-later",
    several_pictures=True,
    novel_views=True,
)


class ThreeDim(Engine):
    """The pipeline `3dim`."""

    def __init__(self) -> None:
        super().__init__(INFO, SHIPPED)

    def installed(self) -> tuple[str, ...]:
        """The installed view generators."""
        return tuple(entry.name for entry in catalogue() if entry.layout == "xunet" and is_present(entry))

    def absent(self, wanted: str) -> tuple[str, str]:
        """See `Engine`."""
        return (
            f"The weights {wanted} are not installed, or not those of a view generator.",
            f"Import them: turnaround models import {wanted} PATH.",
        )

    def make_recipe(self, choice: Choice) -> Recipe:
        """See `Engine`."""
        from backend.pipelines.threedim.recipe import ThreeDimRecipe

        return ThreeDimRecipe(choice.weights, choice.device)
