"""The 3D consistency score: a field fits what agrees, and views are told apart by whether they agree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from evaluation_fixture import Blocks, chair
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from backend.cli import app
from backend.evaluation import consistency as measure
from backend.evaluation.consistency import FEWEST, consistency, every_other, fixed_cameras
from backend.evaluation.consistency_methods import (
    OTHERS,
    TRUTH,
    Measures,
    Method,
    at_fixed_cameras,
    pipeline_views,
    run,
    true_views,
)
from backend.evaluation.consistency_report import cells
from backend.evaluation.examples import Example, make_examples
from backend.evaluation.field import DENSITY, HALF, ColorField, FieldSpec, Level
from backend.evaluation.metrics import on_white, psnr
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines import registry
from backend.training.data.meshes import find_meshes
from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo, Settings

SPEC = FieldSpec(levels=(Level(12, 40), Level(24, 40)), rays=1024)
"""Small enough for a test, and good enough to tell views that agree from others."""

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("meshes")
    for number, (name, color) in enumerate(COLORS.items()):
        chair(0.5 + 0.2 * number, 0.8 - 0.2 * number, 0.8, color).export(root / f"{name}.ply")
    (root / "props.csv").write_text("\n".join(["path,split", *(f"{name}.ply,val" for name in COLORS)]))
    return root


@pytest.fixture(scope="module")
def examples(folder: Path) -> list[Example]:
    return list(make_examples(find_meshes(folder), size=64))


@pytest.fixture(scope="module")
def views(examples: list[Example]) -> ViewSet:
    """True ones of the red chair."""
    return true_views(examples[2], fixed_cameras(examples[2].camera))


def painted(views: ViewSet, rng: np.random.Generator) -> ViewSet:
    """Each view in other colours."""
    images = views.images.copy()
    for image in images:
        image[..., :3] = image[..., rng.permutation(3)]
    return replace(views, images=images)


def shifted(views: ViewSet, rng: np.random.Generator) -> ViewSet:
    """Each view moved by up to four pixels."""
    moves = [np.float32([[1, 0, dx], [0, 1, dy]]) for dx, dy in rng.integers(-4, 5, (len(views), 2))]
    return replace(
        views, images=np.stack([cv2.warpAffine(i, m, i.shape[1::-1]) for i, m in zip(views.images, moves, strict=True)])
    )


# ---------------------------------------------------------------------------------------------------------- the field


def test_a_field_is_seen_as_what_it_holds() -> None:
    values = torch.zeros(1, 4, 25, 25, 25)
    values[:, 0], values[:, 1], values[:, 2:] = -30.0, 30.0, -30.0
    camera = Camera(0.0, 0.0, 2.0, 60.0)
    assert (ColorField(values).draw([camera], 16) == 255).all(), "empty is white"
    values[0, 0, :12] = 30.0  # the lower half is dense
    picture = ColorField(values).draw([camera], 16)[0]
    np.testing.assert_array_equal(picture[12, 8], (255, 0, 0, 255))
    np.testing.assert_array_equal(picture[2, 8], 255)
    assert (picture[:, 0] == 255).all(), "beside the cube"
    field = ColorField(values)
    np.testing.assert_array_equal(ColorField(values, field.found()).draw([camera], 16)[0], picture)
    assert 0.5 < field.found().float().mean() < 0.65
    density, _ = field.at(torch.tensor([[0.0, 0.0, -0.3], [0.1, 0.2, HALF]]))
    assert density[0] == pytest.approx(DENSITY * 26, rel=1e-4)
    assert density[1] == pytest.approx(0, abs=1e-6)


def test_a_thin_veil_lets_through_what_beer_and_lambert_say() -> None:
    values = torch.zeros(1, 4, 17, 17, 17)
    values[:, 1:] = -30.0
    origins, directions = torch.tensor([[0.0, -2.0, 0.01]]), torch.tensor([[0.0, 1.0, 0.0]])
    field = ColorField(values)
    density, _ = field.at(torch.zeros(1, 3))
    expected = torch.exp(-density * 2 * HALF).expand(1, 3)
    torch.testing.assert_close(field.look(origins, directions), expected, atol=1e-3, rtol=1e-3)


def test_a_field_shows_an_object_from_where_it_was_not_seen(views: ViewSet) -> None:
    split = every_other(views.cameras)
    drawn = measure.redrawn(views, split, spec=SPEC)
    held = views.images[list(split.held)]
    similarity = np.mean([psnr(image, view) for image, view in zip(drawn, held, strict=True)])
    blank = np.mean([psnr(np.full_like(view, 255), view) for view in held])
    turned = np.mean([psnr(image, view) for image, view in zip(np.roll(drawn, 1, axis=0), held, strict=True)])
    assert similarity > 20
    assert similarity > max(blank, turned) + 5


# ---------------------------------------------------------------------------------------------------------- the score


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-400, 400), st.floats(-80, 80)), min_size=FEWEST, max_size=30), st.randoms())
def test_the_split_is_of_cameras_and_not_of_their_order(angles: list[tuple[float, float]], random: object) -> None:
    cameras = tuple(Camera(e, a, 2.0, 40.0) for a, e in angles)
    split = every_other(cameras)
    assert sorted(split.fitted + split.held) == list(range(len(cameras)))
    assert 0 <= len(split.fitted) - len(split.held) <= 1
    order = sorted(range(len(cameras)), key=lambda _: random.random())  # type: ignore[attr-defined]
    again = every_other(tuple(cameras[k] for k in order))
    seen = sorted((cameras[k].azimuth_deg % 360, cameras[k].elevation_deg) for k in split.held)
    assert seen == sorted((cameras[order[k]].azimuth_deg % 360, cameras[order[k]].elevation_deg) for k in again.held)


def test_both_halves_of_the_fixed_cameras_look_from_everywhere() -> None:
    cameras = fixed_cameras(Camera(22.0, 0.0, 2.0, 40.0))
    split = every_other(cameras)
    assert split.fitted == tuple(range(0, 16, 2))
    for half in (split.fitted, split.held):
        assert {cameras[k].elevation_deg for k in half} == set(measure.ELEVATIONS_DEG)
        assert np.allclose(np.diff([cameras[k].azimuth_deg for k in half]), 45)


def test_few_views_are_refused(views: ViewSet) -> None:
    with pytest.raises(TurnaroundError) as caught:
        consistency(ViewSet(views.images[:7], views.cameras[:7]))
    assert caught.value.code == "views.few"


def test_views_that_agree_score_higher_and_the_same_each_time(views: ViewSet) -> None:
    rng = np.random.default_rng(0)
    true = consistency(views, spec=SPEC)
    for spoilt in (painted(views, rng), shifted(views, rng)):
        score = consistency(spoilt, spec=SPEC)
        assert score.psnr < true.psnr - 2
        assert score.ssim < true.ssim - 0.02
    other_layout = replace(views, images=np.asfortranarray(views.images))
    again = consistency(other_layout, spec=SPEC, distance=lambda drawn, held: float(len(drawn) * len(held)))
    assert again == msgspec.structs.replace(true, seconds=again.seconds, lpips=64.0)
    assert consistency(views, spec=SPEC, seed=1).psnr == pytest.approx(true.psnr, abs=1)


def test_views_count_as_they_look_on_white(views: ViewSet) -> None:
    opaque = np.full_like(views.images, 255)
    opaque[..., :3] = np.round(on_white(views.images) * 255)
    assert consistency(ViewSet(opaque, views.cameras), spec=SPEC).psnr == pytest.approx(
        consistency(views, spec=SPEC).psnr, abs=0.3
    )


# -------------------------------------------------------------------------------------------------------- experiments


def test_methods_stand_between_the_bounds(examples: list[Example]) -> None:
    asked: list[int] = []

    def draw(picture: np.ndarray, camera: Camera, cameras: Sequence[Camera], seed: int) -> ViewSet:
        asked.append(seed)
        example = next(e for e in examples if e.picture is picture)
        assert camera == example.camera
        return painted(true_views(example, cameras), np.random.default_rng(seed))

    def fail(example: Example) -> ViewSet:
        raise TurnaroundError("picture.uniform", "Nothing there.")

    methods: dict[str, Method] = {"painted": at_fixed_cameras(draw, count=10, seed=3), "fails": fail}
    measures = Measures(spec=SPEC, set_distance=lambda drawn, held: float(len(held)))
    told: list[tuple[str, bool]] = []
    scores, summaries = run(
        methods,
        examples[:2],
        examples,
        measures=measures,
        on_done=lambda example, score, pictures: told.append((score.method, pictures is None)),
    )
    assert asked == [3, 3]
    assert told == 2 * [("painted", False), ("fails", True), (TRUTH, False), (OTHERS, False)]
    by_name = {summary.method: summary for summary in summaries}
    assert list(by_name) == [TRUTH, "painted", "fails", OTHERS]
    values = [by_name[name].psnr for name in (TRUTH, "painted", OTHERS)]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert values[0] > values[2] + 3  # type: ignore[operator]
    assert by_name["painted"].truth_psnr > by_name["painted"].psnr > 0  # type: ignore[operator]
    assert by_name[TRUTH].truth_psnr is None
    assert by_name["painted"].fid == 2 * 5, "over the held-out views of all objects"
    assert by_name["fails"] == type(summaries[0])(method="fails", count=2, failures=2)
    assert ["fails", *[""] * 6, "2 (2)"] in cells(summaries)
    assert [score.failure for score in scores if score.method == "fails"] == 2 * ["picture.uniform"]
    with pytest.raises(ValueError, match="other cameras"):
        run({str(n): at_fixed_cameras(draw, count=n) for n in (10, 8)}, examples[:1], measures=measures)


class Turntable(Blocks):
    """A pipeline that draws the same object from eight sides whatever it is shown, each view at another size."""

    def __init__(self, example: Example) -> None:
        self.example = example

    def generate(self, request: registry.Request, **others: object) -> Iterator[registry.Output]:
        few = request.settings.options.get("views") == 0
        cameras = tuple(self.example.camera.moved(azimuth_deg=45.0 * k) for k in range(3 if few else 8))
        for output in super().generate(request, **others):
            yield replace(output, views=true_views(self.example, cameras))


def test_the_command_scores_a_pipeline_between_its_bounds(
    folder: Path, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": Turntable(examples[0])})
    command = import_module("backend.cli.evaluate.consistency")  # the name in its package is the command
    monkeypatch.setattr(command, "measures", lambda seed, device: Measures(spec=SPEC))
    arguments = ["evaluate", "consistency", "--meshes", folder, "-o", tmp_path, "--limit", 1, "--device", "cpu"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "consistency.json").read_text())
    assert [summary["method"] for summary in found["summary"]] == [TRUTH, "one2345", OTHERS]
    psnrs = [summary["psnr"] for summary in found["summary"]]
    assert min(psnrs[:2]) > psnrs[2] + 2
    assert found["summary"][1]["views"] == 8
    assert "| ground truth |" in (tmp_path / "consistency.md").read_text()
    assert (tmp_path / "consistency.png").stat().st_size > 1000

    arguments += ["--option", "views=0", "--compare", "views=8"]
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "views.few" in result.stderr
    failed = {
        score["method"]: score["failure"]
        for score in json.loads((tmp_path / "consistency.json").read_text())["objects"]
    }
    assert failed == {TRUTH: "", "one2345": "views.few", "one2345, views=8": "", OTHERS: ""}


def test_a_pipeline_that_draws_any_view_is_asked_for_the_fixed_ones(examples: list[Example]) -> None:
    example, asked = examples[0], list[Settings]()

    class Anywhere(Turntable):
        def info(self) -> PipelineInfo:
            return msgspec.structs.replace(super().info(), novel_views=True)

        def generate(self, request: registry.Request, **others: object) -> Iterator[registry.Output]:
            asked.append(request.settings)
            yield from super().generate(request, **others)

    pipeline_views(Anywhere(example), Settings(options={"other": 1}), "cpu", count=9)(example)
    pipeline_views(Anywhere(example), Settings(options={"views": 3}), "cpu", count=9)(example)
    pipeline_views(Turntable(example), Settings(), "cpu", count=9)(example)
    assert [settings.options for settings in asked] == [{"views": 0, "other": 1}, {"views": 3}]
    told = asked[0]
    assert (told.elevation_deg, told.fov_deg) == (example.camera.elevation_deg, example.camera.fov_deg)
    wanted = [(camera.azimuth_deg, camera.elevation_deg) for camera in fixed_cameras(example.camera, 9)]
    assert [(look.azimuth_deg, look.elevation_deg) for look in told.look_from] == wanted
