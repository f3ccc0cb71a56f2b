"""The published training at a tiny size: what rays should see, a loss that falls, runs that are resumed exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from safetensors import safe_open
from typer.testing import CliRunner
from zero123_fixture import make_zero123

from backend.cli import app
from backend.generators.zero123.generator import ViewRequest
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress
from backend.reconstructors.sparseneus.config import PUBLISHED
from backend.reconstructors.sparseneus.frame import frusta_frame
from backend.reconstructors.sparseneus.network import SparseNeuS
from backend.reconstructors.sparseneus.reconstructor import SparseNeuSReconstructor
from backend.reconstructors.sparseneus.rendering import Rendered
from backend.training import published, volume
from backend.training.data.meshes import MeshFile, find_meshes
from backend.training.data.scenes import FrozenGenerator, Scene, Scenes, SceneSpec, stage_cameras
from backend.training.loop import LoopConfig
from backend.training.published import PublishedTraining
from backend.training.volume import VolumeConfig, VolumeObjective, begin_with_sphere, choose_rays
from backend.weights.store import save_weights
from protocol.errors import TurnaroundError

NETWORK = replace(
    PUBLISHED,
    feature_channels=(4, 8, 8),
    pyramid_channels=8,
    compress_channels=4,
    regularizer_channels=(4, 4, 8, 8),
    volume_resolution=16,
    sdf_hidden=32,
    image_size=32,
)
SPEC = SceneSpec(size=32, first_views=1, episodes=1)
VOLUME = VolumeConfig(
    NETWORK, rays=16, samples=16, refined=8, sparsity_points=32, sparsity_ramp=10, anneal=10, mask=0.1, val_scenes=1
)
TRAINING = PublishedTraining(SPEC, VOLUME, learning_rate=2e-3, decay_steps=1000, log_every=1)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boxes of different colours, one for validation, and a file that is no mesh."""
    folder = tmp_path_factory.mktemp("meshes")
    for name, extents, color in (("a", (1, 0.6, 0.8), (200, 60, 30)), ("b", (0.5, 0.7, 1), (30, 90, 200))):
        box = trimesh.creation.box(extents)
        box.visual.vertex_colors = [*color, 255]
        box.export(folder / f"{name}.ply")
    (folder / "broken.ply").write_bytes(b"ply\nnot one")
    (folder / "props.csv").write_text("path,split\na.ply,train\nbroken.ply,train\nb.ply,val")
    return folder


def scenes(meshes: Path, cache: Path, spec: SceneSpec = SPEC, generator: FrozenGenerator | None = None) -> Scenes:
    return Scenes([f for f in find_meshes(meshes) if f.split == "val"], spec, cache, generator=generator)


def test_rays_meet_the_surface_where_the_depth_says(meshes: Path, tmp_path: Path) -> None:
    """The depth along a ray leads to a point that other views see in the same place, on the box's surface."""
    spec = replace(SPEC, size=128, first_views=8)
    scene = scenes(meshes, tmp_path, spec)[0]
    assert scene.sources.shape == (32, 128, 128, 4)
    assert not scene.drawn.any()
    targets, sources = scene.cameras
    assert targets[0] == scene.camera
    assert [round(camera.azimuth_deg) for camera in targets] == [0, 90, 180, 270, 30, 120, 210, 300]
    frame = frusta_frame([scene.camera, *sources])
    config = replace(VOLUME, network=PUBLISHED, rays=512)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        rays = choose_rays(scene, config, generator)
        inside = rays.inside > 0
        assert inside.float().mean() >= 0.75
        points = frame.to_object((rays.origins + rays.depths[:, None] * rays.directions)[inside].numpy())
        for camera, depth in zip(targets, scene.depths, strict=True):
            uvw = points @ camera.image_from_world(128)[:, :3].T + camera.image_from_world(128)[:, 3]
            # the published frame counts pixel centres from 0: half a pixel of ours
            x, y = np.round(uvw[:, :2].T / uvw[:, 2]).astype(int).clip(0, 127)
            seen = depth.numpy()[y, x]
            assert (seen[seen > 0] <= uvw[seen > 0, 2] + 0.03).mean() > 0.98, "nothing floats before the surface"
        assert (rays.near_far[0] < rays.depths[inside]).all()
        assert (rays.depths[inside] < rays.near_far[1]).all()
        blue = rays.colors[inside].mean(0)
        assert blue[2] > blue[0]
        assert torch.allclose(rays.colors[~inside].mean(), torch.tensor(1.0), atol=0.1)


