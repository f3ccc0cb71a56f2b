"""The stages of One-2-3-45 from a picture to meshes.

    matting -> framing -> elevation -> shape from the input alone (the preview) -> views -> shape from all -> mesh

What differs from the paper at our size: the view generator looks at renders of the shape that the input alone gives,
as Ouroboros3D's looks at its own reconstruction, and the input picture is itself a source of the reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.pipelines.one2345.selection import MAX_VIEWS, NO_VIEWS, view_cameras
from backend.pipelines.registry import Output, Request
from backend.pipelines.stage import KeepError, Preview, Progress, StageCache, Stages
from backend.preparation.framing import DEFAULT_FOV_DEG, frame, framed_camera
from backend.preparation.matting import cut_out, warnings
from backend.preparation.picture import check_picture, reduce_picture
from backend.reconstructors.base import Field, MixedField
from backend.weights.store import tiny_path
from protocol.messages import Framing, OptionSpec, PipelineInfo, Report, Settings, ViewCamera

if TYPE_CHECKING:
    from backend.pipelines.one2345.networks import Networks

PICTURE_SIZE = 512
"""Side of the framed picture that colours are taken from, in pixels."""

DRAWN_SHARE = 0.25
"""What the shape from all views counts beside the shape from the picture alone; see docs/results.md."""

WEIGHTS = ("sparseneus", "xunet", "elevation")


@dataclass(frozen=True)
class Effort:
    """What a quality means.

    Attributes:
        views: drawn views.
        steps: denoising steps.
    """

    views: int
    steps: int


QUALITIES = {"draft": Effort(3, 1), "standard": Effort(7, 2), "fine": Effort(15, 4)}

OPTIONS = (
    OptionSpec(
        name="views",
        label="Views",
        description="Views to draw of the other sides; -1 takes what the quality asks for, 0 uses the picture alone",
        default=-1,
        minimum=-1,
        maximum=MAX_VIEWS,
    ),
    OptionSpec(
        name="steps",
        label="Steps",
        description="Denoising steps of the views; 0 takes what the quality asks for",
        default=0,
        minimum=0,
        maximum=200,
    ),
    OptionSpec(
        name="guidance",
        label="Guidance",
        description="How strongly the views follow the picture; 0 is fastest",
        default=0.0,
        minimum=0.0,
        maximum=10.0,
    ),
    OptionSpec(
        name="elevation_from",
        label="Elevation From",
        description="How the elevation is found when it is not given: read off the picture, or by matching near views",
        default="regression",
        choices=("regression", "matching"),
    ),
)


@dataclass(frozen=True)
class Elevation:
    """The elevation that a job works with, in degrees."""

    degrees: float
    spread: float
    source: Literal["given", "estimated", "assumed"]


class One2345:
    """The pipeline `one2345`; loads its networks when first asked for a mesh."""

    def __init__(self) -> None:
        self._networks: Networks | None = None

    def info(self) -> PipelineInfo:
        """How it presents itself."""
        missing = [name for name in WEIGHTS if not tiny_path(name).is_file()]
        return PipelineInfo(
            name="one2345",
            label="One-2-3-45",
            description="Draws the other sides with a diffusion model and builds a signed distance field from them",
            options=OPTIONS,
            ready=not missing,
            hint=f"These weights are missing: {', '.join(missing)}. Install Turnaround again." if missing else "",
            licence="GPL-3.0-or-later",
        )

    def free(self) -> None:
        """Drops the loaded networks."""
        self._networks = None

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """See `registry.Pipeline`."""
        for variant in range(request.settings.variants):
            progress.variant, progress.seconds, progress.cached = variant, {}, []
            yield self._variant(request, request.settings.seed + variant, device, Stages(cache, progress))

    def _variant(self, request: Request, seed: int, device: str, stages: Stages) -> Output:
        settings, progress = request.settings, stages.progress
        effort = chosen_effort(settings)

        progress.begin("Cutting Out", (0.0, 0.02))
        picture, framing, notes = prepare(request, stages)
        progress.begin("Loading Networks", (0.02, 0.05), Preview(cutout=picture))
        networks = self._load(device)

        progress.begin("Finding the Elevation", (0.05, 0.08))
        elevation = find_elevation(settings, picture, networks, effort.steps, stages)
        camera = framed_camera(elevation.degrees, 0.0, settings.fov_deg or DEFAULT_FOV_DEG)
        source = networks.source(picture, camera)

        progress.begin("Shaping the Preview", (0.08, 0.15))
        field: Field = networks.reconstruct(source, stages)
        coarse = networks.coarse_mesh(field, picture, camera)

        progress.begin("Drawing Views", (0.15, 0.8), Preview(mesh=coarse), can_keep=True)
        try:
            views = networks.draw(
                picture,
                camera,
                coarse,
                view_cameras(camera, effort.views),
                seed=seed,
                steps=effort.steps,
                guidance=float(settings.options.get("guidance", 0.0)),
                stages=stages,
            )
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
        mesh = networks.mesh(
            field,
            picture,
            camera,
            views,
            resolution=settings.resolution,
            target_faces=settings.target_faces,
            blend=blend,
            stages=stages,
        )
        progress.step(1, 1)
        return Output(
            mesh, views, picture, make_report(settings, seed, elevation, camera, framing, notes, device, progress)
        )

    def _load(self, device: str) -> Networks:
        if self._networks is None or self._networks.device != device:
            from backend.pipelines.one2345.networks import Networks  # torch is imported when it is first needed

            self._networks = Networks(device)
        return self._networks


def chosen_effort(settings: Settings) -> Effort:
    """What the quality means, unless the options say otherwise."""
    effort = QUALITIES[settings.quality]
    views, steps = int(settings.options.get("views", -1)), int(settings.options.get("steps", 0))
    return Effort(effort.views if views < 0 else views, steps or effort.steps)


def prepare(request: Request, stages: Stages) -> tuple[NDArray[np.uint8], Framing, tuple[str, ...]]:
    """The framed picture [512, 512, 4], where its square lies, and what an artist should know of the cutout."""
    check_picture(request.picture, has_matte=request.matte is not None)
    small, factor = reduce_picture(request.picture)
    matte = request.matte
    if matte is not None and factor > 1:
        matte = np.asarray(cv2.resize(matte, small.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)

    def compute() -> dict[str, NDArray[Any]]:
        return {"cutout": cut_out(small, matte)}

    cutout = stages.run("matting", compute, picture=small, matte=matte)["cutout"]
    picture, framing = frame(cutout, PICTURE_SIZE)
    framing = Framing(
        center_x=framing.center_x * factor, center_y=framing.center_y * factor, side=framing.side * factor
    )
    return picture, framing, tuple(warnings(cutout, small))


def find_elevation(
    settings: Settings, picture: NDArray[np.uint8], networks: Networks, steps: int, stages: Stages
) -> Elevation:
    """The artist's elevation, or the one that the picture seems to have."""
    if settings.elevation_deg is not None:
        return Elevation(settings.elevation_deg, 0.0, "given")
    if settings.options.get("elevation_from", "regression") == "matching":
        found = networks.match_elevation(picture, max(steps, 8), settings.seed, stages)
    else:
        found = networks.regress_elevation(picture, stages)
    return Elevation(found.elevation_deg, found.spread_deg, found.source)


def make_report(
    settings: Settings,
    seed: int,
    elevation: Elevation,
    camera: Camera,
    framing: Framing,
    notes: tuple[str, ...],
    device: str,
    progress: Progress,
) -> Report:
    """How the result came about."""
    return Report(
        pipeline="one2345",
        seed=seed,
        settings=settings,
        elevation_deg=elevation.degrees,
        elevation_source=elevation.source,
        elevation_spread_deg=elevation.spread,
        camera=ViewCamera(
            elevation_deg=camera.elevation_deg,
            azimuth_deg=camera.azimuth_deg,
            distance=camera.distance,
            fov_deg=camera.fov_deg,
        ),
        framing=framing,
        seconds={name: round(seconds, 4) for name, seconds in progress.seconds.items()},
        cached=tuple(dict.fromkeys(progress.cached)),
        warnings=notes,
        versions={name: version(name) for name in ("turnaround", "torch", "diffusers", "numpy")},
        device=device,
    )
