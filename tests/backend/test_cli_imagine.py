"""`turnaround imagine` and `turnaround generate --prompt`: here, and by a backend."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_stable_diffusion
import trimesh
from fake_pipelines import Fake, FakePainter
from PIL import Image
from server_fixture import Backend
from typer.testing import CliRunner

from backend.cli import app
from backend.generators.text import registry as painter_registry
from backend.pipelines import registry
from protocol.messages import SINGLE_OBJECT


def turnaround(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """A pipeline and a painter instead of those that are installed."""
    monkeypatch.setattr(registry, "pipelines", lambda: {"fake": Fake()})
    monkeypatch.setattr(painter_registry, "painters", lambda: {"brush": FakePainter()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A real checkpoint in a weights folder of its own."""
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_stable_diffusion.save(tmp_path / "weights" / "tiny-letters")


def test_an_installed_checkpoint_draws_and_its_story_stays_with_the_picture(installed, tmp_path):
    done = turnaround("imagine", "a mug", "-o", tmp_path / "mug.png", "--seed", 3, "--steps", 2, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "mug.png")
    assert "tiny-letters" in done.stderr
    with Image.open(tmp_path / "mug.png") as image:
        assert image.size == (tiny_stable_diffusion.SIDE, tiny_stable_diffusion.SIDE)
        story = json.loads(image.text["turnaround"])
        first = np.asarray(image)
    assert (story["prompt"], story["seed"], story["steps"], story["painter"]) == ("a mug", 3, 2, "tiny-letters")
    other = turnaround(
        "imagine", "a mug", "-o", tmp_path / "mug.webp", "--steps", 2, "--device", "cpu", "--no-single-object"
    )
    assert other.exit_code == 0, other.output
    with Image.open(tmp_path / "mug.webp") as image:
        assert (np.asarray(image.convert("RGBA")) != first).any()


def test_a_prompt_becomes_a_mesh_and_the_picture_between_is_kept(fakes, tmp_path):
    command = ["generate", "--prompt", "a mug", "-o", tmp_path / "mug.ply", "--pipeline", "fake", "--device", "cpu"]
    kept = ["--picture-out", tmp_path / "mug.png", "--report", tmp_path / "mug.json"]
    done = turnaround(*command, *kept, "--seed", 2)
    assert done.exit_code == 0, done.output
    color = [len(f"a mug, {SINGLE_OBJECT}"), 2, 255]
    assert np.asarray(Image.open(tmp_path / "mug.png"))[0, 0].tolist() == [*color, 255]
    assert trimesh.load(tmp_path / "mug.ply", process=False).vertices[0].tolist() == color, "it saw that picture"
    assert json.loads((tmp_path / "mug.json").read_text())["picture"]["prompt"] == "a mug"


def test_what_cannot_be_is_said_before_anything_is_drawn(fakes, tmp_path, monkeypatch):
    out = ["-o", tmp_path / "x.ply", "--pipeline", "fake"]
    for arguments in ([], [tmp_path / "a.png", "--prompt", "a mug"], [tmp_path / "a.png", "--painter", "brush"]):
        assert turnaround("generate", *arguments, *out).exit_code == 2, arguments
    painted = []
    monkeypatch.setattr(FakePainter, "paint", lambda *arguments, **named: painted.append(arguments))
    for arguments, words in (
        (["--prompt", "  "], "no prompt"),
        (["--prompt", "a mug", "--painter", "nobody"], "Choose one of: brush"),
        (["--prompt", "a mug", "--picture-out", "mug.txt"], "Use one of .png"),
        (["--prompt", "a mug", "--option", "steps=x"], "Steps"),
        (["--prompt", "a mug", "--pipeline", "x"], "no engine"),
        (["--prompt", "a" * 1001], "1000"),
    ):
        failed = turnaround("generate", *out, *arguments)
        assert failed.exit_code == 1, arguments
        assert words in failed.stderr, failed.stderr
    monkeypatch.setattr(painter_registry, "painters", lambda: {"dry": FakePainter("dry", ready=False)})
    failed = turnaround("imagine", "a mug", "-o", tmp_path / "mug.png")
    assert "No painter is installed" in failed.stderr
    assert "models install dry" in failed.stderr
    assert not painted


def test_a_backend_draws_and_makes_the_mesh(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    backend = Backend(tmp_path / "home")
    backend.start()
    drawn = turnaround("imagine", "a mug", "-o", tmp_path / "mug.png", "--backend", "--seed", 4, "--painter", "brush")
    assert drawn.exit_code == 0, drawn.output
    assert np.asarray(Image.open(tmp_path / "mug.png"))[0, 0, 1] == 4
    command = ["generate", "--prompt", "a mug", "--backend", "--pipeline", "fake", "-o", tmp_path / "mug.ply"]
    done = turnaround(*command, "--seed", 5)
    assert done.exit_code == 0, done.output
    assert trimesh.load(tmp_path / "mug.ply", process=False).vertices[0, 1] == 5.0
    failed = turnaround("imagine", "error", "-o", tmp_path / "x.png", "--backend")
    assert failed.exit_code == 1
    assert not (tmp_path / "x.png").exists()
    backend.stop()
