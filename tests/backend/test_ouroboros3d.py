"""Ouroboros3D on a shipped picture: a shape at every step, what is shown of it, how it is kept and what goes wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from backend.geometry.render import prepare, render
from backend.pipelines.ouroboros3d import recipe as module
from backend.pipelines.ouroboros3d.loop import Feeding
from backend.pipelines.ouroboros3d.pipeline import Ouroboros3D
from backend.pipelines.ouroboros3d.recipe import Ouroboros3DRecipe, PreviewBudget
from backend.pipelines.registry import Output, Request
from backend.pipelines.stage import CancelledError, Progress, StageCache, Update
from backend.preparation.framing import framed_camera
from backend.preparation.picture import read_picture
from protocol.errors import TurnaroundError
from protocol.messages import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 6
QUICK = {"steps": STEPS, "guidance": 1.0, "polish": 10}


@pytest.fixture(scope="module")
def pipeline() -> Ouroboros3D:
    return Ouroboros3D()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return read_picture(EXAMPLES / "house.png")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews at every step, however fast they follow one another."""
    monkeypatch.setattr(module.PreviewBudget, "allows", lambda self: True)


def settings(resolution: int = 48, seed: int = 0, **options: object) -> Settings:
    return Settings(elevation_deg=18.0, resolution=resolution, seed=seed, options={**QUICK, **options})


def run(
    pipeline: Ouroboros3D, picture: np.ndarray, cache: StageCache, wanted: Settings, progress: Progress | None = None
) -> Output:
    (output,) = pipeline.generate(Request(picture, wanted), device="cpu", cache=cache, progress=progress or Progress())
    return output


@pytest.mark.usefixtures("eager")
def test_a_shape_forms_and_is_the_pictures(pipeline: Ouroboros3D, picture: np.ndarray) -> None:
    updates: list[Update] = []
    output = run(pipeline, picture, StageCache(), settings(), Progress(updates.append))
    drawing = [update for update in updates if update.stage == "Drawing Views" and update.step]
    assert [update.step for update in drawing] == list(range(1, STEPS + 1))
    assert [update.can_keep for update in drawing] == [step >= STEPS / 4 for step in range(1, STEPS + 1)]
    shown = [update.preview.mesh for update in drawing if update.preview is not None]
    assert len(shown) == STEPS - 2  # not in the first quarter, and not after the last step
    assert all(mesh is not None and len(mesh.faces) > 100 for mesh in shown)

    assert [round(c.azimuth_deg, 1) for c in output.views.cameras] == [0, 45, 90, 135, 180, 225, 270, 337.5]
    assert all(camera.elevation_deg == 18.0 for camera in output.views.cameras)
    seen = render(prepare(output.mesh), framed_camera(18.0), 128).rgba
    truth = output.cutout[::4, ::4]
    inside, covered = truth[..., 3] > 127, seen[..., 3] > 127
    assert (inside & covered).sum() / (inside | covered).sum() > 0.6
    both = inside & covered
    assert np.median(np.abs(seen[both][:, :3].astype(int) - truth[both][:, :3])) < 12
    assert output.splats is not None
    assert output.splats.shape == (4096, 14)
    assert output.report.pipeline == "ouroboros3d"


def test_how_far_the_elevation_is_to_be_trusted_is_reported(pipeline: Ouroboros3D, picture: np.ndarray) -> None:
    output = run(pipeline, picture, StageCache(), structs.replace(settings(steps=1), elevation_deg=None))
    assert output.report.elevation_source == "estimated"
    assert output.report.elevation_confidence == pytest.approx(1 / (1 + (output.report.elevation_spread_deg / 10) ** 2))


