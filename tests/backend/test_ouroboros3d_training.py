"""Training Ouroboros3D: orbits that are what their cameras say, mirrored too, and runs that leave weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from backend.generators.multiview_svd import config as multiview
from backend.generators.multiview_svd.generator import MultiviewGenerator
from backend.geometry import batched
from backend.geometry.gaussians.gaussians import Gaussians
from backend.reconstructors.lgm.reconstructor import LGMReconstructor
from backend.training import run as training
from backend.training.data.episodes import OrbitSpec, build
from backend.training.data.meshes import find_meshes
from backend.training.lgm import judge
from backend.training.loop import LoopConfig, train
from backend.training.orbits import OrbitTensors, mirrorable

AZIMUTHS = multiview.TINY.azimuths_deg
SPEC = OrbitSpec(size=64, episodes=1, views=12, surface_points=16, azimuths_deg=mirrorable(AZIMUTHS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> OrbitTensors:
    """A box of six colours, seen along an orbit."""
    folder = tmp_path_factory.mktemp("meshes")
    box = trimesh.creation.box(extents=(0.4, 0.7, 0.9))
    box.unmerge_vertices()
    box.visual.vertex_colors = np.c_[np.repeat(np.random.default_rng(0).integers(0, 255, (12, 3)), 3, 0), [255] * 36]
    box.export(folder / "box.ply")
    return OrbitTensors(build(find_meshes(folder), SPEC, tmp_path_factory.mktemp("cache"), workers=1), SPEC, AZIMUTHS)


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_orbit_turns_and_its_points_lie_where_its_depths_say(data: OrbitTensors, mirrored: bool) -> None:
    """The surface that one view's depths give is seen at the same depth from the next."""
    seed = next(s for s in range(20) if flipped(data, s) == mirrored)
    batch = data.batch(1, torch.Generator().manual_seed(seed))
    turns = (batch.cameras[0, :8, 1] - batch.cameras[0, 0, 1]) % 360
    assert torch.allclose(turns, torch.tensor(AZIMUTHS))
    pose, k = batch.world_from_camera[0], batch.intrinsics[0]
    rows, columns = torch.nonzero(batch.depths[0, 0] > 0, as_tuple=True)
    rays = torch.stack([(columns + 0.5) / 64, (rows + 0.5) / 64, torch.ones(len(rows))])
    points = torch.linalg.inv(k[0]) @ rays * batch.depths[0, 0][rows, columns]

    def agreeing(view: int, shown: int) -> float:
        """Share of the first view's points that lie, from `view`, where the depths of `shown` have them."""
        local = torch.linalg.inv(pose[view]) @ pose[0] @ torch.cat([points, torch.ones(1, points.shape[1])])
        u, v, z = k[view] @ local[:3]
        pixels = (torch.stack([v / z, u / z]) * 64).long().clamp(0, 63)
        return float(((z - batch.depths[0, shown][pixels[0], pixels[1]]).abs() < 0.03).float().mean())

    assert agreeing(1, 1) > 0.6
    assert agreeing(1, 1) > 2 * agreeing(1, 6)
    assert agreeing(7, 7) > 2 * agreeing(7, 1)


def flipped(data: OrbitTensors, seed: int) -> bool:
    generator = torch.Generator().manual_seed(seed)
    return not torch.equal(data.batch(1, generator).cameras[0, :8], data.first(slice(0, 1)).cameras[0, :8])


def test_gaussians_are_judged_best_where_the_surface_is(data: OrbitTensors) -> None:
    batch = data.first(slice(0, 1))
    pose, k = batch.world_from_camera[0], batch.intrinsics[0]
    found = []
    views = batch.images.shape[1]
    for view in range(views):
        rows, columns = torch.nonzero(batch.depths[0, view] > 0, as_tuple=True)
        rays = torch.stack([(columns + 0.5) / 64, (rows + 0.5) / 64, torch.ones(len(rows))])
        points = torch.linalg.inv(k[view]) @ rays * batch.depths[0, view][rows, columns]
        world = (pose[view, :3, :3] @ points + pose[view, :3, 3:]).T
        found.append(torch.cat([world, batch.pictures[0, view][:, rows, columns].T], dim=1))
    points = torch.cat(found)[None]
    count = points.shape[1]
    truth = Gaussians(
        points[..., :3],
        torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        torch.full((1, count, 3), 0.008),
        torch.full((1, count), 0.95),
        points[..., 3:],
    )
    every = torch.arange(views)[None]
    parts = judge(truth, batch, every).parts
    worse = judge(replace(truth, means=truth.means + torch.tensor([0.0, 0.1, 0.0])), batch, every).parts
    assert parts["color"] < 0.03
    assert parts["alpha"] < 0.08
    assert all(parts[name] < 0.5 * worse[name] for name in parts)


def test_both_networks_train_alone_and_together_and_open_as_the_pipeline_opens_them(
    data: OrbitTensors, tmp_path: Path
) -> None:
    for name in ("lgm", "multiview", "ouroboros3d"):
        torch.manual_seed(0)
        objective, config = training.TRAINABLES[name].make()
        settings = LoopConfig(10.0, batch_size=1, warmup_steps=1, steps=1, log_every=1)
        weights = tmp_path / f"{name}.safetensors"
        train(objective, data, data, settings, tmp_path / name, weights, config, log=lambda line: None)
        row = json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])
        assert all(np.isfinite(value) for value in row.values())
    LGMReconstructor(tmp_path / "lgm.safetensors")
    alone = MultiviewGenerator.stored(tmp_path / "multiview.safetensors")
    training.write_parts(tmp_path / "ouroboros3d.safetensors", config)
    together = MultiviewGenerator.stored(tmp_path / "multiview.safetensors")
    assert together.config == alone.config
    assert LGMReconstructor(tmp_path / "lgm.safetensors").config == config.reconstructor
    assert batched.world_from_camera(data.cameras[0, 0]).isfinite().all()
