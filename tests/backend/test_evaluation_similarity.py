"""CLIP similarity: 24 renders as published, a picture is most like itself, and a word where there is no CLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from evaluation_fixture import Blocks, chair
from transformers import CLIPConfig, CLIPModel
from typer.testing import CliRunner
from zero123_fixture import make_zero123

from backend.cli import app
from backend.evaluation.evaluate import Prediction, evaluate, summarise
from backend.evaluation.examples import make_examples
from backend.evaluation.report import cells
from backend.evaluation.similarity import RENDER_SIZE, ClipSimilarity, installed_encoder, ring_cameras, ring_renders
from backend.geometry.mesh import Mesh
from backend.pipelines import registry
from backend.training.data.meshes import find_meshes
from backend.weights.store import STORED
from protocol.errors import TurnaroundError


@pytest.fixture(scope="module")
def zero123(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_zero123(tmp_path_factory.mktemp("weights") / "zero123-xl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chairs that no table marks."""
    root = tmp_path_factory.mktemp("meshes")
    chair(0.6, 0.5, 0.8, (220, 40, 40)).export(root / "red.ply")
    chair(0.4, 0.9, 0.5, (40, 80, 200)).export(root / "blue.ply")
    return root


def test_the_renders_are_twelve_at_30_degrees_and_twelve_level() -> None:
    cameras = ring_cameras()
    assert [camera.elevation_deg for camera in cameras] == [30.0] * 12 + [0.0] * 12
    assert sorted({camera.azimuth_deg for camera in cameras}) == [30.0 * k for k in range(12)]
    assert {camera.distance for camera in cameras} == {1.5}
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    colors = np.full((len(ball.vertices), 4), 90, np.uint8)
    renders = ring_renders(
        Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32), colors), size=64
    )
    assert renders.shape == (24, 64, 64, 4)
    # a ball of radius 0.5 from 1.5 is seen under asin(1/3) of the 24.6 degrees to the picture's edge
    radius = 32 * np.tan(np.arcsin(1 / 3)) / (16 / 35)
    assert np.allclose((renders[..., 3] > 127).sum((1, 2)), np.pi * radius**2, rtol=0.03)


def test_renders_are_of_the_papers_size_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Rendered:
        rgba = np.zeros((1, 1, 4), np.uint8)

    def render(scene: object, camera: object, size: int, light: object) -> Rendered:
        sizes.append(size)
        return Rendered()

    monkeypatch.setattr("backend.evaluation.similarity.render", render)
    box = trimesh.creation.box((0.5, 0.5, 0.5))
    mesh = Mesh(np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32), np.full((8, 4), 90, np.uint8))
    ring_renders(mesh)
    assert sizes == [512] * 24
    assert RENDER_SIZE == 512


def test_any_installed_clip_is_found_and_zero123s_first(
    zero123: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    assert installed_encoder() is None

    def install(name: str, layout: str) -> None:
        for part in STORED[layout]:
            path = tmp_path / "weights" / name / part
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")
        shutil.copytree(zero123 / "image_encoder", tmp_path / "weights" / name / "image_encoder", dirs_exist_ok=True)

    install("stable-video-diffusion", "video")
    found = installed_encoder()
    assert found == tmp_path / "weights" / "stable-video-diffusion" / "image_encoder"
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    assert ClipSimilarity(found)(picture, picture[None]) == pytest.approx(1, abs=1e-5)

    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": Blocks()})
    monkeypatch.setattr("backend.evaluation.evaluate.ring_renders", lambda mesh, light: ring_renders(mesh, light, 32))
    arguments = ["evaluate", "--meshes", str(folder), "-o", str(tmp_path / "out"), "--no-alone", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--limit", "1", "--no-retrieval"], catch_exceptions=False)
    assert (result.exit_code, "CLIP similarity is left out" in result.output) == (0, False), result.output
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["clip"] == "stable-video-diffusion/image_encoder"
    assert written["objects"][0]["clip"] is not None

    install("zero123-xl", "zero123")
    assert installed_encoder() == tmp_path / "weights" / "zero123-xl" / "image_encoder"


def test_a_picture_is_most_like_itself(zero123: Path, folder: Path) -> None:
    measure = ClipSimilarity(zero123 / "image_encoder")
    red, blue = (example.picture for example in make_examples(find_meshes(folder), size=224))
    assert measure(red, red[None]) == pytest.approx(1, abs=1e-5)
    other = measure(red, blue[None])
    assert other < 0.999
    assert measure(red, np.stack([red, blue])) == pytest.approx((1 + other) / 2, abs=1e-5)
    hidden = red.copy()
    hidden[hidden[..., 3] == 0] = (255, 0, 0, 0)
    assert measure(red, hidden[None]) == pytest.approx(1, abs=1e-5), "what is transparent is white"


def test_a_whole_clip_will_do_and_another_model_will_not(zero123: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    config = CLIPConfig(
        text_config={**text, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=vision,
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    assert ClipSimilarity(tmp_path / "clip")(picture, picture[None]) == pytest.approx(1, abs=1e-5)
    for wrong in (zero123 / "vae", tmp_path):
        with pytest.raises(TurnaroundError) as caught:
            ClipSimilarity(wrong)
        assert caught.value.code.startswith("weights.")


def test_the_report_has_it_where_there_is_a_clip_alone(
    zero123: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.evaluation.evaluate.ring_renders", lambda mesh, light: ring_renders(mesh, light, 32))
    [example] = make_examples(find_meshes(folder)[:1], size=96)
    methods = {"perfect": lambda example: Prediction(example.truth, lit=False)}
    with_clip = evaluate(methods, [example], grid=16, similarity=ClipSimilarity(zero123 / "image_encoder"))
    without = evaluate(methods, [example], grid=16)
    assert with_clip[0].clip is not None
    assert -1 <= with_clip[0].clip <= 1
    assert without[0].clip is None
    assert "CLIP similarity" in [row[0] for row in cells(summarise(with_clip))]
    assert "CLIP similarity" not in [row[0] for row in cells(summarise(without))]


def test_the_command_says_what_it_leaves_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": Blocks()})
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "none"))
    arguments = ["evaluate", "--meshes", str(folder), "-o", str(tmp_path / "out"), "--no-alone", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "CLIP similarity is left out" in result.output
    assert "Retrieval is left out" in result.output
    assert "No mesh is marked val" in result.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in found["objects"]] == ["blue.ply", "red.ply"]
    assert found["objects"][0]["clip"] is None
