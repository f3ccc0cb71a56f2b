"""Our own weights' way to a mesh: views are drawn by a generator that looks at the shape which the picture alone gives.

    elevation -> shape from the input alone (the preview) -> views -> shape from all -> mesh

A generator of this size cannot invent an object's far side from a picture, but it can correct a render of a coarse
shape; Ouroboros3D does the same at every step. The input picture is itself a source of the reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.one2345.networks import Networks
from backend.pipelines.one2345.selection import view_cameras
from backend.pipelines.shaping import NO_VIEWS, Elevation, Made, finish, keeps_outline
from backend.pipelines.shipped import EXCESS
from backend.pipelines.stage import KeepError, Preview, Stages
from backend.preparation.framing import DEFAULT_FOV_DEG, framed_camera
from backend.reconstructors.base import Field, MixedField, ThinnedField
from backend.weights.store import tiny_path, weights_digest
from protocol.messages import Settings

DRAWN_SHARE = 0.4
"""What the shape from all views counts beside the shape from the picture alone; see docs/results.md."""

DRAWN_TRUST = 0.005
"""See `paint`: so little is best for views that a generator of this size draws. Its colours are right, and its details
are not."""

MATCHING_STEPS = 8
"""Views that are matched need at least so many denoising steps."""


@dataclass(frozen=True)
class Effort:
    """What a quality means.

    Attributes:
        views: drawn views.
        steps: denoising steps.
    """

    views: int
    steps: int


QUALITIES = {"draft": Effort(3, 1), "standard": Effort(7, 1), "fine": Effort(15, 1)}
"""One step draws the likeliest view, and the best by every measure (docs/results.md)."""

LIKELIEST_SEED, BOLD_STEPS = 0, 4
"""Seed 0 asks for the likeliest shape. Any other asks for another one: in so many steps, noise has a say."""


class Guided:
    """A `Recipe` on the weights that ship."""

    def __init__(self, device: str) -> None:
        self.networks = Networks(device)

    def make(self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, seed: int, stages: Stages) -> Made:
        """See `Recipe`."""
        networks, progress, effort = self.networks, stages.progress, chosen_effort(settings, seed)
        (picture,) = pictures

        progress.begin("Finding the Elevation", (0.05, 0.08))
        elevation = self.elevation(picture, settings, effort.steps, stages)
        camera = framed_camera(elevation.degrees, 0.0, settings.fov_deg or DEFAULT_FOV_DEG)
        source = networks.source(picture, camera)

        progress.begin("Shaping the Preview", (0.08, 0.15))
        field: Field = networks.reconstruct(source, stages)
        coarse = networks.coarse_mesh(field, picture, camera, outline=keeps_outline(settings))

        progress.begin("Drawing Views", (0.15, 0.8), Preview(mesh=coarse), can_keep=True)
        try:
            views = self.draw(picture, camera, coarse, effort, settings, seed, stages)
        except KeepError:  # the shape that stands in the viewport is the one that is wanted
            views = NO_VIEWS
            progress.keep.clear()

        progress.begin("Building the Shape", (0.8, 0.88), Preview(views=views.images) if len(views) else None)
        blend = None
        if len(views):
            drawn = networks.reconstruct(source + views, stages)
            blend = partial(networks.reconstructor.blend, source + views, drawn)
            field = MixedField(field, drawn, DRAWN_SHARE)

        progress.begin("Meshing", (0.88, 1.0))
        field = ThinnedField(field, EXCESS)
        weights = weights_digest(tiny_path("sparseneus"))
        mesh = finish(
            field,
            picture,
            camera,
            views,
            blend,
            settings=settings,
            stages=stages,
            weights=weights,
            outline=keeps_outline(settings),
            trust=DRAWN_TRUST,
        )
        return Made(mesh, views, elevation, camera)

    def elevation(self, picture: NDArray[np.uint8], settings: Settings, steps: int, stages: Stages) -> Elevation:
        """The artist's elevation, or the one that the picture seems to have."""
        if settings.elevation_deg is None and settings.options.get("elevation_from") == "matching":
            steps = max(steps, MATCHING_STEPS)
            return Elevation.found(self.networks.match_elevation(picture, steps, settings.seed, stages))
        return self.networks.elevation(picture, settings, stages)

    def draw(
        self,
        picture: NDArray[np.uint8],
        camera: Camera,
        coarse: Mesh,
        effort: Effort,
        settings: Settings,
        seed: int,
        stages: Stages,
    ) -> ViewSet:
        """The other sides."""
        return self.networks.draw(
            picture,
            camera,
            coarse,
            view_cameras(camera, effort.views),
            seed=seed,
            steps=effort.steps,
            guidance=float(settings.options.get("guidance", 0.0)),
            stages=stages,
        )


def chosen_effort(settings: Settings, seed: int) -> Effort:
    """What quality and seed mean, unless the options say otherwise."""
    effort, options = QUALITIES[settings.quality], settings.options
    steps = effort.steps if seed == LIKELIEST_SEED else BOLD_STEPS
    return Effort(int(options.get("views", effort.views)), int(options.get("steps", steps)))
