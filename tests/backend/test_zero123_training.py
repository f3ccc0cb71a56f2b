"""A small Zero123 learned from nothing: its folder, its measurement, and training further from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from backend.evaluation.schedule import Way, measure_schedules, summarise
from backend.generators.zero123.components import load_components
from backend.generators.zero123.pose import pose_vector
from backend.geometry.cameras import Camera
from backend.training import run as training
from backend.training import zero123
from backend.training.data.meshes import find_meshes


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in ("one", "two"):
        trimesh.creation.box(extents=(0.5, 0.7, 0.9)).export(folder / f"{name}.ply")
    (folder / "props.csv").write_text("path,split\none.ply,train\ntwo.ply,val\n")
    return folder


def test_a_run_leaves_a_folder_that_is_measured_and_trained_further(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero123, "SMALL_UNET", zero123.SMALL_UNET | {"block_out_channels": (16, 16, 16)})
    monkeypatch.setattr(zero123, "SMALL_VAE", zero123.SMALL_VAE | {"block_out_channels": (4, 4, 4, 4)})
    monkeypatch.setattr(training, "EpisodeSpec", lambda: training_spec)
    folder = training.train("zero123", meshes, 0.02, "cpu", tmp_path / "out", cache=tmp_path / "cache", batch_size=2)
    components = load_components(folder)
    assert components.vae.config.scaling_factor != zero123.published.VAE["scaling_factor"]  # measured, of these latents

    rows = measure_schedules(
        folder,
        find_meshes(meshes)[1:],
        "cpu",
        ways=(Way("slow", "ldm", 3, 2), Way("fast", "dpmsolver++", 2, 2)),
    )
    assert [row.name for row in rows] == ["slow", "fast"]
    assert rows[0].difference_db == 0
    assert all(0 < row.around_db < 100 for row in rows)

    further = training.train(
        "zero123", meshes, 0.01, "cpu", tmp_path / "more", start_from=folder, cache=tmp_path / "cache", batch_size=2
    )
    more = load_components(further)
    same = torch.equal(more.vae.decoder.conv_out.weight, components.vae.decoder.conv_out.weight)
    moved = not torch.equal(more.unet.conv_in.weight, components.unet.conv_in.weight)
    assert same
    assert moved
    assert torch.equal(more.image_encoder.visual_projection.weight, components.image_encoder.visual_projection.weight)


training_spec = training.EpisodeSpec(size=64, episodes=1, views=3, surface_points=16)


def test_poses_are_those_that_the_generator_is_told() -> None:
    cameras = torch.tensor([[[10.0, 0.0, 1.9, 40.0], [40.0, -30.0, 1.9, 40.0]]])
    expected = pose_vector(Camera(10, 0, 1.9, 40), Camera(40, -30, 1.9, 40))
    np.testing.assert_allclose(zero123.poses(cameras)[0].numpy(), expected, atol=1e-6)


def test_differences_of_schedules_are_paired() -> None:
    scores = np.array([[[[20.0], [30.0]], [[19.0], [29.0]]], [[[10.0], [12.0]], [[9.0], [11.0]]]])
    first, second = summarise(scores, ["a", "b"])
    assert (first.around_db, first.near_db, first.difference_db) == (15.0, 21.0, 0.0)
    assert (second.difference_db, second.error_db) == (-1.0, 0.0)
