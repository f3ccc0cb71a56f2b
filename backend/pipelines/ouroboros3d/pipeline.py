"""Ouroboros3D as a pipeline: the views and their shape are drawn together."""

from __future__ import annotations

from backend.pipelines.choosing import AUTO, TINY
from backend.pipelines.engine import Choice, Engine
from backend.pipelines.shaping import OUTLINE, Recipe
from backend.weights.store import catalogue, is_present
from protocol.messages import OptionSpec, PipelineInfo

SHIPPED = ("multiview", "lgm", "elevation")

PUBLISHED = "ouroboros3d"
"""The weights' name where they are all there."""

NEEDED = ("ouroboros3d", "stable-video-diffusion")
"""Entries of the catalogue that the published weights are made of."""

OPTIONS = (
    OptionSpec(
        name="weights",
        label="Weights",
        description="What draws and builds: the small weights that ship, or the installed ones of the published size; "
        "auto takes the published ones where they and a GPU are there",
        default=AUTO,
        choices=(AUTO, TINY),
    ),
    OptionSpec(
        name="steps",
        label="Steps",
        description="Denoising steps",
        default=25,
        automatic=True,
        minimum=1,
        maximum=200,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the far views follow the picture; 1 is without guidance, and fastest",
        default=2.0,
        automatic=True,
        minimum=1.0,
        maximum=10.0,
    ),
    OptionSpec(
        name="feedback",
        label="Feedback",
        description="Show every step the shape that the views had before it. Without, views are drawn first and the "
        "shape is built afterwards",
        default=True,
    ),
    OptionSpec(
        name="feedback_every",
        label="Feedback Every",
        description="Build the shape anew for every so many steps",
        default=1,
        minimum=1,
        maximum=50,
    ),
    OptionSpec(
        name="feedback_begin",
        label="Feedback From",
        description="Share of the steps after which the shape is shown",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
    ),
    OptionSpec(
        name="feedback_end",
        label="Feedback Until",
        description="Share of the steps until which the shape is shown",
        default=1.0,
        minimum=0.0,
        maximum=1.0,
    ),
    OptionSpec(
        name="polish",
        label="Polish",
        description="Steps in which the finished shape is fitted to the views once more and its surface smoothed; 0 "
        "leaves it as it was reconstructed",
        default=80,
        automatic=True,
        minimum=0,
        maximum=1000,
    ),
    OUTLINE,
)

INFO = PipelineInfo(
    name="ouroboros3d",
    label="Ouroboros3D",
    description="Draws eight views while it looks at the shape that they make, and lets you watch it form",
    options=OPTIONS,
    licence="GPL-3.0-or-later",
    splats=True,
)


class Ouroboros3D(Engine):
    """The pipeline `ouroboros3d`."""

    def __init__(self) -> None:
        super().__init__(INFO, SHIPPED)

    def installed(self) -> tuple[str, ...]:
        """The published weights, where all that they are made of is there."""
        entries = {entry.name: entry for entry in catalogue()}
        whole = all(name in entries and is_present(entries[name]) for name in NEEDED)
        return (PUBLISHED,) if whole else ()

    def absent(self, wanted: str) -> tuple[str, str]:
        """See `Engine`."""
        return (
            "The published weights of Ouroboros3D are not all installed.",
            f"Install them: turnaround models install {' and '.join(NEEDED)}.",
        )

    def make_recipe(self, choice: Choice) -> Recipe:
        """See `Engine`."""
        from backend.pipelines.ouroboros3d.recipe import Ouroboros3DRecipe

        return Ouroboros3DRecipe(choice.weights, choice.device)
