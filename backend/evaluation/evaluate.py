"""Runs methods over pictures of known objects and measures what they make of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from backend.evaluation import metrics
from backend.evaluation.alignment import align
from backend.evaluation.differences import Measured
from backend.evaluation.examples import Example
from backend.evaluation.similarity import Similarity, ring_renders
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.render import prepare, render
from backend.pipelines.registry import Pipeline, Request
from backend.pipelines.stage import Progress, StageCache
from protocol.errors import TurnaroundError
from protocol.messages import Settings

SURFACE_POINTS = 10_000
VIEW_SIZE = 128
NOVEL_AZIMUTHS = (45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0)
"""Novel views look from these azimuths and the picture's own elevation."""


@dataclass(frozen=True)
class Prediction:
    """What a method made of a picture.

    Attributes:
        mesh: in the object frame, the picture's camera at azimuth 0.
        elevation_deg: what it took for the camera's elevation; None if it does not say.
        lit: its colours hold the picture's light; otherwise they are bare and are lit like the truth to be compared.
        views: that it drew on its way, with cameras that count from that elevation.
    """

    mesh: Mesh
    elevation_deg: float | None = None
    lit: bool = True
    views: ViewSet | None = None


Method = Callable[[Example], Prediction]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one object. Lengths are in units in which the truth's furthest vertex is at 0.5 of its centre.

    A method that fails has no volume and no points: it scores 0 in F-score and IoU, and has no other numbers.
    """

    method: str
    name: str
    f_score: float = 0.0
    """At 0.05, after alignment."""
    chamfer: float | None = None
    iou: float = 0.0
    f_score_unaligned: float = 0.0
    chamfer_unaligned: float | None = None
    iou_unaligned: float = 0.0
    psnr: float | None = None
    """Of novel views, unaligned, mean over them; dB."""
    ssim: float | None = None
    views_psnr: float | None = None
    """Of the views that were drawn, the input's own left out, against what is to be seen from there; dB."""
    elevation_error_deg: float | None = None
    clip: float | None = None
    """Similarity of the picture and the mean over 24 renders; None without a CLIP."""
    seconds: float | None = None
    failure: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One method over all objects: metric -> [mean, median]."""

    method: str
    count: int
    failures: int
    metrics: dict[str, tuple[float, float]]


METRICS = (
    "f_score",
    "chamfer",
    "iou",
    "f_score_unaligned",
    "chamfer_unaligned",
    "iou_unaligned",
    "psnr",
    "ssim",
    "views_psnr",
    "elevation_error_deg",
    "clip",
    "seconds",
)


def pipeline_method(pipeline: Pipeline, settings: Settings, device: str) -> Method:
    """A pipeline with fixed settings as a method; nothing is cached from one picture to the next."""

    def predict(example: Example) -> Prediction:
        request = Request(example.picture, settings)
        output = next(iter(pipeline.generate(request, device=device, cache=StageCache(), progress=Progress())))
        return Prediction(output.mesh, output.report.elevation_deg, views=output.views)

    return predict


def evaluate(
    methods: dict[str, Method],
    examples: Iterable[Example],
    *,
    grid: int = metrics.GRID,
    similarity: Similarity | None = None,
    on_done: Callable[[Example, str, Prediction | None, Scores], None] | None = None,
) -> list[Scores]:
    """Scores of every method on every example, in that order.

    Args:
        methods: by the name that the report gives them.
        examples: each is made, measured and let go.
        grid: voxels along the unit cube for volume IoU.
        similarity: of pictures, by CLIP; None leaves it out.
        on_done: told after each; prediction None where the method failed.
    """
    results = []
    for example in examples:
        for method, predict in methods.items():
            prediction, scores = run(method, predict, example, grid, similarity)
            results.append(scores)
            if on_done is not None:
                on_done(example, method, prediction, scores)
    return results


def run(
    method: str, predict: Method, example: Example, grid: int, similarity: Similarity | None = None
) -> tuple[Prediction | None, Scores]:
    """One method on one example, timed and measured; a failure in words is a result too."""
    start = time.perf_counter()
    try:
        prediction = predict(example)
        seconds = time.perf_counter() - start
        scores = measure(method, prediction, example, seconds=seconds, grid=grid, similarity=similarity)
        return prediction, scores
    except TurnaroundError as error:
        return None, Scores(method=method, name=example.name, failure=error.code)


def measure(
    method: str,
    prediction: Prediction,
    example: Example,
    *,
    seconds: float,
    grid: int,
    similarity: Similarity | None = None,
) -> Scores:
    """All numbers of one prediction.

    Raises:
        TurnaroundError: `mesh.empty`, there is nothing to measure.
    """
    unit = metrics.normalization(example.truth)
    truth, mesh = metrics.transformed(example.truth, unit), metrics.transformed(prediction.mesh, unit)
    true_points = metrics.sample_points(truth, SURFACE_POINTS, seed=0)
    points = metrics.sample_points(mesh, SURFACE_POINTS, seed=1)
    transform = align(points, true_points, threshold=metrics.F_SCORE_THRESHOLD)
    aligned_points = points @ transform[:3, :3].T + transform[:3, 3]
    pictures = list(novel_views(prediction, example))
    error = None if prediction.elevation_deg is None else abs(prediction.elevation_deg - example.camera.elevation_deg)
    clip = None
    if similarity is not None:
        clip = similarity(example.picture, ring_renders(mesh, None if prediction.lit else example.light))
    return Scores(
        method=method,
        name=example.name,
        f_score=metrics.f_score(aligned_points, true_points),
        chamfer=metrics.chamfer(aligned_points, true_points),
        iou=metrics.volume_iou(metrics.transformed(mesh, transform), truth, grid),
        f_score_unaligned=metrics.f_score(points, true_points),
        chamfer_unaligned=metrics.chamfer(points, true_points),
        iou_unaligned=metrics.volume_iou(mesh, truth, grid),
        psnr=float(np.mean([metrics.psnr(image, true) for image, true in pictures])),
        ssim=float(np.mean([metrics.ssim(image, true) for image, true in pictures])),
        views_psnr=views_psnr(prediction, example),
        elevation_error_deg=error,
        clip=clip,
        seconds=seconds,
    )


def novel_views(prediction: Prediction, example: Example) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of the predicted and the true picture, uint8 [S, S, 4], from all sides but the input's."""
    scene = prepare(prediction.mesh)
    for azimuth in NOVEL_AZIMUTHS:
        camera = example.camera.moved(azimuth_deg=azimuth)
        image = render(scene, camera, VIEW_SIZE, None if prediction.lit else example.light).rgba
        yield image, render(example.scene, camera, VIEW_SIZE, example.light).rgba


