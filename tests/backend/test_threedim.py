"""3DiM's pipeline around a network that has learnt nothing: what is drawn from what, what is kept, what comes out."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from reference_weights import xunet

from backend.generators.xunet.config import TINY_3DIM
from backend.generators.xunet.stochastic import PoolGenerator
from backend.geometry.render import prepare, render
from backend.pipelines.registry import Output, Request
from backend.pipelines.stage import CancelledError, Progress, StageCache, Update
from backend.pipelines.threedim.pipeline import OPTIONS, ThreeDim
from backend.pipelines.threedim.recipe import QUALITIES, chosen_sampling, chosen_views, directed, near_any
from backend.preparation.framing import framed_camera
from backend.weights import store
from protocol.messages import Direction, Settings

MINIATURE = dataclasses.replace(TINY_3DIM, size=16, channels=16, emb_channels=32, groups=8)
QUICK = {"views": 3, "steps": 2}


def ball(*rgb: int) -> np.ndarray:
    """A cut-out disc of one colour, uint8 [96, 96, 4]."""
    y, x = np.mgrid[:96, :96] - 47.5
    picture = np.zeros((96, 96, 4), np.uint8)
    picture[x**2 + y**2 < 40**2] = (*rgb, 255)
    return picture


RED, BLUE = ball(220, 30, 30), ball(30, 30, 220)
BEHIND = (Direction(azimuth_deg=180.0),)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, with a view generator in place of the trained one."""
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("sparseneus", "elevation"):
        (folder / f"{name}.safetensors").symlink_to(store.tiny_path(name))
    network = xunet(MINIATURE)
    store.save_weights(folder / "3dim.safetensors", network.state_dict(), dataclasses.asdict(MINIATURE))
    return folder


@pytest.fixture
def pipeline(weights: Path, monkeypatch: pytest.MonkeyPatch) -> ThreeDim:
    monkeypatch.setattr(store, "TINY", weights)
    return ThreeDim()


def run(
    pipeline: ThreeDim,
    settings: Settings,
    *,
    cache: StageCache | None = None,
    progress: Progress | None = None,
    extra: tuple[np.ndarray, ...] = (),
) -> list[Output]:
    request = Request(RED, settings, extra_pictures=extra)
    cache = StageCache() if cache is None else cache
    return list(pipeline.generate(request, device="cpu", cache=cache, progress=progress or Progress()))


def asked(**changes: object) -> Settings:
    return Settings(**{"elevation_deg": 15.0, "resolution": 32, "options": QUICK, **changes})


def test_views_are_shown_one_after_the_other_and_a_mesh_is_made(pipeline: ThreeDim) -> None:
    updates: list[Update] = []
    (output,) = run(pipeline, asked(), progress=Progress(updates.append))
    assert len(output.mesh.faces) > 500
    assert output.views.images.shape == (3, 16, 16, 4)
    assert output.report.pipeline == "3dim"
    assert output.report.camera.azimuth_deg == 0
    shown = [len(u.preview.views) for u in updates if u.preview is not None and u.preview.views is not None]
    assert shown == [1, 2, 3, 3]
    drawing = [u for u in updates if u.stage == "Drawing Views"]
    assert [u.step for u in drawing if u.total] == [0, 1, 2, 2, 3, 4, 4, 5, 6]
    assert drawing[0].preview is not None
    assert drawing[0].preview.mesh is not None  # the coarse one, before anything is drawn
    assert all(u.can_keep for u in drawing)
    assert np.all(np.diff([u.fraction for u in updates]) >= 0)


def test_how_far_the_elevation_is_to_be_trusted_is_reported(pipeline: ThreeDim) -> None:
    (read,) = run(pipeline, asked(elevation_deg=None))
    assert read.report.elevation_source == "estimated"
    assert read.report.elevation_confidence == pytest.approx(1 / (1 + (read.report.elevation_spread_deg / 10) ** 2))


