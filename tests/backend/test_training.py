"""Training: episodes that agree with their meshes, batches that depend on the step alone, runs that go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from backend.geometry import batched
from backend.training import run as training
from backend.training.batches import EpisodeTensors
from backend.training.data.episodes import Dataset, EpisodeSpec, build
from backend.training.data.meshes import TRUNCATION, find_meshes, load_mesh, occupancy, signed_distance
from backend.training.loop import LoopConfig, train
from backend.weights.store import load_into, read_config
from protocol.errors import TurnaroundError

SPEC = EpisodeSpec(size=64, episodes=2, views=4, surface_points=256)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of all proportions, one in three for validation."""
    folder = tmp_path_factory.mktemp("meshes")
    rng = np.random.default_rng(0)
    rows = ["path,split"]
    for index in range(6):
        box = trimesh.creation.box(extents=rng.uniform(0.2, 1, 3))
        box.visual.vertex_colors = np.append(rng.integers(0, 255, 3), 255)
        box.export(folder / f"box{index}.ply")
        rows.append(f"box{index}.ply,{'val' if index % 3 == 2 else 'train'}")
    (folder / "props.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def dataset(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(find_meshes(meshes), SPEC, tmp_path_factory.mktemp("cache"), workers=1)


def test_split_is_the_tables_and_an_empty_folder_says_so(meshes: Path, tmp_path: Path) -> None:
    assert [f.split for f in find_meshes(meshes)] == ["train", "train", "val"] * 2
    with pytest.raises(TurnaroundError, match="no meshes"):
        find_meshes(tmp_path)


def test_cache_is_made_once(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_meshes(meshes)[:2]
    first = build(files, SPEC, tmp_path, workers=1)
    monkeypatch.setattr("backend.training.data.episodes.make_object", None)
    again = build(files, SPEC, tmp_path, workers=1)
    assert again.names == first.names
    np.testing.assert_array_equal(again.images, first.images)


def test_an_open_box_is_solid_and_distances_are_signed(meshes: Path) -> None:
    mesh = load_mesh(meshes / "box0.ply")
    solid = occupancy(mesh)
    half = np.abs(mesh.vertices).max(0)
    assert solid.mean() == pytest.approx(np.prod(2 * half) / 1.1**3, rel=0.1)
    distance = signed_distance(solid).astype(float) * TRUNCATION / 127
    assert distance[24, 24, 24] < -0.05
    assert distance[0, 0, 0] == pytest.approx(TRUNCATION, abs=1e-6)


@pytest.mark.parametrize("augment", [False, True])
def test_pictures_distances_and_surface_are_of_one_object(dataset: Dataset, augment: bool) -> None:
    """Points of the surface project onto the pictures and have no distance, mirrored episodes included."""
    data = EpisodeTensors(dataset)
    batch = data.batch(16, 3, torch.Generator().manual_seed(1), surface_points=200, augment=augment)
    assert (batch.mirror < 0).any() == augment
    assert batch.distance(batch.surface).abs().max() < 0.04
    matrix = batched.image_from_world(batch.cameras, SPEC.size)
    uvw = torch.einsum("bvij,bpj->bvpi", matrix[..., :3], batch.surface) + matrix[..., None, :, 3]
    pixels = (uvw[..., :2] / uvw[..., 2:]).floor().long().clamp(0, SPEC.size - 1)
    b, v = torch.arange(16)[:, None, None], torch.arange(3)[None, :, None]
    alpha = batch.images[b, v, pixels[..., 1], pixels[..., 0], 3]
    assert (alpha > 0).float().mean() > 0.97


def test_a_batch_depends_on_its_generator_alone(dataset: Dataset) -> None:
    data = EpisodeTensors(dataset)
    first, again, other = (data.batch(4, 3, torch.Generator().manual_seed(s)) for s in (7, 7, 8))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.surface, again.surface)
    assert not torch.equal(first.images, other.images)


def test_pairs_are_of_any_two_views_and_near_where_that_is_asked_for(dataset: Dataset) -> None:
    data = EpisodeTensors(dataset)
    data.cameras[..., 0], data.cameras[..., 1] = 0.0, 50.0 * torch.arange(data.cameras.shape[2])

    def cosines(near_share: float) -> torch.Tensor:
        pairs = data.pairs(64, torch.Generator().manual_seed(2), near_share=near_share)
        assert pairs.images.shape == (64, 2, SPEC.size, SPEC.size, 4)
        a, b = batched.world_from_camera(pairs.cameras)[..., :3, 3].unbind(1)
        return torch.nn.functional.cosine_similarity(a, b, dim=-1)

    any_two, near = cosines(0.0), cosines(1.0)
    assert any_two.max() < 0.7  # never one view twice
    assert any_two.min() < 0
    assert torch.allclose(near, near.new_tensor(50.0).deg2rad().cos(), atol=1e-4)


@pytest.mark.parametrize("name", ["elevation", "sparseneus", "3dim"])
def test_training_runs_is_resumed_and_leaves_weights(dataset: Dataset, tmp_path: Path, name: str) -> None:
    data = EpisodeTensors(dataset)
    log: list[str] = []

    def some_more(minutes: float) -> dict[str, float]:
        torch.manual_seed(0)
        objective, config = training.TRAINABLES[name].make()
        settings = LoopConfig(minutes, batch_size=2, warmup_steps=2)
        train(
            objective, data, data, settings, tmp_path / name, tmp_path / "weights.safetensors", config, log=log.append
        )
        return json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])

    first, second = some_more(0.02), some_more(0.06)
    assert 0 < first["step"] < second["step"]
    assert any(line.startswith(f"going on from step {first['step']}") for line in log)
    assert all(np.isfinite(value) for value in second.values())
    objective, config = training.TRAINABLES[name].make()
    load_into(objective.network, tmp_path / "weights.safetensors")
    assert read_config(tmp_path / "weights.safetensors") == json.loads(json.dumps(asdict(config)))


def test_unknown_network_and_missing_device_are_errors_in_words(meshes: Path) -> None:
    with pytest.raises(TurnaroundError, match="can be trained"):
        training.train("nothing", meshes, 1)
    if not torch.cuda.is_available():
        with pytest.raises(TurnaroundError, match="CUDA"):
            training.train("elevation", meshes, 1, "cuda")