def views_psnr(prediction: Prediction, example: Example) -> float | None:
    """Mean over the drawn views of other sides; None without one.

    A view is compared with what is seen after the same turn of the picture's true camera: views of a picture whose
    elevation was taken for another are not blamed for that.
    """
    if prediction.views is None or prediction.elevation_deg is None:
        return None
    values = []
    for image, camera in zip(prediction.views.images, prediction.views.cameras, strict=True):
        rise = camera.elevation_deg - prediction.elevation_deg
        if not rise and not camera.azimuth_deg % 360:
            continue
        true = replace(camera, elevation_deg=example.camera.elevation_deg + rise)
        values.append(metrics.psnr(image, render(example.scene, true, len(image), example.light).rgba))
    return float(np.mean(values)) if values else None


def measured(results: Iterable[Scores]) -> Iterator[Measured]:
    """What methods have reached, for `differences`."""
    for scores in results:
        values = {metric: value for metric in METRICS if (value := getattr(scores, metric)) is not None}
        yield Measured(scores.method, scores.name, values)


def summarise(results: Sequence[Scores]) -> list[Summary]:
    """Mean and median of each metric per method, over the objects that have it."""
    summaries = []
    for method in dict.fromkeys(scores.method for scores in results):
        own = [scores for scores in results if scores.method == method]
        found: dict[str, tuple[float, float]] = {}
        for metric in METRICS:
            values = [value for scores in own if (value := getattr(scores, metric)) is not None]
            if values:
                found[metric] = (float(np.mean(values)), float(np.median(values)))
        failures = sum(bool(scores.failure) for scores in own)
        summaries.append(Summary(method=method, count=len(own), failures=failures, metrics=found))
    return summaries
