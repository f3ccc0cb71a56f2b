"""Ouroboros3D's published training at a tiny size: what it begins with, learns and leaves, and runs resumed exactly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner
from video_fixture import SIZE, SMALL_LGM, make_video_model

from backend.cli import app
from backend.evaluation.lpips import Lpips
from backend.generators.multiview_svd import generator
from backend.generators.multiview_svd.cameras import network_cameras
from backend.generators.multiview_svd.config import OUROBOROS3D as PUBLISHED
from backend.generators.multiview_svd.loading import begin_with_video, load_published
from backend.generators.multiview_svd.model import MultiviewModel
from backend.pipelines.ouroboros3d.pipeline import Ouroboros3D
from backend.pipelines.registry import Request
from backend.pipelines.stage import Progress, StageCache
from backend.preparation.picture import read_picture
from backend.reconstructors.lgm import config as lgm_config
from backend.reconstructors.lgm.config import OUROBOROS3D
from backend.reconstructors.lgm.network import LGM
from backend.training import ouroboros3d_published as published
from backend.training.data.meshes import find_meshes
from backend.training.data.rounds import Rounds, RoundSpec
from backend.training.ouroboros3d_published import Ouroboros3DTraining, PublishedObjective
from backend.training.ouroboros3d_start import GENERATOR, RECONSTRUCTOR, Start, chosen_start, load_start
from backend.training.processes import own_device
from backend.weights import store
from backend.weights.layouts import ouroboros3d as layout
from protocol.errors import TurnaroundError
from protocol.messages import Settings

SMALL = replace(SMALL_LGM, heads=2)
SPEC = RoundSpec(size=SIZE, episodes=1)
TRAINING = Ouroboros3DTraining(SPEC, SMALL, learning_rate=1e-3, accumulate=2, steps=2, half=False, log_every=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video_model(tmp_path_factory.mktemp("video"), whole=True)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boxes to train on, one to validate, and a file that is no mesh."""
    folder = tmp_path_factory.mktemp("meshes")
    for name, extents, color in (
        ("a", (1, 0.6, 0.8), (200, 60, 30)),
        ("b", (0.5, 0.7, 1), (30, 90, 200)),
        ("c", (0.9, 0.9, 0.4), (60, 160, 60)),
    ):
        box = trimesh.creation.box(extents)
        box.visual.vertex_colors = [*color, 255]
        box.export(folder / f"{name}.ply")
    (folder / "broken.ply").write_bytes(b"ply\nnot one")
    (folder / "props.csv").write_text("path,split\na.ply,train\nb.ply,train\nbroken.ply,train\nc.ply,val")
    return folder


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of installed weights."""
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS with random weights, as if it were installed."""
    torch.manual_seed(5)
    network = Lpips()
    for number in range(5):
        nn.init.uniform_(getattr(network, f"lin{number}").weight)
    store.save_weights(tmp_path / "lpips.safetensors", network.state_dict(), {})
    monkeypatch.setattr(published, "installed_lpips", lambda: tmp_path / "lpips.safetensors")


def rounds(meshes: Path, cache: Path, split: str = "train", **more: int) -> Rounds:
    files = [file for file in find_meshes(meshes) if file.split == split]
    return Rounds(files, replace(SPEC, **more), PUBLISHED.radius, cache, log=lambda line: None)


def test_a_round_is_the_orbit_that_the_pipeline_draws(meshes: Path, tmp_path: Path) -> None:
    data = rounds(meshes, tmp_path, episodes=2, elsewhere=3)
    assert len(data) == 6
    batch = data.take([0, 1])
    assert batch.pictures.shape == (2, 8 + 3, 3, SIZE, SIZE)
    assert not torch.equal(batch.pictures[0], batch.pictures[1]), "another side of it"
    assert torch.equal(batch.pictures[..., 0, 0], torch.ones(2, 11, 3)), "white around it"
    assert batch.pictures.amin() < 0.5
    position = batch.cameras.world_from_camera[:, 4, :3, 3]  # opposite the first camera, which stands on +Z
    elevations = torch.rad2deg(torch.atan2(position[:, 1], -position[:, 2])) / 2
    assert ((elevations > -5) & (elevations < 30)).all()
    for mine, theirs in zip(batch.cameras, network_cameras(PUBLISHED, elevations.tolist()), strict=True):
        assert torch.allclose(mine[:, :8], theirs, atol=1e-4)
    assert torch.equal(data.take([4]).pictures, batch.pictures[:1]), "the next one stands in for what is no mesh"


