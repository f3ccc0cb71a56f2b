"""One-2-3-45 in the order of its paper, on the published weights.

    shape from the input alone (our own small weights: the preview) -> Zero123: four views around, four near the first
    -> elevation from their matches -> four more around, near views of all -> SparseNeuS -> mesh

Where the elevation needs no matching, all eight views around are drawn in one batch, and all near ones in the next.
Zero123 is told turns, not elevations: an elevation that the artist overrides redraws only the ring that it moves.
Stable Zero123 is told the elevation too, and draws everything again where quite another one is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.devices import describe
from backend.elevation.matching import Matcher, match_views
from backend.elevation.solve import NEAR_MOVES, solve_elevation
from backend.generators.zero123.generator import PUBLISHED_GUIDANCE, ViewRequest, Zero123Generator
from backend.generators.zero123.pose import FOV_DEG
from backend.generators.zero123.preprocessing import SIZE, snap_white
from backend.generators.zero123.sampling import Schedule
from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.one2345.networks import Networks
from backend.pipelines.one2345.selection import ANCHOR_MOVES, Moves, moved, ring_moves
from backend.pipelines.shaping import NO_VIEWS, Elevation, Made, finish, keeps_outline
from backend.pipelines.shipped import EXCESS
from backend.pipelines.stage import KeepError, Preview, Stages
from backend.preparation.framing import framed_camera
from backend.reconstructors.base import ThinnedField
from backend.reconstructors.sparseneus.reconstructor import SdfField, SparseNeuSReconstructor, resampled
from backend.weights.store import (
    WeightsEntry,
    entry_digest,
    find_entry,
    is_present,
    stored_files,
    tiny_path,
    weights_digest,
    weights_folder,
)
from protocol.messages import Settings

SPARSENEUS, LOFTR = "one2345-sparseneus", "loftr-indoor"
"""Entries of the catalogue."""

PAPER_STEPS = (75, 50)
"""Denoising steps of the views around the object, and of the near views, in the published code."""

REDRAWN_DEG = 5.0
"""By how much the elevation that is found may differ from the one that Stable Zero123 was told for the first views:
with more, one shape would be built from views of two elevations."""

LOW_MEMORY_BYTES = 10 << 30
"""Devices with less keep only the network on them that is at work."""


@dataclass(frozen=True)
class Sampling:
    """How views are drawn.

    Attributes:
        schedule: see `Schedule`.
        around: denoising steps of the views around the object.
        near: of the near views.
        guidance: see `Zero123Generator.draw`.
        seed: of the variant.
    """

    schedule: Schedule
    around: int
    near: int
    guidance: float
    seed: int


QUALITIES = {"draft": 8, "standard": 14, "fine": 25}
"""Denoising steps of the fast schedule."""


class Published:
    """A `Recipe` on one of the published Zero123s and the published reconstructor.

    Args:
        zero123: name in the catalogue.
        device: torch device.
        low_memory: keep on the device only the network that is at work.
        compiled: compile Zero123's U-Net.
        fitted: see `SparseNeuSReconstructor`.
        input_is_source: see `SparseNeuSReconstructor`.

    Raises:
        TurnaroundError: `weights.unknown`.
    """

    def __init__(
        self,
        zero123: str,
        device: str,
        *,
        low_memory: bool = False,
        compiled: bool = False,
        fitted: bool = False,
        input_is_source: bool = True,
    ) -> None:
        self.zero123, self.sparseneus, self.loftr = find_entry(zero123), find_entry(SPARSENEUS), find_entry(LOFTR)
        self.device, self.low_memory, self.compiled = device, low_memory, compiled
        self.fitted, self.input_is_source = fitted, input_is_source
        self.preview = Networks(device)

    # -------------------------------------------------------------------------------------------------- networks

    @cached_property
    def generator(self) -> Zero123Generator:
        """Loaded when first used, as are the others."""
        folder = weights_folder(self.zero123)
        return Zero123Generator(folder, self.device, low_memory=self.low_memory, compiled=self.compiled)

    @cached_property
    def reconstructor(self) -> SparseNeuSReconstructor:
        """The published SparseNeuS."""
        [path] = stored_files(self.sparseneus)
        return SparseNeuSReconstructor(path, self.device, fitted=self.fitted, input_is_source=self.input_is_source)

    @cached_property
    def matcher(self) -> Matcher:
        """LoFTR where it is installed, optical flow where not."""
        path = self._loftr_path()
        if path is None:
            return match_views
        from backend.elevation.loftr import LoFTRMatcher  # kornia is imported when it is needed

        return LoFTRMatcher(path, self.device)

    def _loftr_path(self) -> Path | None:
        return stored_files(self.loftr)[0] if is_present(self.loftr) else None

    def digest(self, entry: WeightsEntry) -> str:
        """What the stages' keys know a checkpoint by."""
        return entry_digest(entry)

    @property
    def is_told_elevation(self) -> bool:
        """Whether Zero123 is told where the picture's camera stands, and not only how far to turn."""
        return self.zero123.pose == "absolute_polar"

    # ------------------------------------------------------------------------------------------------------ stages

    def make(self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, seed: int, stages: Stages) -> Made:
        """See `Recipe`."""
        progress, sampling = stages.progress, chosen_sampling(settings, seed)
        (picture,) = pictures
        elevation = self.preview.elevation(picture, settings, stages)

        progress.begin("Shaping the Preview", (0.05, 0.1))
        camera = picture_camera(elevation)
        rough = self.preview.reconstruct(self.preview.source(picture, camera), stages)
        coarse = self.preview.coarse_mesh(rough, picture, camera, outline=keeps_outline(settings))
        try:
            views, near, elevation = self.select(picture, elevation, coarse, settings, sampling, stages)
            camera = picture_camera(elevation)
        except KeepError:  # the shape that stands in the viewport is the one that is wanted
            progress.keep.clear()
            progress.begin("Meshing", (0.88, 1.0))
            mesh = finish(
                ThinnedField(rough, EXCESS),
                picture,
                camera,
                NO_VIEWS,
                None,
                settings=settings,
                stages=stages,
                weights=weights_digest(tiny_path("sparseneus")),
                outline=keeps_outline(settings),
            )
            return Made(mesh, NO_VIEWS, elevation, camera)

        progress.begin("Building the Shape", (0.85, 0.92), Preview(views=near.images))
        sources = ViewSet(resampled(picture, SIZE)[None], (camera,)) + near
        field = self.reconstruct(sources, stages)
        progress.begin("Meshing", (0.92, 1.0))
        blend = partial(self.reconstructor.blend, sources, field)
        weights = self.digest(self.sparseneus)
        mesh = finish(
            field,
            picture,
            camera,
            near,
            blend,
            settings=settings,
            stages=stages,
            weights=weights,
            outline=keeps_outline(settings, self.zero123.name),
            smoothing=0,
        )
        return Made(mesh, views + near, elevation, camera)

    def select(
        self,
        picture: NDArray[np.uint8],
        elevation: Elevation,
        coarse: Mesh,
        settings: Settings,
        sampling: Sampling,
        stages: Stages,
    ) -> tuple[ViewSet, ViewSet, Elevation]:
        """The eight views around the object, the 32 near them, and the elevation that their cameras stand by.

        Args:
            picture: framed.
            elevation: the artist's, or the regressor's.
            coarse: the preview.
            settings: of the job.
            sampling: how views are drawn.
            stages: of the job.

        Raises:
            KeepError: the preview is wanted.
        """
        progress, camera = stages.progress, picture_camera(elevation)
        progress.begin("Drawing Around", (0.1, 0.25), Preview(mesh=coarse), can_keep=True)
        if not is_matched(elevation, settings):
            return (*self.select_at_once(picture, camera, sampling, stages), elevation)

        views = self.around(picture, camera, ANCHOR_MOVES, sampling, stages)
        progress.begin("Drawing Near Views", (0.25, 0.35), Preview(views=views.images), can_keep=True)
        near = self.near(views.images[:1], views.cameras[:1], sampling, stages)

        progress.begin("Finding the Elevation", (0.35, 0.37), can_keep=True)
        told, elevation = elevation, self.elevation(near, camera, elevation, stages)
        camera = picture_camera(elevation)
        if self.is_told_elevation and abs(elevation.degrees - told.degrees) > REDRAWN_DEG:
            progress.begin("Drawing Around", (0.37, 0.5), can_keep=True)
            return (*self.select_at_once(picture, camera, sampling, stages), elevation)
        views = ViewSet(views.images, moved([camera], ANCHOR_MOVES))
        near = ViewSet(near.images, moved(views.cameras[:1], NEAR_MOVES))

        progress.begin("Drawing Around", (0.37, 0.5), can_keep=True)
        ring = self.around(picture, camera, ring_moves(camera), sampling, stages)
        progress.begin("Drawing Near Views", (0.5, 0.85), Preview(views=ring.images), can_keep=True)
        views = views + ring
        return views, near + self.near(views.images[1:], views.cameras[1:], sampling, stages), elevation

    def select_at_once(
        self, picture: NDArray[np.uint8], camera: Camera, sampling: Sampling, stages: Stages
    ) -> tuple[ViewSet, ViewSet]:
        """The same views where nothing more has to be found out about the camera: a batch for each stage."""
        progress = stages.progress
        views = self.around(picture, camera, (*ANCHOR_MOVES, *ring_moves(camera)), sampling, stages)
        progress.begin("Drawing Near Views", (progress.span[1], 0.85), Preview(views=views.images), can_keep=True)
        return views, self.near(views.images, views.cameras, sampling, stages)

    def around(
        self, picture: NDArray[np.uint8], camera: Camera, moves: Moves, sampling: Sampling, stages: Stages
    ) -> ViewSet:
        """Views of the first stage (section 3.3)."""
        return self._draw("around", resampled(picture, SIZE)[None], [camera], moves, sampling.around, sampling, stages)

    def near(self, images: NDArray[np.uint8], cameras: Sequence[Camera], sampling: Sampling, stages: Stages) -> ViewSet:
        """Four views near each of some of the first stage's."""
        return self._draw("near", snap_white(images), cameras, NEAR_MOVES, sampling.near, sampling, stages)

    def _draw(
        self,
        name: str,
        images: NDArray[np.uint8],
        cameras: Sequence[Camera],
        moves: Moves,
        steps: int,
        sampling: Sampling,
        stages: Stages,
    ) -> ViewSet:
        targets = moved(cameras, moves)
        from_each = [(image, camera) for image, camera in zip(images, cameras, strict=True) for _ in moves]
        requests = [
            ViewRequest(image, camera, target) for (image, camera), target in zip(from_each, targets, strict=True)
        ]

        def compute(missing: list[int]) -> list[dict[str, NDArray[Any]]]:
            views = self.generator.draw(
                [requests[number] for number in missing],
                seed=sampling.seed,
                steps=steps,
                guidance=sampling.guidance,
                progress=stages.progress,
                schedule=sampling.schedule,
            )
            return [{"image": image} for image in views.images]

        # What Zero123 is told: turns alone, and with some weights the picture's own elevation.
        told = (steps, sampling, self.digest(self.zero123))
        keys = [
            (image, move, camera.elevation_deg if self.is_told_elevation else None, told)
            for image, camera in zip(images, cameras, strict=True)
            for move in moves
        ]
        drawn = stages.run_each(name, compute, keys)
        return ViewSet(np.stack([view["image"] for view in drawn]), targets)

    def elevation(self, near: ViewSet, camera: Camera, regressed: Elevation, stages: Stages) -> Elevation:
        """Where the near views agree; else what our regressor read off the picture, with a word.

        Args:
            near: the near views of the first view.
            camera: that they were drawn about.
            regressed: the regressor's.
            stages: of the job.
        """

        def compute() -> dict[str, NDArray[Any]]:
            found = Elevation.found(
                solve_elevation(self.matcher(near.images), NEAR_MOVES, camera=camera, size=near.images.shape[1])
            )
            return {
                "estimate": np.array([found.degrees, found.spread]),
                "confidence": np.array([] if found.confidence is None else [found.confidence]),
                "note": np.frombuffer(found.note.encode(), np.uint8),
            }

        loftr = self._loftr_path()
        arrays = stages.run(
            "elevation",
            compute,
            images=near.images,
            loftr=None if loftr is None else self.digest(self.loftr),
        )
        if not len(arrays["confidence"]):
            return replace(regressed, note=unmatched(regressed))
        degrees, spread, confidence = (float(x) for x in (*arrays["estimate"], *arrays["confidence"]))
        return Elevation(degrees, spread, "estimated", bytes(arrays["note"]).decode(), confidence)

    def reconstruct(self, sources: ViewSet, stages: Stages) -> SdfField:
        """The shape that the near views show; the first of `sources` is the picture."""

        def compute() -> dict[str, NDArray[Any]]:
            return self.reconstructor.reconstruct(sources, progress=stages.progress).arrays()

        arrays = stages.run(
            "shape",
            compute,
            images=sources.images,
            cameras=sources.cameras,
            fitted=self.fitted,
            input_is_source=self.input_is_source,
            weights=self.digest(self.sparseneus),
        )
        return self.reconstructor.restored(arrays)


