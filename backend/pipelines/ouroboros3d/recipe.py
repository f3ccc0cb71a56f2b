"""From a picture to a mesh in Ouroboros3D's order.

    elevation -> views and Gaussians, step by step -> polished -> signed distance fused from renders of them -> mesh

From the first quarter of the steps on, the shape is shown as it forms and can be kept as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.fusion import coarse_mesh, fuse
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.mesh import Mesh
from backend.pipelines.choosing import TINY
from backend.pipelines.ouroboros3d.loop import Feeding, State
from backend.pipelines.ouroboros3d.networks import Networks
from backend.pipelines.shaping import Made, finish, keeps_outline
from backend.pipelines.shipped import ShippedNetworks
from backend.pipelines.stage import Preview, Progress, Stages
from backend.preparation.framing import DEFAULT_FOV_DEG, framed_camera
from protocol.errors import TurnaroundError
from protocol.messages import Settings

QUALITIES = {"draft": 0.5, "standard": 1.0, "fine": 2.0}
"""Of the denoising steps that suit the weights: 25 for the published ones."""

TINY_POLISH = 80
"""Steps of polishing with the small weights, see docs/results.md; with the published ones nobody has measured any."""

WATCHED_FROM = 0.25
"""Share of the steps before which the shape is too vague to be shown."""

LOWEST_DEG = -15.0
"""The networks have hardly seen anything from further below, and Gaussians of undersides cannot be relied on."""

CUBE_HALF = 0.6
"""Half the cube that is meshed, in object units; see `training.data.episodes`."""


class Ouroboros3DRecipe:
    """A `Recipe`.

    Args:
        weights: see `Networks`.
        device: torch device.
    """

    def __init__(self, weights: str, device: str) -> None:
        self.weights = weights
        self.networks, self.shipped = Networks(weights, device), ShippedNetworks(device)

    def make(self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, seed: int, stages: Stages) -> Made:
        """See `Recipe`."""
        networks, progress = self.networks, stages.progress
        (picture,) = pictures
        progress.begin("Finding the Elevation", (0.05, 0.07))
        elevation = self.shipped.elevation(picture, settings, stages)
        camera = framed_camera(elevation.degrees, 0.0, settings.fov_deg or DEFAULT_FOV_DEG)

        progress.begin("Drawing Views", (0.07, 0.8))
        views, gaussians = networks.draw(
            picture,
            camera,
            seed=seed,
            steps=chosen_steps(settings, networks.generator.config.steps),
            guidance=chosen_guidance(settings, networks.generator.config.guidance),
            feeding=chosen_feeding(settings),
            stages=stages,
            on_state=Watch(progress),
        )
        progress.keep.clear()

        if steps := chosen_polish(settings, self.weights):
            progress.begin("Polishing", (0.8, 0.92), Preview(views=views.images))
            gaussians = networks.polish(gaussians, picture, views, steps, stages)
        progress.begin("Meshing", (0.92, 1.0), Preview(views=views.images))
        outline = keeps_outline(settings, self.weights)
        mesh = mesh_of(gaussians, picture, camera, settings, stages, networks.digest, outline=outline)
        return Made(mesh, views, elevation, camera, gaussians.packed())


def mesh_of(
    gaussians: Gaussians,
    picture: NDArray[np.uint8],
    camera: Camera,
    settings: Settings,
    stages: Stages,
    weights: str,
    *,
    outline: bool,
) -> Mesh:
    """The surface of Gaussians, in the picture's colours where it sees and in their own elsewhere."""
    field = fuse(gaussians, settings.resolution, CUBE_HALF, lowest_deg=LOWEST_DEG)
    return finish(
        field,
        picture,
        camera,
        None,
        field.colors,
        settings=settings,
        stages=stages,
        weights=weights,
        outline=outline,
    )


class Watch:
    """Reports the steps and shows the shape as it forms.

    Args:
        progress: the job's.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._budget = progress, PreviewBudget()

    def __call__(self, state: State) -> None:
        """Told of every state; raises what stops the drawing."""
        step, total = state.step.number, state.step.total
        formed = step >= WATCHED_FROM * total
        preview = None
        if formed and step < total and self._budget.allows():
            with self._budget:
                preview = Preview(mesh=_seen(state), views=state.views.images)
        self._progress.step(step, total, preview, can_keep=formed)


def _seen(state: State) -> Mesh | None:
    """A coarse mesh of the present shape; None where there is none yet."""
    try:
        return coarse_mesh(state.shape, lowest_deg=LOWEST_DEG)
    except TurnaroundError as error:
        if error.code != "shape.empty":
            raise
        return None


class PreviewBudget:
    """Lets previews be made at most twice a second, and in at most a tenth of the time."""

    def __init__(self, interval: float = 0.5, share: float = 0.1) -> None:
        self._interval, self._share = interval, share
        self._began = self._last = time.monotonic()
        self._spent = self._entered = 0.0

    def allows(self) -> bool:
        """Whether it is time for another one."""
        now = time.monotonic()
        return now - self._last >= self._interval and self._spent <= self._share * (now - self._began)

    def __enter__(self) -> None:
        self._entered = self._last = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._spent += time.monotonic() - self._entered


def chosen_steps(settings: Settings, own: int) -> int:
    """The artist's number, or what the quality makes of that which suits the weights."""
    return int(settings.options.get("steps", round(own * QUALITIES[settings.quality])))


def chosen_polish(settings: Settings, weights: str) -> int:
    """The artist's number, or what suits the weights."""
    return int(settings.options.get("polish", TINY_POLISH if weights == TINY else 0))


def chosen_guidance(settings: Settings, own: tuple[float, float]) -> tuple[float, float]:
    """Of the first view and the last: the picture's own view is drawn without in any case, as published."""
    return own[0], float(settings.options.get("guidance", own[1]))


def chosen_feeding(settings: Settings) -> Feeding:
    """Which steps are shown the shape."""
    options = settings.options
    if not options.get("feedback", True):
        return Feeding(end=0.0)
    return Feeding(
        every=int(options.get("feedback_every", 1)),
        begin=float(options.get("feedback_begin", 0.0)),
        end=float(options.get("feedback_end", 1.0)),
    )
