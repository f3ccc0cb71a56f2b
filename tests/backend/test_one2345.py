"""The shipped pipeline on a shipped picture: what it gives, what the cache spares, how it stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.geometry.render import prepare, render
from backend.pipelines.one2345.guided import chosen_effort
from backend.pipelines.one2345.pipeline import One2345
from backend.pipelines.one2345.selection import MAX_VIEWS, view_cameras
from backend.pipelines.registry import Output, Request
from backend.pipelines.stage import CancelledError, Preview, Progress, StageCache, Update
from backend.preparation.framing import framed_camera
from backend.preparation.picture import read_picture
from protocol.errors import TurnaroundError
from protocol.messages import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {"views": 2, "steps": 2}


@pytest.fixture(scope="module")
def pipeline() -> One2345:
    return One2345()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return read_picture(EXAMPLES / "house.png")


def run(
    pipeline: One2345, picture: np.ndarray, cache: StageCache, settings: Settings, progress: Progress | None = None
) -> list[Output]:
    request = Request(picture, settings)
    return list(pipeline.generate(request, device="cpu", cache=cache, progress=progress or Progress()))


def test_what_is_wrong_is_told_with_the_cutout_before_anything_is_loaded(picture: np.ndarray) -> None:
    def report(update: Update) -> None:
        if update.preview is not None:
            told.append(update.preview)
            raise CancelledError

    told: list[Preview] = []
    pipeline = One2345()
    cut = picture[:, : picture.shape[1] // 2]
    with pytest.raises(CancelledError):
        run(pipeline, cut, StageCache(), Settings(), Progress(report))
    (preview,) = told
    assert preview.notes == ("Touches the right border: the shape will be cut.",)
    assert preview.cutout is not None
    assert preview.framing is not None
    assert pipeline._recipe is None


def test_shape_and_colours_are_the_pictures(pipeline: One2345, picture: np.ndarray) -> None:
    updates: list[Update] = []
    settings = Settings(elevation_deg=18.0, resolution=64, options=QUICK)
    (output,) = run(pipeline, picture, StageCache(), settings, Progress(updates.append))
    mesh, report = output.mesh, output.report
    camera = framed_camera(18.0)
    assert report.camera.azimuth_deg == 0
    assert len(output.views) == 2
    assert len(mesh.faces) > 500
    assert np.abs(mesh.vertices).max() < 0.6
    # seen as the picture was taken it covers the picture's subject, in the picture's colours
    seen = render(prepare(mesh), camera, 128).rgba
    truth = output.cutout[::4, ::4]
    inside, covered = truth[..., 3] > 127, seen[..., 3] > 127
    assert (inside & covered).sum() / (inside | covered).sum() > 0.8
    both = inside & covered
    assert np.median(np.abs(seen[both][:, :3].astype(int) - truth[both][:, :3])) < 12
    # the preview came before the views, and the fractions only grow
    first_mesh = next(i for i, u in enumerate(updates) if u.preview and u.preview.mesh)
    first_step = next(i for i, u in enumerate(updates) if u.stage == "Drawing Views" and u.step)
    assert first_mesh < first_step
    assert np.all(np.diff([u.fraction for u in updates]) >= 0)


def test_left_stays_left(pipeline: One2345) -> None:
    """A picture and its mirror image give shapes that are each other's mirror image, not the same one twice."""
    picture = np.zeros((128, 128, 4), np.uint8)
    picture[20:110, 30:50] = (220, 30, 30, 255)  # a tall red bar at the left
    picture[80:110, 50:100] = (30, 30, 220, 255)  # a low blue one to its right
    settings = Settings(elevation_deg=10.0, resolution=48, options={"views": 0})
    (output,) = run(pipeline, picture, StageCache(), settings)
    colors, x = output.mesh.colors.astype(int), output.mesh.vertices[:, 0]
    assert x[colors[:, 0] > colors[:, 2] + 60].mean() < x[colors[:, 2] > colors[:, 0] + 60].mean() - 0.1
    assert output.mesh.vertices[x < x.mean() - 0.1, 2].max() > output.mesh.vertices[x > x.mean() + 0.2, 2].max() + 0.1