def test_scenes_are_made_once_and_share_their_sources_with_the_generator(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = FrozenGenerator(make_zero123(tmp_path / "zero123"), "cpu")
    spec = replace(SPEC, first_views=2, drawn_steps=1)
    true, mixed = (scenes(meshes, tmp_path, spec, g)[0] for g in (None, generator))
    assert 0 < mixed.drawn.sum() < len(mixed.drawn)
    assert torch.equal(true.sources[~mixed.drawn], mixed.sources[~mixed.drawn])
    assert (mixed.sources[mixed.drawn][..., 3] == 255).all()
    assert not torch.equal(true.sources[mixed.drawn], mixed.sources[mixed.drawn])
    assert torch.equal(true.targets, mixed.targets)
    monkeypatch.setattr("backend.training.data.scenes.make_scene", None)
    assert torch.equal(scenes(meshes, tmp_path, spec, generator)[0].sources, mixed.sources)


@pytest.fixture(scope="module")
def colorful(tmp_path_factory: pytest.TempPathFactory) -> list[MeshFile]:
    """A box with another colour at each corner, so that no two places of it look alike."""
    folder = tmp_path_factory.mktemp("colorful")
    box = trimesh.creation.box((1, 0.6, 0.8))
    box.visual.vertex_colors = [[*(np.sign(v) * 100 + 128).astype(int), 255] for v in box.vertices]
    box.export(folder / "box.ply")
    return find_meshes(folder)


@pytest.mark.parametrize("seed", range(3))
def test_sources_show_what_their_cameras_see(colorful: list[MeshFile], tmp_path: Path, seed: int) -> None:
    """A target's points, projected as the network projects them, have the target's colours in the sources near it."""
    scene = Scenes(colorful, replace(SPEC, size=128, first_views=2, seed=seed), tmp_path)[0]
    frame = frusta_frame([scene.camera, *scene.cameras[1]])
    rays = choose_rays(scene, replace(VOLUME, network=PUBLISHED, rays=512), torch.Generator().manual_seed(seed))
    centers = [torch.from_numpy(frame.center(camera)).float() for camera in scene.cameras[0]]
    target = min(range(2), key=lambda number: float((centers[number] - rays.origins[0]).norm()))
    distance = float(rays.origins[0].norm())
    assert rays.near_far == pytest.approx((0.95 * (distance - 1), 1.05 * (distance + 1)), rel=1e-4)
    inside = rays.inside > 0
    points = (rays.origins + rays.depths[:, None] * rays.directions)[inside]
    for number in range(4 * target, 4 * target + 4):
        assert torch.allclose(rays.centers[0, number], torch.from_numpy(frame.center(scene.cameras[1][number])).float())
        uvw = points @ rays.projections[0, number, :, :3].T + rays.projections[0, number, :, 3]
        x, y = (uvw[:, :2] / uvw[:, 2:]).round().long().clamp(0, 127).unbind(-1)
        picture = rays.images[0, number]
        seen = (picture[:3] + (1 - picture[3:]) if len(picture) == 4 else picture)[:, y, x].T
        assert float((seen - rays.colors[inside]).abs().mean(-1).median()) < 0.012, number


class Painter(FrozenGenerator):
    """Draws each view in one grey, by its place among the requests, and remembers what was asked for."""

    def __init__(self) -> None:
        self.digest = "painter"
        self.requests: list[ViewRequest] = []

    def draw(self, requests: Sequence[ViewRequest], spec: SceneSpec, seed: int) -> NDArray[np.uint8]:
        self.requests = list(requests)
        views = np.full((len(requests), 256, 256, 4), 255, np.uint8)
        views[..., :3] = np.arange(len(requests), dtype=np.uint8)[:, None, None, None]
        return views


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_drawn_source_comes_from_the_first_view_that_it_lies_near(
    colorful: list[MeshFile], tmp_path: Path, share: float
) -> None:
    painter = Painter()
    spec = replace(SPEC, first_views=8, drawn_share=share)
    scene = Scenes(colorful, spec, tmp_path, generator=painter)[0]
    assert float(scene.drawn.float().mean()) == pytest.approx(share, abs=0.15)
    numbers = torch.nonzero(scene.drawn)[:, 0].tolist()
    assert len(painter.requests) == len(numbers)
    first, near = scene.cameras
    for place, (request, number) in enumerate(zip(painter.requests, numbers, strict=True)):
        assert request.camera == first[number // 4]
        assert request.target == near[number]
        np.testing.assert_array_equal(request.image, scene.targets[number // 4].numpy())
        assert (scene.sources[number, ..., :3] == place).all()


def test_a_file_that_is_no_mesh_is_left_out_once(meshes: Path, tmp_path: Path) -> None:
    log: list[str] = []
    data = Scenes([f for f in find_meshes(meshes) if f.split == "train"], SPEC, tmp_path, log=log.append)
    assert torch.equal(data[1].targets, data[0].targets)
    assert torch.equal(data[1].targets, data[0].targets)
    assert log == ["left out: broken.ply is not a mesh."]
    broken = Scenes([f for f in find_meshes(meshes) if f.name == "broken.ply"], SPEC, tmp_path, log=log.append)
    with pytest.raises(TurnaroundError, match="None of the meshes"):
        broken[0]


def test_a_network_begins_as_a_ball() -> None:
    torch.manual_seed(0)
    layer = SparseNeuS(PUBLISHED).sdf_network_lod0.sdf_layer
    begin_with_sphere(layer, 0.35)
    points = torch.nn.functional.normalize(torch.randn(500, 3), dim=-1) * torch.rand(500, 1)
    distance = layer.distance(points, torch.randn(500, 16))
    assert (distance - (points.norm(dim=-1) - 0.35)).abs().mean() < 0.1
    assert layer.distance(torch.zeros(1, 3), torch.zeros(1, 16)) < -0.15


def test_the_defaults_are_the_papers() -> None:
    training = PublishedTraining()
    loss = training.volume
    assert (loss.color, loss.depth, loss.eikonal, loss.sparsity, loss.mask) == (1.0, 1.0, 0.1, 0.02, 0.0)
    assert (loss.sparsity_sharpness, loss.sparsity_ramp, loss.anneal) == (100.0, 25_000, 25_000)
    assert (loss.rays, loss.object_share, loss.samples, loss.refined) == (512, 0.75, 64, 64)
    assert (training.scenes.first_views, training.learning_rate, training.steps) == (8, 2e-4, 300_000)
    config = LoopConfig(1.0)
    falling = [training.cosine(config, step, 0.0) for step in (0, 100_000, 200_000, 300_000)]
    assert falling == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_the_parts_of_the_loss_are_those_by_hand(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rays: the colours of the first two count, the depth of the first alone, and half of the gradients."""
    anneals: list[float] = []
    zeros = torch.zeros(4)
    rendered = Rendered(
        colors=torch.tensor([0.1, 0.3, 0.5, 0.7])[:, None].expand(4, 3),
        valid=torch.tensor([True, True, False, False]),
        depths=torch.tensor([1.25, 2.0, 3.0, 4.0]),
        depth_variances=zeros,
        opacities=zeros,
        weights=torch.zeros(4, 2),
        distances=torch.zeros(4, 2),
        gradients=torch.tensor([[0.0, 3.0, 0.0], [9.0, 0.0, 0.0]]).expand(4, 2, 3),
        active=torch.tensor([1.0, 0.0]).expand(4, 2),
    )

    def render_rays(*_: object, anneal: float, **__: object) -> Rendered:
        anneals.append(anneal)
        return rendered

    monkeypatch.setattr(volume, "render_rays", render_rays)
    objective = VolumeObjective(SparseNeuS(NETWORK), VolumeConfig(NETWORK))
    rays = choose_rays(scenes(meshes, tmp_path)[0], replace(VOLUME, rays=4), torch.Generator().manual_seed(0))
    rays = replace(rays, colors=torch.zeros(4, 3), depths=torch.ones(4), inside=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    for step in (0, 12_500, 25_000, 50_000):
        objective.step = step
        with torch.no_grad():
            parts = objective([rays])
    assert anneals == [0.0, 0.5, 1.0, 1.0]
    assert float(parts["color"]) == pytest.approx(0.2)
    assert float(parts["depth"]) == pytest.approx(0.25)
    assert float(parts["eikonal"]) == pytest.approx(4.0, rel=1e-4)

    values = {"color": 1.0, "depth": 0.5, "eikonal": 2.0, "sparsity": 10.0, "mask": 7.0}
    for step, total in ((0, 1.7), (12_500, 1.8), (25_000, 1.9), (50_000, 1.9)):
        objective.step = step
        loss = objective.total({name: torch.tensor(value) for name, value in values.items()})
        assert float(loss) == pytest.approx(total), step


def test_the_loss_falls(meshes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SparseNeuS(NETWORK)
    begin_with_sphere(network.sdf_network_lod0.sdf_layer, 0.35)
    objective, data = VolumeObjective(network, replace(VOLUME, rays=64)), scenes(meshes, tmp_path)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    losses = []
    for step in range(25):
        objective.step = step
        parts = objective(*objective.draw(data, 1, torch.Generator().manual_seed(step)))
        assert parts.keys() == {"color", "depth", "eikonal", "sparsity", "mask"}
        loss = objective.total(parts)
        loss.backward()
        if step == 0:
            grads = {name: p.grad for name, p in network.named_parameters()}
            assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())
            assert grads["variance_network_lod0.variance"] != 0
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(parts["color"].detach() + parts["depth"].detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_an_interrupted_run_goes_on_to_the_same_numbers_and_its_weights_open(
    meshes: Path, tmp_path: Path, precision_anew: None
) -> None:
    log: list[str] = []

    def run(output: str, steps: int) -> Path:
        training = replace(TRAINING, steps=steps)
        return published.train(
            meshes, training, device="cpu", output=tmp_path / output, cache=tmp_path / "cache", log=log.append
        )

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)
    assert any("going on from step 2" in line for line in log)
    with safe_open(whole, "pt") as one, safe_open(parts, "pt") as two:
        for name in one.keys():  # noqa: SIM118  (not a mapping)
            assert torch.equal(one.get_tensor(name), two.get_tensor(name)), name
    rows = [json.loads(line) for line in (tmp_path / "parts" / published.NAME / "log.jsonl").open()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1].keys() >= {"color", "depth", "eikonal", "sparsity", "mask", "val_color", "val_depth"}

    scene = scenes(meshes, tmp_path / "cache")[0]
    views = ViewSet(scene.sources.numpy(), stage_cameras(scene.camera, 1)[1])
    field = SparseNeuSReconstructor(parts).reconstruct(_with_input(scene, views), progress=Progress())
    distance = field.distance(np.array([[0, 0, 0], [0.5, 0.5, 0.5]], np.float32))
    assert np.isfinite(distance).all()
    assert distance[0] < distance[1], "still about a ball"


def test_a_run_can_start_from_weights(meshes: Path, tmp_path: Path, precision_anew: None) -> None:
    torch.manual_seed(5)
    network = SparseNeuS(NETWORK)
    save_weights(tmp_path / "given.safetensors", network.state_dict(), asdict(NETWORK), half=False)
    training = replace(TRAINING, steps=1, learning_rate=0.0)
    weights = published.train(
        meshes,
        training,
        device="cpu",
        output=tmp_path / "out",
        start_from=tmp_path / "given.safetensors",
        cache=tmp_path / "cache",
        log=lambda line: None,
    )
    with safe_open(weights, "pt") as file:
        for name, parameter in network.named_parameters():
            assert torch.equal(file.get_tensor(name), parameter), name


def test_the_command_trains_with_its_own_settings(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[PublishedTraining, Path | None]] = []

    def train(meshes: Path, training: PublishedTraining, *, zero123: Path | None, **_: object) -> Path:
        seen.append((training, zero123))
        return tmp_path / "weights.safetensors"

    monkeypatch.setattr(published, "train", train)
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "none"))
    arguments: Sequence[str] = ["train", published.NAME, "--meshes", str(meshes), "--device", "cpu"]
    given = ["--depth-weight", "0", "--mask-weight", "0.01", "--steps", "7", "--generator", str(tmp_path)]
    for extra in ([], given):
        result = CliRunner().invoke(app, [*arguments, *extra], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert seen[0] == (PublishedTraining(), None)
    training, zero123 = seen[1]
    assert (training.volume.depth, training.volume.mask, training.steps, zero123) == (0.0, 0.01, 7, tmp_path)
    for name, extra in (("elevation", ["--steps", "7"]), (published.NAME, ["--reconstructor", str(meshes / "a.ply")])):
        wrong = CliRunner().invoke(app, ["train", name, "--meshes", str(meshes), *extra])
        assert wrong.exit_code == 1
        assert extra[0] in wrong.output
    folder = CliRunner().invoke(app, ["train", "sparseneus", "--meshes", str(meshes), "--generator", str(meshes)])
    assert "is a folder" in folder.output
    unknown = CliRunner().invoke(app, ["train", "nothing", "--meshes", str(meshes)])
    assert published.NAME in unknown.output


def _with_input(scene: Scene, near: ViewSet) -> ViewSet:
    camera: Camera = scene.camera
    return ViewSet(np.concatenate([scene.targets[:1].numpy(), near.images]), (camera, *near.cameras))