def test_what_is_kept_is_the_shape_of_that_step_and_is_not_taken_for_the_result(
    pipeline: Ouroboros3D, picture: np.ndarray
) -> None:
    cache, progress = StageCache(), Progress()
    steps: list[int] = []

    def report(update: Update) -> None:
        if update.stage == "Drawing Views" and update.step:
            steps.append(update.step)
            if update.step == 3:
                progress.keep.set()

    progress.report = report
    kept = run(pipeline, picture, cache, settings(), progress)
    assert steps == [1, 2, 3]
    progress.report = lambda update: steps.append(update.step) if update.stage == "Drawing Views" else None
    whole = run(pipeline, picture, cache, settings(), progress)
    assert steps[-1] == STEPS
    assert not np.array_equal(kept.views.images, whole.views.images)


def test_feedback_changes_what_is_drawn_and_the_cache_spares_drawing_again(
    pipeline: Ouroboros3D, picture: np.ndarray
) -> None:
    cache = StageCache()
    fed = run(pipeline, picture, cache, settings())
    finer = run(pipeline, picture, cache, settings(resolution=56))
    assert {"views", "polish"} <= set(finer.report.cached)
    assert len(finer.mesh.faces) > len(fed.mesh.faces)
    rough = run(pipeline, picture, cache, settings(polish=0))
    assert np.array_equal(rough.views.images, fed.views.images)
    assert not np.array_equal(rough.splats, fed.splats)
    blind = run(pipeline, picture, cache, settings(feedback=False))
    other = run(pipeline, picture, cache, settings(seed=1))
    assert len({output.views.images.tobytes() for output in (fed, blind, other)}) == 3


def test_steps_are_fed_from_when_until_when_and_how_often() -> None:
    shown = [n for n in range(1, 26) if Feeding(every=5, begin=0.4, end=0.8).shows(n, 25)]
    assert shown == list(range(11, 21))
    assert [n for n in range(2, 26) if Feeding(every=5).renews(n)] == [2, 7, 12, 17, 22]
    assert not any(Feeding(end=0.0).shows(n, 25) for n in range(1, 26))


def test_cancelling_stops_within_a_step(pipeline: Ouroboros3D, picture: np.ndarray) -> None:
    progress = Progress()

    def report(update: Update) -> None:
        if update.stage == "Drawing Views" and update.step == 2:
            progress.cancel.set()
        assert not (update.stage == "Drawing Views" and update.step > 2)

    progress.report = report
    with pytest.raises(CancelledError):
        run(pipeline, picture, StageCache(), settings(), progress)


def test_a_drawing_that_comes_apart_or_shows_nothing_ends_in_a_sentence(
    pipeline: Ouroboros3D, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.free()
    recipe = Ouroboros3DRecipe("tiny", "cpu")
    monkeypatch.setattr(pipeline, "make_recipe", lambda choice: recipe)
    networks = recipe.networks
    unet = networks.generator.model.network
    with monkeypatch.context() as patch:
        patch.setattr(unet, "forward", lambda latents, *rest: latents[:, :, :48] * torch.nan)
        with pytest.raises(TurnaroundError) as broken:
            run(pipeline, picture, StageCache(), settings())
    assert broken.value.code == "views.diverged"

    look = networks.reconstructor.look

    def transparent(*arguments: torch.Tensor) -> object:
        found = look(*arguments)
        return dataclasses.replace(found, opacities=torch.zeros_like(found.opacities))

    monkeypatch.setattr(networks.reconstructor, "look", transparent)
    with pytest.raises(TurnaroundError, match="Nothing was found in the picture") as empty:
        run(pipeline, picture, StageCache(), settings())
    assert empty.value.code == "shape.empty"


def test_weights_that_are_not_installed_are_said_so(pipeline: Ouroboros3D, picture: np.ndarray) -> None:
    with pytest.raises(TurnaroundError, match="not all installed") as error:
        run(pipeline, picture, StageCache(), settings(weights="ouroboros3d"))
    assert error.value.field == "options.weights"


def test_previews_take_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    budget, made = PreviewBudget(), 0
    for _ in range(100):  # steps of 0.2 s, previews of 0.1 s
        now[0] += 0.2
        if budget.allows():
            made += 1
            with budget:
                now[0] += 0.1
    assert made * 0.1 <= 0.1 * now[0] + 0.1
    assert made >= 15