def test_only_what_changed_is_drawn_again(pipeline: ThreeDim, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = PoolGenerator.draw

    def count(self, pool, cameras, **settings):
        drawn.extend([len(pool)] * len(cameras))
        return draw(self, pool, cameras, **settings)

    monkeypatch.setattr(PoolGenerator, "draw", count)
    cache = StageCache()

    def pools(**changes: object) -> list[int]:
        """The sizes of the pools that views were drawn from."""
        drawn.clear()
        (output,) = run(pipeline, asked(**changes), cache=cache)
        assert ("views" in output.report.cached) == (not drawn)
        return list(drawn)

    assert pools() == [1, 2, 3]
    assert pools(resolution=40) == []
    assert pools(options={**QUICK, "views": 5}) == [4, 5]
    assert pools(options={**QUICK, "views": 2}) == []
    assert pools(seed=1) == [1, 2, 3]
    assert pools(options={**QUICK, "conditioning": "input", "views": 2}) == [1, 1]
    assert pools(options={**QUICK, "batch": 2}) == [1, 1, 3]
    assert pools(elevation_deg=30.0) == [1, 2, 3]


def test_a_picture_from_behind_joins_the_pool_and_paints_the_back(pipeline: ThreeDim) -> None:
    (alone,) = run(pipeline, asked())
    (both,) = run(pipeline, asked(extra_pictures=BEHIND), extra=(BLUE,))
    assert len(alone.views) == 3
    assert len(both.views) == 2  # what the picture shows is not drawn
    assert not any(camera.azimuth_deg == 180.0 for camera in both.views.cameras)
    same = alone.views.cameras.index(both.views.cameras[0])
    assert np.abs(both.views.images[0].astype(int) - alone.views.images[same]).mean() > 1

    scene = prepare(both.mesh)
    for azimuth, redder in ((0.0, 1), (180.0, -1)):
        seen = render(scene, framed_camera(15.0, azimuth), 64).rgba.astype(int)
        red, _, blue = seen[seen[..., 3] > 250][:, :3].T
        assert np.median(redder * (red - blue)) > 150


def test_keeping_builds_from_the_views_that_are_finished(pipeline: ThreeDim) -> None:
    keep = threading.Event()

    def report(update: Update) -> None:
        if update.stage == "Drawing Views" and update.step == 3:  # in the middle of the second
            keep.set()

    progress = Progress(report=report, keep=keep)
    (kept,) = run(pipeline, asked(), progress=progress)
    assert len(kept.views) == 1
    assert len(kept.mesh.faces) > 500
    assert not keep.is_set()
    (whole,) = run(pipeline, asked())
    assert (kept.views.images == whole.views.images[:1]).all()


def test_views_from_anywhere_agree_with_those_of_the_mesh(pipeline: ThreeDim) -> None:
    cache = StageCache()
    wanted = (Direction(azimuth_deg=30.0), Direction(azimuth_deg=-100.0, elevation_deg=40.0))
    run(pipeline, asked(), cache=cache)
    (looked,) = run(pipeline, asked(look_from=wanted), cache=cache)
    assert not len(looked.mesh.vertices)
    assert [(c.azimuth_deg, c.elevation_deg) for c in looked.views.cameras] == [(30.0, 15.0), (-100.0, 40.0)]
    (alone,) = run(pipeline, asked(look_from=wanted, options={**QUICK, "views": 0}))
    assert (looked.views.images != alone.views.images).any()
    (first,) = run(pipeline, asked(look_from=wanted[:1], options={**QUICK, "views": 0}))
    assert (first.views.images == alone.views.images[:1]).all()


def test_no_views_need_no_generator_and_variants_their_own(pipeline: ThreeDim, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run(pipeline, asked(variants=2, seed=5))
    assert (first.report.seed, second.report.seed) == (5, 6)
    assert (first.views.images != second.views.images).any()
    pipeline.free()
    monkeypatch.setattr(PoolGenerator, "__init__", lambda *_: pytest.fail("loaded"))
    (output,) = run(pipeline, asked(options={"views": 0}))
    assert len(output.mesh.faces) > 500
    assert not len(output.views)


def test_a_cancelled_job_stops_within_a_step(pipeline: ThreeDim) -> None:
    cancel, seen = threading.Event(), []

    def report(update: Update) -> None:
        seen.append(update)
        if update.stage == "Drawing Views" and update.step == 3:
            cancel.set()

    with pytest.raises(CancelledError):
        run(pipeline, asked(), progress=Progress(report=report, cancel=cancel))
    assert seen[-1].step == 3


def test_quality_is_what_the_options_do_not_say() -> None:
    for quality, effort in QUALITIES.items():
        settings = Settings(quality=quality)
        assert chosen_views(settings) == effort.views
        published = chosen_sampling(settings, 3, "xunet-srn64")
        assert (published.steps, published.sampler) == (effort.steps, "ddim")
        own = chosen_sampling(settings, 3)
        assert (own.steps, own.sampler) == (effort.steps // 2, "ancestral")
    defaults = Settings(options={spec.name: spec.default for spec in OPTIONS if not spec.automatic})
    assert chosen_sampling(defaults, 3) == chosen_sampling(Settings(), 3)
    assert chosen_views(defaults) == chosen_views(Settings())
    options = {"views": 0, "steps": 256, "guidance": 2.0, "sampler": "ddim", "conditioning": "input", "batch": 4}
    sampling = chosen_sampling(Settings(options=options), 1)
    assert chosen_views(Settings(options=options)) == 0
    assert {"views": 0} | {name: getattr(sampling, name) for name in options if name != "views"} == options


def test_directions_are_about_the_first_picture() -> None:
    camera = framed_camera(20.0)
    assert directed(camera, Direction(azimuth_deg=90.0)) == camera.moved(azimuth_deg=90.0)
    assert directed(camera, Direction(azimuth_deg=0.0, elevation_deg=-5.0)).elevation_deg == -5.0
    assert near_any(camera.moved(azimuth_deg=370.0), [camera])
    assert not near_any(camera.moved(azimuth_deg=25.0), [camera])


def test_it_says_when_its_weights_are_missing(pipeline: ThreeDim, tmp_path: Path, monkeypatch) -> None:
    info = pipeline.info()
    assert info.ready
    assert info.several_pictures
    assert info.novel_views
    monkeypatch.setattr(store, "TINY", tmp_path)
    assert not pipeline.info().ready
    assert "3dim" in pipeline.info().hint