def picture_camera(elevation: Elevation) -> Camera:
    """The camera of the framed picture, as Zero123 takes it.

    Zero123 is told no field of view and draws at its own, and it sees the picture in a square like its own views. So
    the artist's `fov_deg` changes nothing here: with another one the picture, and what is painted from it, would not
    fit the views that the mesh is built from. The report's camera, which places the result in a scene, is this one too.
    """
    return framed_camera(elevation.degrees, 0.0, FOV_DEG)


def is_matched(elevation: Elevation, settings: Settings) -> bool:
    """Whether drawn views are to say where the camera stands: not if the artist does, or wants it read off."""
    return elevation.source != "given" and settings.options.get("elevation_from") != "regression"


def unmatched(regressed: Elevation) -> str:
    """What to tell the artist where the elevation is no more than the regressor's reading."""
    found, spread = f"{regressed.degrees:.0f}°", f"{max(regressed.spread, 1):.0f}°"
    return (
        f"The drawn views could not be matched, so the elevation is only read off the picture: {found} ± {spread}. "
        "Set it yourself if the shape leans."
    )


def chosen_sampling(settings: Settings, seed: int) -> Sampling:
    """What the quality means, unless the options say otherwise."""
    options = settings.options
    guidance = float(options.get("guidance", PUBLISHED_GUIDANCE))
    paper = options.get("schedule") == "paper"
    own = PAPER_STEPS if paper else 2 * (QUALITIES[settings.quality],)
    first, second = (int(options.get("steps", steps)) for steps in own)
    return Sampling("ldm" if paper else "dpmsolver++", first, second, guidance, seed)


def is_short_of_memory(device: str) -> bool:
    """Whether a device should hold one network at a time."""
    info = describe(device)
    return info.kind != "cpu" and 0 < info.memory_total < LOW_MEMORY_BYTES
