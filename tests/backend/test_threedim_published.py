"""An X-UNet in the form of the public training, from import to mesh: a synthetic checkpoint, the real command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_weights import xunet
from typer.testing import CliRunner

from backend.cli import app
from backend.generators.xunet.config import SRN64, TINY_3DIM
from backend.pipelines.registry import Request
from backend.pipelines.stage import Progress, StageCache
from backend.pipelines.threedim.pipeline import ThreeDim
from backend.weights import store
from protocol.errors import TurnaroundError
from protocol.messages import Settings

NAME = "xunet-srn64"
SMALL = dataclasses.replace(SRN64, size=32, channels=32, res_blocks=1)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training checkpoint of a small network; the shipped weights, with a small generator in their midst."""
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    for name in ("sparseneus", "elevation"):
        (tiny / f"{name}.safetensors").symlink_to(store.tiny_path(name))
    own = dataclasses.replace(TINY_3DIM, size=16, channels=16, emb_channels=32, groups=8)
    store.save_weights(tiny / "3dim.safetensors", xunet(own).state_dict(), dataclasses.asdict(own))
    monkeypatch.setattr(store, "TINY", tiny)
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    state = {f"module.{name}": tensor for name, tensor in xunet(SMALL).state_dict().items()}
    torch.save({"model": state, "optim": {}, "step": 101_000}, tmp_path / "latest.pt")
    return tmp_path / "latest.pt"


def turnaround(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_imported_network_draws_and_its_views_are_cut_out(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(TurnaroundError, match="not installed"):
        ThreeDim().choose(Settings(options={"weights": NAME}), "cpu")
    turnaround("models", "import", NAME, checkpoint)
    pipeline = ThreeDim()
    assert pipeline.info().options[0].choices == ("auto", "tiny", NAME)
    assert ThreeDim().choose(Settings(), "cpu").weights == "tiny"
    assert ThreeDim().choose(Settings(), "cuda:0").weights == NAME

    y, x = np.mgrid[:96, :96] - 47.5
    picture = np.zeros((96, 96, 4), np.uint8)
    picture[x**2 + y**2 < 40**2] = (220, 30, 30, 255)
    Image.fromarray(picture).save(tmp_path / "ball.png")
    options = ["--option", "views=1", "--option", "steps=1", "--option", "guidance=0"]
    mesh = tmp_path / "ball.ply"
    turnaround(
        "generate", tmp_path / "ball.png", "--pipeline", "3dim", "--weights", NAME, *options,
        "--elevation", 15, "--resolution", 32, "--device", "cpu", "-o", mesh,
    )  # fmt: skip
    assert mesh.stat().st_size > 1000

    def make(**more: object):
        chosen = {"weights": NAME, "views": 1, "steps": 1, "guidance": 0.0, **more}
        settings = Settings(elevation_deg=15.0, resolution=32, options=chosen)
        (output,) = pipeline.generate(Request(picture, settings), device="cpu", cache=StageCache(), progress=Progress())
        return output

    output, turned = make(), make(picture_azimuth=90.0)
    assert output.report.weights == NAME
    assert output.report.camera.fov_deg == pytest.approx(52.0, abs=0.1)
    assert output.views.images.shape == (1, 32, 32, 4)
    assert output.views.images[..., 3].min() < 255, "white is taken away"
    assert (output.views.images != turned.views.images).any(), "it knows which side it is shown"
    assert json.loads(json.dumps(store.read_config(store.stored_files(store.find_entry(NAME))[0])))["size"] == 32
