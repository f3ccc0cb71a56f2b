"""Scores methods for 3D consistency on pictures of known objects, between the two bounds that say what a score means.

A method is given a picture and gives views. What draws from any camera is asked for the same fixed cameras, and told
the picture's: a function by `at_fixed_cameras`, a pipeline that draws novel views by `pipeline_views`. Any other
pipeline is told the picture alone, and gives the views that it draws on its way to a mesh, at its own cameras and
without the input picture. What is scored is always whether views of one method agree with one another; how near they
are to the truth stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.evaluation import metrics
from backend.evaluation.consistency import (
    COUNT,
    SIZE,
    Distance,
    Score,
    at_size,
    compare,
    every_other,
    fixed_cameras,
    redrawn,
)
from backend.evaluation.differences import Measured
from backend.evaluation.examples import Example
from backend.evaluation.field import SPEC, FieldSpec
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.geometry.render import render
from backend.pipelines.registry import Pipeline, Request
from backend.pipelines.stage import Progress, StageCache
from protocol.errors import TurnaroundError
from protocol.messages import Direction, Settings
from protocol.options import of_views_alone

TRUTH, OTHERS = "ground truth", "different objects"
"""The bounds: renders of the object itself, and at each camera another object."""

Method = Callable[[Example], ViewSet]
"""From a picture of an object to views of it."""

Draw = Callable[[NDArray[np.uint8], Camera, Sequence[Camera], int], ViewSet]
"""Picture uint8 [S, S, 4], its camera, cameras to draw from, and a seed: the views at those cameras, in their order."""

SetDistance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""A distance of two sets of pictures, uint8 [N, S, S, 4] each: FID."""


# ------------------------------------------------------------------------------------------------------- methods


def at_fixed_cameras(draw: Draw, *, count: int = COUNT, seed: int = 0) -> Method:
    """A method that draws from the fixed cameras; it is told the picture's own camera."""
    return lambda example: draw(example.picture, example.camera, fixed_cameras(example.camera, count), seed)


def pipeline_views(pipeline: Pipeline, settings: Settings, device: str, *, count: int = COUNT) -> Method:
    """The views of a pipeline: from the fixed cameras if it draws any, in their order; else those for its mesh.

    Where views of a mesh would be drawn before those from the fixed cameras, they are left out unless `settings` asks
    for them; nothing is cached from one picture to the next.
    """
    info = pipeline.info()
    if info.novel_views:
        settings = msgspec.structs.replace(settings, options=of_views_alone(settings.options, info))

    def views(example: Example) -> ViewSet:
        asked = _looking(settings, example.camera, count) if info.novel_views else settings
        request = Request(example.picture, asked)
        return next(iter(pipeline.generate(request, device=device, cache=StageCache(), progress=Progress()))).views

    return views


def _looking(settings: Settings, camera: Camera, count: int) -> Settings:
    """Settings that ask for views from the fixed cameras, and tell the picture's own."""
    return msgspec.structs.replace(
        settings,
        elevation_deg=camera.elevation_deg,
        fov_deg=camera.fov_deg,
        look_from=tuple(
            Direction(azimuth_deg=target.azimuth_deg - camera.azimuth_deg, elevation_deg=target.elevation_deg)
            for target in fixed_cameras(camera, count)
        ),
    )


def true_views(example: Example, cameras: Sequence[Camera]) -> ViewSet:
    """Renders of the object, which agree with one another."""
    return ViewSet(
        np.stack([render(example.scene, camera, SIZE, example.light).rgba for camera in cameras]), tuple(cameras)
    )


def different_objects(example: Example, objects: Sequence[Example], cameras: Sequence[Camera]) -> ViewSet:
    """At each camera another of the objects, in turn, beginning after the example; they recur if they are few."""
    start = next((k + 1 for k, other in enumerate(objects) if other.name == example.name), 0)
    shown = [objects[(start + k) % len(objects)] for k in range(len(cameras))]
    images = [render(o.scene, camera, SIZE, o.light).rgba for o, camera in zip(shown, cameras, strict=True)]
    return ViewSet(np.stack(images), tuple(cameras))


# ------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Measures:
    """How views are compared.

    Attributes:
        spec: how fields are fitted.
        distance: LPIPS, or None without its weights.
        set_distance: FID, or None without its weights.
        seed: of the fits.
        device: torch device of the fits.
    """

    spec: FieldSpec = SPEC
    distance: Distance | None = None
    set_distance: SetDistance | None = None
    seed: int = 0
    device: str = "cpu"


