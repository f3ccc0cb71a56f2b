"""The elevation experiment (One-2-3-45, section 4.4): objects from random sides, and how far off each method is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.elevation.matching import Matcher, match_views
from backend.elevation.solve import ASSUMED_DEG, NEAR_MOVES, Estimate, solve_elevation
from backend.evaluation.examples import load_surface
from backend.generators.zero123.pose import FOV_DEG
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.geometry.render import prepare, render
from backend.pipelines.one2345.guided import MATCHING_STEPS
from backend.pipelines.one2345.networks import Networks
from backend.pipelines.one2345.published import LOFTR, Published, chosen_sampling
from backend.pipelines.one2345.selection import ANCHOR_MOVES, moved
from backend.pipelines.stage import Progress, StageCache, Stages, digest
from backend.preparation.framing import framed_camera
from backend.training.data.episodes import place, place_scene, sample_light
from backend.training.data.meshes import MeshFile
from backend.weights.store import catalogue, find_entry, is_present, stored_files
from protocol.errors import TurnaroundError
from protocol.messages import Settings

ELEVATIONS_DEG = (-10.0, 60.0)
"""Between which the pictures' cameras stand, drawn evenly."""

CLOSE_DEG = 10.0
"""An error that a reconstruction bears: it is how far apart the near views are."""

PICTURE_SIZE = 256


@dataclass(frozen=True)
class Pose:
    """A picture of an object from a random side.

    Attributes:
        name: of its mesh, and the number of the pose.
        picture: uint8 [S, S, 4], framed; all that most methods are given.
        camera: the picture's.
        near: the four near views as they truly are.
    """

    name: str
    picture: NDArray[np.uint8]
    camera: Camera
    near: ViewSet


def make_poses(files: Iterable[MeshFile], *, poses: int, size: int = PICTURE_SIZE, seed: int = 0) -> Iterator[Pose]:
    """`poses` pictures of each mesh; the same name and seed give the same ones.

    Raises:
        TurnaroundError: `meshes.unreadable`; `usable` leaves such meshes out.
    """
    for file in files:
        mesh = load_surface(file.path)
        scene = prepare(mesh)
        for number in range(poses):
            rng = np.random.default_rng(int(digest("pose", file.name, number, seed)[:15], 16))
            camera = framed_camera(rng.uniform(*ELEVATIONS_DEG), 0.0, FOV_DEG)
            placed = place_scene(scene, place(mesh.vertices, rng.uniform(-180, 180), camera))
            light = sample_light(rng)
            cameras = moved([camera], NEAR_MOVES)
            picture, *near = (render(placed, view, size, light).rgba for view in (camera, *cameras))
            yield Pose(f"{file.name} #{number}", picture, camera, ViewSet(np.stack(near), cameras))


# -------------------------------------------------------------------------------------------------------- methods

Estimator = Callable[[Pose], Estimate]
NearViews = Callable[[Pose], tuple[ViewSet, Camera]]
"""Near views of a pose, and a camera with the distance and the field of view that they have."""


def estimators(device: str, *, drawn: bool = True, seed: int = 0) -> dict[str, Estimator]:
    """Every method that can run here, by the name that the report gives it.

    Args:
        device: torch device.
        drawn: also match views that are drawn: by the small generator, and by each Zero123 that is installed.
        seed: of the drawn views.
    """
    networks = Networks(device)
    methods: dict[str, Estimator] = {"regression": lambda pose: networks.regress_elevation(pose.picture, _stages())}
    sources: dict[str, NearViews] = {"true views": lambda pose: (pose.near, pose.camera)}
    if drawn:
        sources["drawn views"] = lambda pose: _drawn_small(networks, pose, seed)
        for entry in catalogue():
            if entry.layout == "zero123" and is_present(entry):
                sources[f"views by {entry.name}"] = _drawn_by(Published(entry.name, device), seed)
    matchers: dict[str, Matcher] = {"flow": match_views}
    loftr = find_entry(LOFTR)
    if is_present(loftr):
        from backend.elevation.loftr import LoFTRMatcher  # kornia is imported when it is needed

        matchers["LoFTR"] = LoFTRMatcher(stored_files(loftr)[0], device)
    for source, views in sources.items():
        once = _remembered(views)
        for matcher, match in matchers.items():
            methods[f"{matcher}, {source}"] = _matching(match, once)
    return methods


