"""3DiM's published training at a tiny size: posed pictures read and refused, examples counted, runs resumed exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from backend.cli import app
from backend.generators.xunet.config import PAPER, SRN64, XUNetConfig
from backend.generators.xunet.stochastic import PoolGenerator
from backend.generators.xunet.worlds import FOV_DEG
from backend.geometry.cameras import Camera
from backend.training import threedim
from backend.training.data.srn import SrnPictures, find_objects, is_srn
from backend.training.loop import LoopConfig
from backend.training.threedim import PublishedObjective, ThreeDimTraining, chosen, train
from backend.weights.store import read_config
from protocol.errors import TurnaroundError

SMALL = XUNetConfig(
    size=16,
    channels=16,
    channel_multipliers=(1, 2),
    emb_channels=32,
    res_blocks=1,
    attention_levels=(1, 2),
    groups=8,
    camera_distance=1.3,
)
TRAINING = ThreeDimTraining(SMALL, learning_rate=1e-3, warmup_examples=8, ema_half_life=8, batch_size=2, log_every=1)
CAMERAS = [Camera(20.0, azimuth, 1.3, FOV_DEG) for azimuth in (0.0, 90.0, 200.0)]


def write_object(folder: Path, color: int, *, side: int = 128) -> Path:
    """A square of one colour, whose left edge is at another place in every picture, as SRN's files say it."""
    for name in ("rgb", "pose"):
        (folder / name).mkdir(parents=True)
    for number, camera in enumerate(CAMERAS):
        picture = np.full((side, side, 3), 255, np.uint8)
        picture[side // 4 : side // 2, number * side // 4 : side // 2 + side // 4] = (color, 50, 200)
        Image.fromarray(picture).save(folder / "rgb" / f"{number:06d}.png")
        pose = " ".join(map(str, camera.world_from_camera().flatten()))
        (folder / "pose" / f"{number:06d}.txt").write_text(pose + "\n")
    (folder / "intrinsics.txt").write_text(f"131.250000 64.000000 64.000000 0.\n0. 0. 0.\n1.\n{side} {side}\n")
    return folder


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    folder = tmp_path / "cars"
    for number in range(3):
        write_object(folder / f"car{number}", 40 * number)
    return folder


def test_posed_pictures_are_read_as_their_files_say(objects: Path) -> None:
    assert is_srn(objects)
    assert not is_srn(objects / "car0")
    data = SrnPictures(find_objects(objects), 16)
    assert data.camera_distance() == pytest.approx(1.3, abs=1e-5)
    pairs = data.first(2)
    for index, camera in ((0, CAMERAS[0]), (1, CAMERAS[1])):
        assert torch.allclose(
            pairs["world_from_camera"][0, index], torch.from_numpy(camera.world_from_camera()).float(), atol=1e-6
        )
        assert torch.allclose(pairs["intrinsics"][0, index], torch.from_numpy(camera.intrinsics(16)).float(), atol=1e-3)
    assert pairs["images"].shape == (2, 2, 16, 16, 4)
    assert pairs["images"][1, 1, 6, 4].tolist() == [40, 50, 200, 255]
    assert pairs["images"][1, 1, 6, 3].tolist() == [255, 255, 255, 255]
    first, again, other = (data.batch(8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["images"], other["images"])
    apart = (first["world_from_camera"][:, 0] - first["world_from_camera"][:, 1]).abs().amax(dim=(1, 2))
    assert (apart > 0.1).all(), "a pair is of two pictures"

    folder = objects / "car0"
    (folder / "intrinsics.txt").unlink()
    (folder / "intrinsics").mkdir()
    for number in range(3):
        (folder / "intrinsics" / f"{number:06d}.txt").write_text("131.25 0 64 0 131.25 64 0 0 1")
    assert torch.equal(data.first(1)["intrinsics"], pairs["intrinsics"][:1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda f: (f / "pose/000000.txt").write_text("1 0 0 0"), "srn.pose"),
        (lambda f: (f / "pose/000000.txt").write_text("nan " * 16), "srn.pose"),
        (lambda f: (f / "pose/000000.txt").write_text("2 " * 16), "srn.pose"),
        (lambda f: (f / "pose/000000.txt").write_text("0 " * 9000), "srn.pose"),
        (lambda f: (f / "pose/000000.txt").unlink(), "srn.object"),
        (lambda f: (f / "intrinsics.txt").write_text("a b c\n1 1"), "srn.intrinsics"),
        (lambda f: (f / "intrinsics.txt").write_text("131 64 64 0.\n0 0"), "srn.intrinsics"),
        (lambda f: (f / "intrinsics.txt").unlink(), "srn.intrinsics"),
        (lambda f: Image.new("RGB", (8, 9)).save(f / "rgb/000000.png"), "srn.picture"),
        (lambda f: (f / "rgb/000000.png").write_bytes(b"\x89PNG\r\n\x1a\nnot one"), "srn.picture"),
    ],
)
def test_what_is_wrong_is_named(objects: Path, change: Callable[[Path], object], code: str) -> None:
    change(objects / "car0")
    with pytest.raises(TurnaroundError, match="car0") as failure:
        SrnPictures(find_objects(objects), 16).first(1)
    assert failure.value.code == code


def test_examples_are_counted_as_in_the_paper() -> None:
    paper = chosen()
    assert (paper.network, paper.batch_size, paper.betas, paper.condition_dropout) == (PAPER, 128, (0.9, 0.99), 0.1)
    config = LoopConfig(math.inf)
    assert paper.warmup(config, 0, 0.0) == pytest.approx(128 / 10_000_000)
    assert paper.warmup(config, 10_000_000 // 128, 0.0) == 1.0
    assert chosen(batch_size=64).warmup(config, 1, 0.0) == paper.warmup(config, 0, 0.0)
    assert chosen("srn64", steps=5, learning_rate=1e-3) == ThreeDimTraining(SRN64, learning_rate=1e-3, steps=5)


def test_a_run_that_was_interrupted_ends_with_the_same_weights(objects: Path, tmp_path: Path) -> None:
    log: list[str] = []

    def run(output: str, steps: int) -> dict[str, torch.Tensor]:
        training = replace(TRAINING, steps=steps)
        return load_file(train(objects, training, device="cpu", output=tmp_path / output, log=log.append))

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)
    assert any(line.startswith("going on from step 2") for line in log)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    row = json.loads((tmp_path / "parts/3dim-published/log.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 4
    assert math.isfinite(row["denoising"])
    assert math.isfinite(row["psnr"])
    generator = PoolGenerator(tmp_path / "whole/3dim-published.safetensors")
    assert generator.config.camera_distance == pytest.approx(1.3, abs=1e-5), "it knows the world of its pictures"


def test_the_quirk_of_the_intrinsics_is_trained_too(objects: Path) -> None:
    from backend.generators.xunet.network import XUNet

    data = SrnPictures(find_objects(objects), 16)
    objective = PublishedObjective(XUNet(replace(SMALL, intrinsics_size=128)))
    told, _ = objective.draw(data, 2, torch.Generator().manual_seed(0))
    expected = torch.tensor([[131.25, 0, 64], [0, 131.25, 64], [0, 0, 1]])
    assert torch.allclose(told["intrinsics"], expected.expand(2, 2, 3, 3), atol=1e-3)


def test_meshes_are_learned_from_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(threedim.FORMS, "srn64", SMALL)
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name, extents in (("a", (1, 0.6, 0.8)), ("b", (0.5, 0.7, 1))):
        trimesh.creation.box(extents).export(folder / f"{name}.ply")
    (folder / "props.csv").write_text("path,split\na.ply,train\nb.ply,val")
    arguments = ["train", "3dim-published", "--meshes", folder, "--form", "srn64", "--steps", 1, "--batch-size", 2]
    arguments += ["-o", tmp_path / "out", "--cache", tmp_path / "cache", "--device", "cpu"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    config = msgspec.convert(read_config(tmp_path / "out/3dim-published.safetensors"), XUNetConfig)
    assert config == replace(SMALL, camera_distance=0.0), "the object frame is the world"
    refused = CliRunner().invoke(app, [*map(str, arguments), "--mask-weight", "0.1"])
    assert refused.exit_code != 0
    assert "--mask-weight" in refused.output