class ObjectScore(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one object.

    Attributes:
        views: how many there were, held-out ones included.
        score: None where the method failed.
        truth_psnr: of all views beside renders of the object, in dB on white: views may agree on a wrong one. None for
            the bounds.
        drawing_seconds: that the method took.
        failure: the error's code.
    """

    method: str
    name: str
    views: int = 0
    score: Score | None = None
    truth_psnr: float | None = None
    drawing_seconds: float = 0.0
    failure: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One method over all objects: means over those that it did not fail on.

    Attributes:
        count, failures: objects, and those of them that it failed on.
        views: of one object, the mean.
        psnr, ssim, lpips: see `Score`; None where there is no object.
        truth_psnr: see `ObjectScore`.
        fid: of all the field's pictures beside all held-out views.
        seconds: of a score, without the drawing.
    """

    method: str
    count: int
    failures: int
    views: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    fid: float | None = None
    truth_psnr: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Pictures:
    """What one score compares.

    Attributes:
        held: the held-out views, uint8 [H, S, S, 4].
        drawn: what the field shows in their place.
    """

    held: NDArray[np.uint8]
    drawn: NDArray[np.uint8]


OnDone = Callable[[Example, ObjectScore, Pictures | None], None]
"""Told after each score; no pictures where the method failed."""


def run(
    methods: Mapping[str, Method],
    examples: Iterable[Example],
    objects: Sequence[Example] = (),
    *,
    measures: Measures = Measures(),
    on_done: OnDone | None = None,
) -> tuple[list[ObjectScore], list[Summary]]:
    """Scores of the ground truth, of every method and of different objects, on every example.

    Args:
        methods: by the name that the report gives them. All of them have to draw from the same cameras: scores are
            compared, and how hard it is to agree depends on the cameras.
        examples: what to draw.
        objects: at least two, for the lower bound, which is left out without them; as many as there are views, or
            some recur.
        measures: how.
        on_done: told after each.

    Raises:
        ValueError: two methods drew the same example from different cameras.
    """
    scores: list[ObjectScore] = []
    kept: dict[str, list[Pictures]] = {}

    def add(example: Example, score: ObjectScore, pictures: Pictures | None) -> None:
        scores.append(score)
        if pictures is not None and measures.set_distance is not None:
            kept.setdefault(score.method, []).append(pictures)
        if on_done is not None:
            on_done(example, score, pictures)

    names = [TRUTH, *methods, *([OTHERS] if len(objects) > 1 else [])]
    for example in examples:
        truth: ViewSet | None = None
        for name, method in methods.items():
            start = time.perf_counter()
            try:
                views = method(example)
                seconds = time.perf_counter() - start
                if truth is not None and truth.cameras != views.cameras:
                    raise ValueError(f"{name} has drawn {example.name} from other cameras than the methods before it")
                pictures, score = _scored(name, example, views, measures, seconds)
            except TurnaroundError as error:
                add(example, ObjectScore(method=name, name=example.name, failure=error.code), None)
                continue
            truth = truth or true_views(example, views.cameras)
            near = [metrics.psnr(*pair) for pair in zip(at_size(views).images, truth.images, strict=True)]
            add(example, msgspec.structs.replace(score, truth_psnr=float(np.mean(near))), pictures)
        if truth is None:  # no method has drawn anything that a bound could stand beside
            continue
        pictures, score = _scored(TRUTH, example, truth, measures)
        add(example, score, pictures)
        if OTHERS in names:
            pictures, score = _scored(OTHERS, example, different_objects(example, objects, truth.cameras), measures)
            add(example, score, pictures)
    return scores, [summarise(name, scores, kept.get(name, []), measures) for name in names]


def summarise(
    method: str, scores: Sequence[ObjectScore], pictures: Sequence[Pictures], measures: Measures = Measures()
) -> Summary:
    """One method's means, and FID over all its pictures."""
    own = [score for score in scores if score.method == method]
    good = [score.score for score in own if score.score is not None]
    summary = Summary(method=method, count=len(own), failures=len(own) - len(good))
    if not good:
        return summary
    fid = None
    if measures.set_distance is not None and pictures:
        fid = measures.set_distance(
            np.concatenate([p.drawn for p in pictures]), np.concatenate([p.held for p in pictures])
        )
    lpips = [score.lpips for score in good if score.lpips is not None]
    near = [score.truth_psnr for score in own if score.truth_psnr is not None]
    return msgspec.structs.replace(
        summary,
        views=float(np.mean([score.views for score in own if score.score is not None])),
        psnr=float(np.mean([score.psnr for score in good])),
        ssim=float(np.mean([score.ssim for score in good])),
        lpips=float(np.mean(lpips)) if lpips else None,
        fid=fid,
        truth_psnr=float(np.mean(near)) if near else None,
        seconds=float(np.mean([score.seconds for score in good])),
    )


def measured(scores: Iterable[ObjectScore]) -> Iterator[Measured]:
    """What methods that did not fail have reached, for `differences`."""
    for score in scores:
        if score.score is not None:
            values = {"psnr": score.score.psnr, "ssim": score.score.ssim, "lpips": score.score.lpips}
            values["truth_psnr"] = score.truth_psnr
            yield Measured(score.method, score.name, {k: v for k, v in values.items() if v is not None})


def _scored(
    method: str, example: Example, views: ViewSet, measures: Measures, drawing_seconds: float = 0.0
) -> tuple[Pictures, ObjectScore]:
    split = every_other(views.cameras)
    views = at_size(views)
    start = time.perf_counter()
    drawn = redrawn(views, split, spec=measures.spec, seed=measures.seed, device=measures.device)
    pictures = Pictures(views.images[list(split.held)], drawn)
    score = compare(drawn, pictures.held, time.perf_counter() - start, measures.distance)
    return pictures, ObjectScore(
        method=method, name=example.name, views=len(views), score=score, drawing_seconds=drawing_seconds
    )
