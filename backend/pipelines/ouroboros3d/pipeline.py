"""Ouroboros3D as a pipeline: the picture prepared, the views and their shape drawn together, the shape meshed.

    cutout -> elevation -> views and Gaussians, step by step -> signed distance fused from renders of them -> mesh

From the first quarter of the steps on, the shape is shown as it forms and can be kept as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.pipelines.choosing import AUTO, TINY, choose_weights, missing_hint
from backend.pipelines.preparing import prepare
from backend.pipelines.registry import Output, Request
from backend.pipelines.reporting import make_report
from backend.pipelines.shaping import Elevation, Made, finish
from backend.pipelines.stage import Preview, Progress, StageCache, Stages
from backend.preparation.framing import DEFAULT_FOV_DEG, framed_camera
from backend.weights.store import catalogue, is_present
from protocol.errors import TurnaroundError
from protocol.messages import OptionSpec, PipelineInfo, Settings

if TYPE_CHECKING:
    from backend.geometry.gaussians.gaussians import Gaussians
    from backend.geometry.mesh import Mesh
    from backend.pipelines.ouroboros3d.loop import Feeding, State
    from backend.pipelines.ouroboros3d.networks import Networks
    from backend.pipelines.shipped import ShippedNetworks

NAME = "ouroboros3d"

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
        description="Denoising steps; 0 takes what the quality asks for",
        default=0,
        minimum=0,
        maximum=200,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the far views follow the picture, 1 for no guidance, which is fastest; 0 takes what "
        "suits the weights",
        default=0.0,
        minimum=0.0,
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
)

QUALITIES = {"draft": 0.5, "standard": 1.0, "fine": 2.0}
"""Of the denoising steps that suit the weights: 25 for the published ones."""

WATCHED_FROM = 0.25
"""Share of the steps before which the shape is too vague to be shown."""

LOWEST_DEG = -15.0
"""The networks have hardly seen anything from further below, and Gaussians of undersides cannot be relied on."""

CUBE_HALF = 0.6
"""Half the cube that is meshed, in object units; see `training.data.episodes`."""


class Ouroboros3D:
    """The pipeline `ouroboros3d`; loads its networks when first asked for a mesh."""

    def __init__(self) -> None:
        self._networks: Networks | None = None
        self._shipped: ShippedNetworks | None = None
        self._key: tuple[str, str] | None = None

    def info(self) -> PipelineInfo:
        """How it presents itself."""
        hint = missing_hint(SHIPPED)
        choices = (AUTO, TINY, PUBLISHED) if published_is_there() else (AUTO, TINY)
        return PipelineInfo(
            name=NAME,
            label="Ouroboros3D",
            description="Draws eight views while it looks at the shape that they make, and lets you watch it form",
            options=(structs.replace(OPTIONS[0], choices=choices), *OPTIONS[1:]),
            ready=not hint,
            hint=hint,
            licence="GPL-3.0-or-later",
            splats=True,
        )

    def free(self) -> None:
        """Drops the loaded networks."""
        self._networks, self._shipped, self._key = None, None, None

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """See `registry.Pipeline`."""
        for variant in range(request.settings.variants):
            progress.variant, progress.seconds, progress.cached = variant, {}, []
            yield self._variant(request, request.settings.seed + variant, device, Stages(cache, progress))

    def _variant(self, request: Request, seed: int, device: str, stages: Stages) -> Output:
        settings, progress = request.settings, stages.progress
        progress.begin("Cutting Out", (0.0, 0.02))
        picture, framing, notes = prepare(request, stages, device)

        progress.begin("Loading Networks", (0.02, 0.05), Preview(cutout=picture, framing=framing, notes=notes))
        weights = chosen_weights(settings, device)
        networks, shipped = self._load(weights, device)

        progress.begin("Finding the Elevation", (0.05, 0.07))
        if settings.elevation_deg is not None:
            elevation = Elevation.given(settings.elevation_deg)
        else:
            elevation = Elevation.found(shipped.regress_elevation(picture, stages))
        camera = framed_camera(elevation.degrees, 0.0, settings.fov_deg or DEFAULT_FOV_DEG)

        progress.begin("Drawing Views", (0.07, 0.85))
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

        progress.begin("Meshing", (0.85, 1.0), Preview(views=views.images))
        mesh = mesh_of(gaussians, picture, camera, settings, stages, networks.digest)
        made = Made(mesh, views, elevation, camera)
        progress.step(1, 1)
        report = make_report(NAME, settings, seed, made, framing, notes, weights, device, progress)
        return Output(mesh, views, picture, report, gaussians.packed())

    def _load(self, weights: str, device: str) -> tuple[Networks, ShippedNetworks]:
        """The networks stay loaded until others are asked for; torch is imported here, when it is first needed."""
        from backend.pipelines.ouroboros3d.networks import Networks
        from backend.pipelines.shipped import ShippedNetworks

        key = (weights, device)
        if self._networks is None or self._shipped is None or self._key != key:
            self.free()
            self._networks, self._shipped, self._key = Networks(weights, device), ShippedNetworks(device), key
        return self._networks, self._shipped


def mesh_of(
    gaussians: Gaussians, picture: NDArray[np.uint8], camera: Camera, settings: Settings, stages: Stages, weights: str
) -> Mesh:
    """The surface of Gaussians, in the picture's colours where it sees and in their own elsewhere."""
    from backend.geometry.fusion import fuse

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
    from backend.geometry.fusion import coarse_mesh

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


def published_is_there() -> bool:
    """Whether all that the published weights are made of is installed."""
    entries = {entry.name: entry for entry in catalogue()}
    return all(name in entries and is_present(entries[name]) for name in NEEDED)


def chosen_weights(settings: Settings, device: str) -> str:
    """`TINY` or `PUBLISHED`.

    Raises:
        TurnaroundError: `weights.absent`.
    """
    return choose_weights(
        settings,
        device,
        (PUBLISHED,) if published_is_there() else (),
        lambda wanted: (
            "The published weights of Ouroboros3D are not all installed.",
            f"Install them: turnaround models install {' and '.join(NEEDED)}.",
        ),
    )


def chosen_steps(settings: Settings, own: int) -> int:
    """The artist's number, or what the quality makes of that which suits the weights."""
    return int(settings.options.get("steps", 0)) or round(own * QUALITIES[settings.quality])


def chosen_guidance(settings: Settings, own: tuple[float, float]) -> tuple[float, float]:
    """Of the first view and the last: the picture's own view is drawn without in any case, as published."""
    last = float(settings.options.get("guidance", 0.0))
    return (own[0], last) if last else own


def chosen_feeding(settings: Settings) -> Feeding:
    """Which steps are shown the shape."""
    from backend.pipelines.ouroboros3d.loop import Feeding

    options = settings.options
    if not options.get("feedback", True):
        return Feeding(end=0.0)
    return Feeding(
        every=int(options.get("feedback_every", 1)),
        begin=float(options.get("feedback_begin", 0.0)),
        end=float(options.get("feedback_end", 1.0)),
    )
