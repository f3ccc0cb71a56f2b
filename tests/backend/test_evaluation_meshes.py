"""Meshes that nothing can be measured on: they are left out and named, and the others are measured all the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from evaluation_fixture import Blocks, chair
from typer.testing import CliRunner

from backend.cli import app
from backend.evaluation.elevation import make_poses
from backend.evaluation.examples import Example, load_surface, make_examples
from backend.pipelines import registry
from backend.training.data.meshes import MeshFile, find_meshes
from backend.training.data.scenes import SceneSpec, make_scene
from protocol.errors import TurnaroundError

WHY = {
    "broken.ply": "broken.ply is not a mesh.",
    "cloud.ply": "cloud.ply is not a mesh.",
    "endless.obj": "endless.obj has vertices that are not finite.",
    "line.ply": "line.ply has no surface.",
    "nan.ply": "nan.ply has vertices that are not finite.",
    "point.ply": "point.ply has no surface.",
}
"""Of each bad file, what is said."""


def add_bad(folder: Path) -> None:
    """Writes a bad file of each kind."""
    whole = chair(0.6, 0.5, 0.8, (220, 40, 40))
    (folder / "broken.ply").write_bytes(b"ply\nnot one")
    trimesh.PointCloud(whole.vertices).export(folder / "cloud.ply")
    (folder / "endless.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 inf 0\nf 1 2 3\n")
    for name, corners in {
        "line.ply": np.outer([0.0, 0.3, 1.0], [0.3, 0.7, 0.4]),
        "nan.ply": np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 1]]),
        "point.ply": np.ones((3, 3)),
    }.items():
        trimesh.Trimesh(corners, [[0, 1, 2]], process=False).export(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chairs among bad files, of which the training split has some as well."""
    root = tmp_path_factory.mktemp("meshes")
    chair(0.6, 0.5, 0.8, (220, 40, 40)).export(root / "red.ply")
    chair(0.4, 0.9, 0.5, (40, 80, 200)).export(root / "blue.ply")
    add_bad(root)
    train = ["line.ply", "broken.ply"]
    rows = [f"{path.name},{'train' if path.name in train else 'val'}" for path in root.iterdir()]
    (root / "props.csv").write_text("\n".join(["path,split", *rows]))
    return root


@pytest.mark.parametrize("name", list(WHY))
def test_every_way_of_making_something_to_measure_refuses_a_mesh_without_a_surface(folder: Path, name: str) -> None:
    file = MeshFile(name, folder / name, "val")
    for make in (
        lambda: load_surface(file.path),
        lambda: next(make_examples([file], size=16)),
        lambda: next(make_poses([file], poses=1, size=16)),
        lambda: make_scene(file, 0, SceneSpec(size=16, first_views=1)),
    ):
        with pytest.raises(TurnaroundError) as caught:
            make()
        assert (caught.value.code, caught.value.sentence) == ("meshes.unreadable", WHY[name])


def test_thin_and_small_things_have_a_surface(tmp_path: Path) -> None:
    trimesh.creation.cylinder(radius=0.001, height=1.0).export(tmp_path / "wire.ply")
    trimesh.creation.box((1e-6, 1e-6, 1e-6)).export(tmp_path / "grain.ply")
    for file in find_meshes(tmp_path):
        assert len(load_surface(file.path).faces)


def test_shapes_are_measured_without_the_bad_ones_which_are_named_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": Blocks()})
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "none"))
    arguments = ["evaluate", "--meshes", str(folder), "-o", str(tmp_path / "out"), "--no-alone", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--cache", str(tmp_path / "cache")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for name, sentence in WHY.items():
        assert result.stderr.count(f"{name} is left out: {sentence}") == 1
    assert "Retrieval is left out" in result.output, "no training mesh can be used"
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["objects_measured"], found["clip"]) == (2, None)
    assert [row["name"] for row in found["objects"]] == ["blue.ply", "red.ply"]
    assert not any(row["failure"] for row in found["objects"])


def test_elevations_are_measured_without_the_bad_ones(folder: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "elevation", "--meshes", str(folder), "-o", str(tmp_path), "--poses", "1", "--no-drawn"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "cloud.ply is left out: cloud.ply is not a mesh." in result.stderr
    found = json.loads((tmp_path / "elevation.json").read_text())
    assert found["meshes"] == 2
    assert {pose["name"] for pose in found["poses"]} == {"blue.ply #0", "red.ply #0"}


def test_consistency_is_measured_without_the_bad_ones_nor_do_they_stand_in_the_bound(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(methods: object, examples: Iterable[Example], objects: Iterable[Example], **_: object) -> None:
        seen.extend([example.name for example in some] for some in (examples, objects))
        raise TurnaroundError("test.enough", "This is enough.")

    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": Blocks()})
    monkeypatch.setattr("backend.evaluation.consistency_methods.run", run)
    arguments = ["evaluate", "consistency", "--meshes", str(folder), "-o", str(tmp_path), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert "This is enough." in result.stderr, result.output
    assert seen == [["blue.ply", "red.ply"]] * 2
    assert result.stderr.count("cloud.ply is left out") == 1


@pytest.mark.parametrize("command", [["shapes"], ["elevation"], ["consistency"], ["schedule", "--zero123", "."]])
def test_no_mesh_that_can_be_measured_on_is_said_so(tmp_path: Path, command: list[str]) -> None:
    add_bad(tmp_path)
    arguments = ["evaluate", *command, "--meshes", str(tmp_path), "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, "None of the meshes can be measured on." in result.stderr) == (1, True), result.output
    for name, sentence in WHY.items():
        assert f"{name} is left out: {sentence}" in result.stderr


@pytest.mark.parametrize("command", [["shapes"], ["elevation"], ["consistency"], ["schedule", "--zero123", "."]])
def test_an_output_that_cannot_be_a_folder_is_refused_before_anything_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("backend.training.data.meshes.find_meshes", lambda folder: pytest.fail("it went on"))
    (tmp_path / "file").write_bytes(b"mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        arguments = ["evaluate", *command, "--meshes", str(folder), "-o", str(output), "--device", "cpu"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1, result.output
        assert f'"{output}" cannot be made a folder' in result.stderr
        assert "Give another folder with -o." in result.stderr
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_training_that_is_to_write_to_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    arguments = ["train", "sparseneus", "--meshes", str(folder), "-o", str(tmp_path / "file"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
    assert (result.exit_code, "is a file" in result.stderr) == (2, True), result.output
