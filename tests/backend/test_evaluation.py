"""Evaluation on a small folder of meshes: what is perfect scores so, and the baseline finds what it was shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_fixture import Blocks, chair
from PIL import Image
from typer.testing import CliRunner

from backend.cli import app
from backend.evaluation.evaluate import Method, Prediction, evaluate, pipeline_method, summarise, views_psnr
from backend.evaluation.examples import Example, make_examples
from backend.evaluation.report import ContactSheet, cells, spread
from backend.evaluation.retrieval import find_matches, matched_mesh
from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.render import Light, prepare, render
from backend.pipelines import registry
from backend.training.data.episodes import Dataset, EpisodeSpec, build
from backend.training.data.meshes import find_meshes
from protocol.errors import TurnaroundError
from protocol.messages import Settings

SPEC = EpisodeSpec(episodes=2, views=4, surface_points=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    shapes = {
        "train/red.ply": chair(0.6, 0.5, 0.8, (220, 40, 40)),
        "train/green.ply": chair(0.4, 0.9, 0.5, (40, 200, 60)),
        "train/blue.ply": chair(0.9, 0.4, 0.6, (50, 60, 220)),
        "val/orange.ply": chair(0.6, 0.55, 0.75, (230, 120, 30)),
        "val/teal.ply": chair(0.45, 0.8, 0.5, (30, 180, 150)),
    }
    for name, shape in shapes.items():
        path = root / "meshes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape.export(path)
    rows = [f"{name},{name.split('/')[0]}" for name in shapes]
    (root / "meshes" / "props.csv").write_text("\n".join(["path,split", *rows]))
    return root / "meshes"


@pytest.fixture(scope="module")
def examples(folder: Path) -> list[Example]:
    return list(make_examples([file for file in find_meshes(folder) if file.split == "val"], size=96))


@pytest.fixture(scope="module")
def training(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    files = [file for file in find_meshes(folder) if file.split == "train"]
    return build(files, SPEC, tmp_path_factory.mktemp("cache"), workers=1)


def turned(mesh: Mesh, degrees: float) -> Mesh:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Mesh((mesh.vertices @ matrix.T).astype(np.float32), mesh.faces, mesh.colors)


def perfect(example: Example) -> Prediction:
    return Prediction(example.truth, example.camera.elevation_deg, lit=False)


def test_the_truth_stands_where_its_picture_shows_it(folder: Path, examples: list[Example]) -> None:
    for example in examples:
        again = render(prepare(example.truth), example.camera, 96, example.light).rgba
        np.testing.assert_allclose(again.astype(int), example.picture.astype(int), atol=3)
        assert example.camera.azimuth_deg == 0.0
    files = [file for file in find_meshes(folder) if file.split == "val"]
    for one, two in zip(examples, make_examples(files, size=96), strict=True):
        np.testing.assert_array_equal(one.picture, two.picture)


def test_perfect_turned_and_failed_predictions(examples: list[Example]) -> None:
    def fail(example: Example) -> Prediction:
        raise TurnaroundError("picture.uniform", "Nothing there.")

    methods: dict[str, Method] = {
        "perfect": perfect,
        "turned": lambda example: Prediction(turned(example.truth, 90), 80.0, lit=False),
        "failed": fail,
    }
    sheet = ContactSheet([examples[1].name], cell=48)
    results = evaluate(methods, examples, grid=32, on_done=sheet.add)
    assert [(r.name, r.method) for r in results] == [(e.name, m) for e in examples for m in methods]
    summaries = {summary.method: summary for summary in summarise(results)}
    best, aligned = summaries["perfect"].metrics, summaries["turned"].metrics
    assert best["f_score_unaligned"] == (1.0, 1.0)
    assert best["iou_unaligned"] == (1.0, 1.0)
    assert best["psnr"][0] > 45
    assert best["ssim"][0] > 0.99
    assert best["elevation_error_deg"] == (0.0, 0.0)
    assert best["f_score"][0] > 0.99
    assert best["iou"][0] > 0.9
    assert aligned["f_score_unaligned"][0] < 0.9 < aligned["f_score"][0]
    assert aligned["iou_unaligned"][0] < 0.7 < aligned["iou"][0]
    assert aligned["chamfer"][0] < 0.02 < aligned["chamfer_unaligned"][0]
    assert aligned["psnr"][0] < best["psnr"][0] - 10
    assert summaries["failed"].failures == 2
    assert summaries["failed"].metrics["iou"] == (0.0, 0.0)
    assert "chamfer" not in summaries["failed"].metrics
    assert ["Objects (failed)", "2 (0)", "2 (0)", "2 (2)"] in cells(list(summaries.values()))


def test_drawn_views_are_compared_with_the_same_turns_of_the_true_camera(examples: list[Example]) -> None:
    example = examples[0]
    own, believed = example.camera, example.camera.elevation_deg + 12.0
    turns = [(0.0, 0.0), (0.0, 90.0), (20.0, 180.0)]
    true = [own.moved(elevation_deg=rise, azimuth_deg=turn) for rise, turn in turns]
    images = np.stack([render(example.scene, camera, 64, example.light).rgba for camera in true])
    cameras = tuple(replace(camera, elevation_deg=camera.elevation_deg + 12.0) for camera in true)
    images[0] = 0  # the input's own view does not count
    perfect = Prediction(example.truth, believed, views=ViewSet(images, cameras))
    assert views_psnr(perfect, example) == 100.0
    swapped = Prediction(example.truth, believed, views=ViewSet(images[[0, 2, 1]], cameras))
    assert (views_psnr(swapped, example) or 0) < 30
    assert views_psnr(Prediction(example.truth, believed), example) is None


def test_retrieval_finds_the_picture_it_was_shown(training: Dataset, folder: Path) -> None:
    wanted = [(m, e, v) for m in range(3) for e in range(2) for v in range(4)]
    queries = np.stack([training.images[place] for place in wanted])
    matches = find_matches(queries, training)
    assert [(m.mesh, m.episode, m.view) for m in matches] == wanted
    assert max(m.distance for m in matches) < 1e-2
    for match, query in zip(matches, queries, strict=True):
        elevation, _, distance, fov = (float(x) for x in training.cameras[match.mesh, match.episode, match.view])
        mesh = matched_mesh(match, training, folder)
        seen = render(prepare(mesh), Camera(elevation, 0.0, distance, fov), SPEC.size, Light()).rgba
        a, b = seen[..., 3] > 127, query[..., 3] > 127
        assert (a & b).sum() / (a | b).sum() > 0.95


def test_retrieval_of_other_sizes_is_refused(training: Dataset) -> None:
    with pytest.raises(ValueError, match="32"):
        find_matches(np.zeros((1, 32, 32, 4), np.uint8), training)


def test_the_sheet_takes_objects_evenly_and_not_the_good_ones() -> None:
    names = [str(i) for i in range(10)]
    assert spread(names, 3) == ["0", "4", "9"]
    assert spread(names, 20) == names
    assert spread(names, 0) == []


def test_a_pipeline_is_a_method(examples: list[Example]) -> None:
    predict = pipeline_method(Blocks(), Settings(), "cpu")
    assert predict(examples[0]).elevation_deg == 15.0


def test_the_command_measures_the_pipeline_beside_both_baselines(
    folder: Path, training: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": Blocks()})
    monkeypatch.setattr("backend.training.data.episodes.build", lambda files, spec, cache: training)
    out = tmp_path / "out"
    arguments = ["evaluate", "--meshes", folder, "-o", out, "--cache", tmp_path / "cache", "--shown", 1]
    arguments += ["--compare", "views=1"]
    result = CliRunner().invoke(app, [str(a) for a in [*arguments, "--device", "cpu"]], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "results.json").read_text())
    assert [s["method"] for s in found["summary"]] == ["full", "input view alone", "views=1", "retrieval"]
    full, alone, _, _ = (s["metrics"] for s in found["summary"])
    assert full["iou_unaligned"][0] > alone["iou_unaligned"][0], "the option reached the pipeline"
    assert {(o["method"], o["name"]) for o in found["objects"]} == {
        (m, f"val/{n}.ply") for m in ("full", "input view alone", "views=1", "retrieval") for n in ("orange", "teal")
    }
    gains = [d for d in found["differences"] if d["minus"] == "input view alone" and d["metric"] == "iou_unaligned"]
    assert [(d["method"], d["mean"] > 0, d["count"]) for d in gains] == [("full", True, 2)]
    assert "F-score @ 0.05" in result.stdout
    assert "full minus" in result.stdout
    assert (out / "results.md").read_text().startswith("| mean / median | full |")
    width, height = Image.open(out / "sheet.png").size
    assert width > 4 * 160
    assert height > 5 * 160, "a row for each method and one for the truth of one object"


@pytest.mark.parametrize(
    ("arguments", "said"), [(["elevation", "--compare", "views=1"], "--compare"), (["nonsense"], "nonsense")]
)
def test_what_a_measurement_does_not_have_is_refused(folder: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--meshes", str(folder)])
    assert (result.exit_code, said in result.output) == (2, True)