def _matching(match: Matcher, views: NearViews) -> Estimator:
    def estimate(pose: Pose) -> Estimate:
        near, camera = views(pose)
        return solve_elevation(match(near.images), NEAR_MOVES, camera=camera, size=near.images.shape[1])

    return estimate


def _remembered(views: NearViews) -> NearViews:
    """The same views, drawn once for all the methods that look at one pose after the other."""
    last: list[tuple[Pose, tuple[ViewSet, Camera]]] = []

    def once(pose: Pose) -> tuple[ViewSet, Camera]:
        if not last or last[0][0] is not pose:
            last[:] = [(pose, views(pose))]
        return last[0][1]

    return once


def _drawn_small(networks: Networks, pose: Pose, seed: int) -> tuple[ViewSet, Camera]:
    """As the pipeline draws them on the small weights, at an assumed elevation."""
    camera, stages = framed_camera(ASSUMED_DEG), _stages()
    field = networks.reconstruct(networks.source(pose.picture, camera), stages)
    coarse = networks.coarse_mesh(field, pose.picture, camera)
    near = moved([camera], NEAR_MOVES)
    views = networks.draw(
        pose.picture, camera, coarse, near, seed=seed, steps=MATCHING_STEPS, guidance=0.0, stages=stages
    )
    return views, camera


def _drawn_by(recipe: Published, seed: int) -> NearViews:
    """As the pipeline draws them on published weights: near the picture as the generator itself draws it."""

    def draw(pose: Pose) -> tuple[ViewSet, Camera]:
        stages, sampling = _stages(), chosen_sampling(Settings(), seed)
        regressed = recipe.preview.regress_elevation(pose.picture, stages).elevation_deg
        camera = framed_camera(regressed, 0.0, FOV_DEG)
        again = recipe.around(pose.picture, camera, ANCHOR_MOVES[:1], sampling, stages)
        return recipe.near(again.images, again.cameras, sampling, stages), camera

    return draw


def _stages() -> Stages:
    return Stages(StageCache(), Progress())


# --------------------------------------------------------------------------------------------------------- scores


class ElevationScore(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one pose, in degrees; a method that fails or gives up is taken to say what the pipeline assumes."""

    method: str
    name: str
    true_deg: float
    found_deg: float = ASSUMED_DEG
    spread_deg: float | None = None
    confidence: float = 0.0
    assumed: bool = True
    failure: str = ""

    @property
    def error_deg(self) -> float:
        """Found minus true."""
        return self.found_deg - self.true_deg


class ElevationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One method over all poses.

    Attributes:
        count: of poses.
        assumed: of them, those that nothing was found of.
        mean_deg, median_deg: of the absolute error, those counted in.
        close: share of poses with an error below `CLOSE_DEG`.
    """

    method: str
    count: int
    assumed: int
    mean_deg: float
    median_deg: float
    close: float


def score(
    methods: dict[str, Estimator], poses: Iterable[Pose], on_done: Callable[[], None] = lambda: None
) -> list[ElevationScore]:
    """Every method on every pose, in that order; `on_done` is called after each."""
    scores = []
    for pose in poses:
        for method, estimate in methods.items():
            about: dict[str, Any] = {"method": method, "name": pose.name, "true_deg": pose.camera.elevation_deg}
            try:
                found = estimate(pose)
            except TurnaroundError as error:
                scores.append(ElevationScore(**about, failure=error.code))
            else:
                scores.append(
                    ElevationScore(
                        **about,
                        found_deg=found.elevation_deg,
                        spread_deg=found.spread_deg,
                        confidence=found.confidence,
                        assumed=found.source == "assumed",
                    )
                )
            on_done()
    return scores


def summarise(scores: Sequence[ElevationScore]) -> list[ElevationSummary]:
    """Per method, in the order in which they come."""
    summaries = []
    for method in dict.fromkeys(score.method for score in scores):
        own = [score for score in scores if score.method == method]
        errors = np.abs([score.error_deg for score in own])
        summaries.append(
            ElevationSummary(
                method=method,
                count=len(own),
                assumed=sum(score.assumed for score in own),
                mean_deg=float(errors.mean()),
                median_deg=float(np.median(errors)),
                close=float((errors < CLOSE_DEG).mean()),
            )
        )
    return summaries