def test_only_what_changed_runs_again(pipeline: One2345, picture: np.ndarray) -> None:
    cache = StageCache()

    def cached(**changes: object) -> set[str]:
        base = {"elevation_deg": 18.0, "resolution": 48, "options": QUICK}
        (output,) = run(pipeline, picture, cache, Settings(**{**base, **changes}))
        return set(output.report.cached)

    assert cached() == set()
    assert cached() == {"matting", "preview", "views", "shape", "meshing"}
    assert cached(resolution=40) == {"matting", "preview", "views", "shape"}
    assert cached(target_faces=500) == {"matting", "preview", "views", "shape"}
    assert cached(seed=1) == {"matting", "preview"}
    assert cached(elevation_deg=30.0) == {"matting"}


def test_variants_differ_in_what_was_drawn(pipeline: One2345, picture: np.ndarray) -> None:
    settings = Settings(seed=5, variants=2, elevation_deg=18.0, resolution=32, target_faces=400, options=QUICK)
    first, second = run(pipeline, picture, StageCache(), settings)
    assert (first.report.seed, second.report.seed) == (5, 6)
    assert not np.array_equal(first.views.images, second.views.images)
    assert len(first.mesh.faces) <= 440


def test_a_cancelled_job_stops_within_one_step_and_a_kept_one_builds_the_preview(
    pipeline: One2345, picture: np.ndarray
) -> None:
    def stopping(flag: str) -> tuple[Progress, list[Update]]:
        updates: list[Update] = []

        def report(update: Update) -> None:
            updates.append(update)
            if update.stage == "Drawing Views" and update.step == 1:
                getattr(progress, flag).set()

        progress = Progress(report)
        return progress, updates

    settings = Settings(elevation_deg=18.0, resolution=32, options={"views": 2, "steps": 6})
    progress, updates = stopping("cancel")
    with pytest.raises(CancelledError):
        run(pipeline, picture, StageCache(), settings, progress)
    assert updates[-1].step == 1
    progress, updates = stopping("keep")
    (output,) = run(pipeline, picture, StageCache(), settings, progress)
    assert max(u.step for u in updates if u.stage == "Drawing Views") == 1
    assert len(output.views) == 0
    assert len(output.mesh.faces)


def test_elevation_is_estimated_or_taken_as_given(pipeline: One2345, picture: np.ndarray) -> None:
    cache = StageCache()
    (found,) = run(pipeline, picture, cache, Settings(resolution=32, options={"views": 0}))
    assert found.report.elevation_source == "estimated"
    assert found.report.elevation_spread_deg > 0
    assert found.report.elevation_confidence == pytest.approx(1 / (1 + (found.report.elevation_spread_deg / 10) ** 2))
    assert abs(found.report.elevation_deg - 18) < 15
    (given,) = run(pipeline, picture, cache, Settings(elevation_deg=-5.0, resolution=32, options={"views": 0}))
    assert given.report.elevation_source == "given"
    assert given.report.elevation_confidence is None
    assert given.report.camera.elevation_deg == -5
    matching = {"views": 0, "steps": 1, "elevation_from": "matching"}
    (matched,) = run(pipeline, picture, cache, Settings(resolution=32, options=matching))
    assert matched.report.elevation_source in ("estimated", "assumed")
    assert (matched.report.elevation_confidence is None) == (matched.report.elevation_source == "assumed")


def test_bad_pictures_are_refused_in_words(pipeline: One2345) -> None:
    for bad, code in (
        (np.zeros((64, 64, 4), np.uint8), "picture.transparent"),
        (np.full((64, 64, 4), 255, np.uint8), "picture.uniform"),
        (np.zeros((1, 1, 4), np.uint8), "picture.too_small"),
    ):
        with pytest.raises(TurnaroundError) as caught:
            run(pipeline, bad, StageCache(), Settings())
        assert caught.value.code == code
        assert caught.value.hint


def test_views_are_selected_around_the_input() -> None:
    camera = framed_camera(20.0)
    cameras = view_cameras(camera, MAX_VIEWS)
    assert len(cameras) == len(set(cameras)) == MAX_VIEWS
    assert [c.azimuth_deg for c in cameras[:3]] == [180, 90, 270]
    assert {c.elevation_deg for c in cameras[3:7]} == {-10.0}
    assert {c.elevation_deg for c in view_cameras(framed_camera(0.0), 7)[3:]} == {30.0}
    effort = chosen_effort(Settings(quality="draft"), seed=0)
    assert chosen_effort(Settings(options={"views": 5, "steps": 3}), seed=0).views == 5
    bolder = chosen_effort(Settings(quality="draft"), seed=1)
    assert (bolder.views, bolder.steps > effort.steps) == (effort.views, True)
    assert chosen_effort(Settings(options={"steps": 3}), seed=1).steps == 3