def test_it_begins_with_the_video_model_and_with_lgm(video: Path, tmp_path: Path) -> None:
    own = load_file(video / "unet" / "diffusion_pytorch_model.safetensors")
    torch.manual_seed(1)
    original = LGM(replace(SMALL, time_channels=0))
    store.save_weights(tmp_path / "lgm.safetensors", original.state_dict(), {})
    model, reconstructor = load_start(Start(video, reconstructor=tmp_path / "lgm.safetensors"), SIZE, SMALL)
    assert all(torch.equal(model.network.unet.state_dict()[name], tensor) for name, tensor in own.items())
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    assert not any(p.requires_grad for part in (model.vae, model.image_encoder) for p in part.parameters())
    views = torch.rand(1, 4, 9, 32, 32)
    expected, given = original(views), reconstructor(views, torch.tensor([0.7]))
    assert all(torch.allclose(tensor, vars(given)[name], atol=1e-5) for name, tensor in vars(expected).items())

    stranger = {name: tensor for name, tensor in own.items() if name != "conv_in.bias"}
    stranger["conv_in.weight"] = torch.zeros(32, 4, 3, 3)
    bad = make_video_model(tmp_path / "bad")
    with pytest.raises(TurnaroundError, match="U-Net are not there") as failure:
        begin_with_video(bad, SIZE)
    assert failure.value.code == "weights.missing"
    save_file(stranger, bad / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(TurnaroundError) as failure:
        begin_with_video(bad, SIZE)
    assert failure.value.code == "weights.mismatch"
    assert failure.value.details.splitlines()[0] == "missing: conv_in.bias"
    assert failure.value.details.splitlines()[1].startswith("shape of conv_in.weight")
    store.save_weights(tmp_path / "lgm.safetensors", {"conv.bias": torch.zeros(14)}, {})
    with pytest.raises(TurnaroundError, match=r"lgm\.safetensors do not fit"):
        load_start(Start(video, reconstructor=tmp_path / "lgm.safetensors"), SIZE, SMALL)


def test_it_begins_with_what_is_given_or_installed(video: Path, tmp_path: Path, weights: Path) -> None:
    assert chosen_start(None, None, None) == Start(weights / "stable-video-diffusion")
    for folder, names in (("ouroboros3d", (GENERATOR, RECONSTRUCTOR)), ("lgm-first", ("lgm",))):
        (weights / folder).mkdir(parents=True)
        for name in names:
            (weights / folder / f"{name}.safetensors").write_bytes(b"there")
    both, first = weights / "ouroboros3d", weights / "lgm-first" / "lgm.safetensors"
    assert chosen_start(None, None, None) == Start(weights / "stable-video-diffusion", both)
    assert chosen_start(None, video, None) == Start(video, None, first)
    assert chosen_start(both, video, None) == Start(video, both)
    assert chosen_start(None, video, tmp_path / "other") == Start(video, None, tmp_path / "other")
    with pytest.raises(TurnaroundError, match="no mv_model_unet"):
        chosen_start(tmp_path, video, None)


@pytest.mark.usefixtures("lpips")
@pytest.mark.parametrize(("passes", "half"), [(1, False), (2, False), (2, True)])
def test_both_networks_learn_and_nothing_else_does(
    video: Path, meshes: Path, tmp_path: Path, passes: int, half: bool
) -> None:
    torch.manual_seed(0)
    model, reconstructor = load_start(Start(video), SIZE, SMALL)
    training = replace(TRAINING, self_conditioning=passes - 1.0)
    distance = published._distance(print)
    objective = PublishedObjective(model, reconstructor, distance, training)
    seen: list[bool] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(bool(inputs[-1].colors.any())))
    batch = rounds(meshes, tmp_path, elsewhere=1).batch(1, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        parts = objective(batch, torch.Generator().manual_seed(0))
    assert parts.keys() == {"denoising", "color", "perceptual"}
    assert seen == [False, True][:passes]
    objective.total(parts).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    trained = {id(parameter) for parameter in objective.parameters()}
    assert trained == {id(p) for part in (model.network, reconstructor) for p in part.parameters()}
    if half:
        return
    # checkpoints of activations change nothing but the memory
    gradient = model.network.unet.conv_in.weight.grad.clone(), reconstructor.unet.conv_in.weight.grad.clone()
    objective.zero_grad()
    model.network.enable_gradient_checkpointing()
    reconstructor.enable_gradient_checkpointing()
    objective.total(objective(batch, torch.Generator().manual_seed(0))).backward()
    assert torch.allclose(model.network.unet.conv_in.weight.grad, gradient[0], rtol=1e-3, atol=1e-6)
    assert torch.allclose(reconstructor.unet.conv_in.weight.grad, gradient[1], rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("lpips", "precision_anew")
def test_an_interrupted_run_ends_with_the_same_weights_which_draw_and_build(
    video: Path, meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    learned_with: list[bool] = []
    models: list[MultiviewModel] = []

    def watch(network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            learned_with.append(bool(inputs[-1].colors.any()))

    def watched(*arguments: Any) -> tuple[MultiviewModel, LGM]:
        model, reconstructor = load_start(*arguments)
        model.network.register_forward_pre_hook(watch)
        models.append(model)
        return model, reconstructor

    monkeypatch.setattr(published, "load_start", watched)

    def run(output: str, steps: int) -> Path:
        place: dict[str, Any] = {"output": tmp_path / output, "cache": tmp_path / "cache", "log": log.append}
        return published.train(meshes, replace(TRAINING, steps=steps), Start(video), device="cpu", **place)

    whole = stored(run("whole", 2))
    assert len(learned_with) == 2 * TRAINING.accumulate
    assert set(learned_with) == {True, False}, "with feedback and without"
    run("parts", 1)
    folder = run("parts", 2)
    parts = stored(folder)
    assert any(line.startswith("going on from step 1") for line in log)
    assert "left out: broken.ply is not a mesh." in log
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    rows = [json.loads(line) for line in (tmp_path / "parts" / published.NAME / "log.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[-1].keys() >= {"denoising", "color", "perceptual", "psnr_2", "fed_2", "gaussians_elsewhere"}
    assert all(math.isfinite(value) for value in rows[-1].values())

    torch.manual_seed(TRAINING.seed)
    model, reconstructor = load_start(Start(video), SIZE, SMALL)
    begun = {GENERATOR: model.network.state_dict(), RECONSTRUCTOR: reconstructor.state_dict()}
    before = {f"{file} {key}": tensor for file, tensors in begun.items() for key, tensor in tensors.items()}
    same = [name for name in parts if torch.equal(parts[name], before[name])]
    assert all(name.endswith("norm2.bias") for name in same), "the context is one token: no query matters"
    for part in ("vae", "image_encoder"):
        unused, used = (getattr(m, part).state_dict() for m in (model, models[-1]))
        assert all(torch.equal(tensor, used[name]) for name, tensor in unused.items()), f"{part} is frozen"

    # what it leaves is what the published weights are: import them, and a picture becomes a mesh
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for file in (GENERATOR, RECONSTRUCTOR):
        shapes = {key: list(tensor.shape) for key, tensor in begun[file].items()}
        (manifests / f"ouroboros3d_{file}.json").write_text(json.dumps(shapes))
    monkeypatch.setattr(layout, "MANIFESTS", manifests)
    monkeypatch.setattr(lgm_config, "OUROBOROS3D", SMALL)
    monkeypatch.setattr(generator, "load_published", partial(load_published, size=SIZE))
    for name, source in (("ouroboros3d", folder), ("stable-video-diffusion", video)):
        result = CliRunner().invoke(app, ["models", "import", name, str(source)])
        assert result.exit_code == 0, result.output
    picture = read_picture(Path(__file__).parents[2] / "examples" / "house.png")
    settings = Settings(elevation_deg=10.0, resolution=32, options={"weights": "ouroboros3d", "steps": 2})
    pipeline = Ouroboros3D()
    (output,) = pipeline.generate(Request(picture, settings), device="cpu", cache=StageCache(), progress=Progress())
    assert output.report.weights == "ouroboros3d"
    assert output.splats is not None
    assert len(output.mesh.faces) > 0


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Of both files, each name after its file's."""
    files = {name: load_file(folder / f"{name}.safetensors") for name in (GENERATOR, RECONSTRUCTOR)}
    return {f"{name} {key}": tensor for name, tensors in files.items() for key, tensor in tensors.items()}


def test_the_command_takes_folders_and_the_published_settings(
    video: Path, meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Ouroboros3DTraining, Start]] = []

    def train(meshes: Path, training: Ouroboros3DTraining, start: Start, **_: object) -> Path:
        seen.append((training, start))
        return tmp_path

    arguments = ["train", published.NAME, "--meshes", str(meshes), "--device", "cpu"]
    missing = CliRunner().invoke(app, arguments)
    assert missing.exit_code == 1
    assert "stable-video-diffusion" in missing.output
    monkeypatch.setattr(published, "train", train)
    given = ["--steps", "7", "--batch-size", "2", "--learning-rate", "0.001", "--generator", str(video)]
    for extra in ([], given):
        result = CliRunner().invoke(app, [*arguments, *extra], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    (paper, _), (training, start) = seen
    assert (paper.learning_rate, paper.batch_size, paper.accumulate, paper.steps) == (1e-5, 1, 4, 40_000)
    assert (paper.self_conditioning, paper.noise.mean, paper.noise.std, paper.rounds.size) == (0.5, 1.0, 1.6, 512)
    assert paper.reconstructor == OUROBOROS3D
    assert (training, start) == (replace(paper, steps=7, batch_size=2, learning_rate=0.001), Start(video))
    file = str(meshes / "a.ply")
    for wrong in (["--form", "paper"], ["--start-from", file], ["--generator", file], ["--reconstructor", str(video)]):
        refused = CliRunner().invoke(app, [*arguments, *wrong])
        assert refused.exit_code != 0
        assert wrong[0] in refused.output


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [own_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda:0") == "cuda:3"
