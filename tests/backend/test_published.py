"""Published weights from import to mesh: synthetic checkpoints in the published forms, the real command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import weights_samples as samples
from typer.testing import CliRunner

from backend.cli import app
from backend.generators.zero123.generator import ViewRequest, Zero123Generator
from backend.geometry.mesh import ViewSet
from backend.pipelines.one2345.pipeline import One2345
from backend.pipelines.one2345.published import Published
from backend.pipelines.registry import Output, Request
from backend.pipelines.stage import Progress, StageCache, Update
from backend.preparation.picture import read_picture
from backend.reconstructors.sparseneus.config import PUBLISHED
from backend.reconstructors.sparseneus.network import SparseNeuS
from protocol.errors import TurnaroundError
from protocol.messages import Settings

HOUSE = Path(__file__).parents[2] / "examples" / "house.png"
QUICK = {"steps": 1}


def save_sparseneus(path: Path) -> None:
    """A published checkpoint whose signed distance has a level set: about a ball, whatever the views show."""
    network = SparseNeuS(PUBLISHED)
    state = samples.filled({name: tuple(t.shape) for name, t in network.state_dict().items()})
    network.load_state_dict(state)
    layer = network.sdf_network_lod0.sdf_layer
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("weight_g"):
                parameter.fill_(1.0)
        layer.lin0.weight_v[:, 3:] *= 0.1  # the octaves hardly count
        layer.lin1.weight_v[:, :128].abs_()  # so that it grows with the distance from the middle
        layer.lin1.weight_v[:, 128:] *= 0.1
        layer.lin1.weight_g *= 0.1
        layer.lin2.weight_v[0, :128] = 1 / 128
        layer.lin2.weight_v[0, 128:] *= 0.01
        layer.lin2.weight_g[0] = 0.5
        points = torch.randn(512, 3)
        points *= 0.3 / points.norm(dim=-1, keepdim=True)
        layer.lin2.bias[0] -= layer(points, torch.zeros(512, 16))[0][:, 0].median()
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in network.state_dict().items():
        part, key = name.split(".", 1)
        nested.setdefault(part, {})[key] = tensor
    torch.save({**nested, "optimizer": {}, "iter_step": 215000, "val_step": 0}, path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights, filled by `turnaround models import`."""
    folder = tmp_path_factory.mktemp("published")
    samples.save_zero123(folder / "zero123-xl.ckpt")
    samples.save_zero123_folders(folder / "stable")
    save_sparseneus(folder / "ckpt_215000.pth")
    weights = folder / "weights"
    for name, path in (
        ("zero123-xl-original", folder / "zero123-xl.ckpt"),
        ("stable-zero123", folder / "stable"),
        ("one2345-sparseneus", folder / "ckpt_215000.pth"),
    ):
        done = CliRunner().invoke(app, ["models", "import", name, str(path)], env={"TURNAROUND_WEIGHTS": str(weights)})
        assert done.exit_code == 0, done.output
    return weights


@pytest.fixture
def here(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(installed))
    return installed


def run(
    pipeline: One2345,
    cache: StageCache,
    progress: Progress | None = None,
    elevation: float | None = None,
    **options: object,
) -> Output:
    settings = Settings(elevation_deg=elevation, resolution=32, options={**QUICK, **options})  # type: ignore[dict-item]
    request = Request(read_picture(HOUSE), settings)
    (output,) = pipeline.generate(request, device="cpu", cache=cache, progress=progress or Progress())
    return output


@pytest.mark.parametrize("weights", ["zero123-xl-original", "stable-zero123"])
def test_from_import_to_mesh_at_the_command_line(here: Path, tmp_path: Path, weights: str) -> None:
    """Of a training checkpoint, and of a folder as diffusers publishes it."""
    assert set(One2345().installed()) == {"zero123-xl-original", "stable-zero123"}
    arguments = ["generate", str(HOUSE), "-o", str(tmp_path / "house.ply"), "--weights", weights]
    arguments += ["--option", "steps=1", "--resolution", "32", "--no-cache", "--device", "cpu"]
    arguments += ["--views-out", str(tmp_path / "views"), "--report", str(tmp_path / "report.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())["variants"][0]["report"]
    assert report["weights"] == weights
    assert {"around", "near", "elevation", "shape", "meshing"} <= report["seconds"].keys()
    assert len(list((tmp_path / "views").glob("view_*.png"))) == 40
    assert (tmp_path / "house.ply").stat().st_size > 1000


def test_an_elevation_redraws_only_the_ring_that_it_moves(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(self: Zero123Generator, requests: Sequence[ViewRequest], **_: object) -> ViewSet:
        drawn.append(len(requests))
        # each its own: a view that is drawn from another one is another one
        turns = [
            r.target.azimuth_deg - r.camera.azimuth_deg + (r.target.elevation_deg - r.camera.elevation_deg) / 2
            for r in requests
        ]
        images = [r.image ^ np.uint8(round(turn) % 256) for r, turn in zip(requests, turns, strict=True)]
        return ViewSet(np.stack(images), tuple(r.target for r in requests))

    class Enough(Exception):  # noqa: N818
        """What is built from the views is another test's concern, and most of the time."""

    def built(*_: object) -> None:
        raise Enough

    monkeypatch.setattr(Zero123Generator, "draw", draw)
    monkeypatch.setattr(Published, "reconstruct", built)
    pipeline, cache = One2345(), StageCache()

    def views_drawn(elevation: float, weights: str) -> list[int]:
        drawn.clear()
        with pytest.raises(Enough):
            run(pipeline, cache, elevation=elevation, weights=weights)
        return list(drawn)

    assert views_drawn(20, "zero123-xl-original") == [8, 32]
    assert views_drawn(30, "zero123-xl-original") == []
    assert views_drawn(5, "zero123-xl-original") == [4, 16]
    # Stable Zero123 is told the elevation itself
    assert views_drawn(20, "stable-zero123") == [8, 32]
    assert views_drawn(30, "stable-zero123") == [8, 32]


def test_the_preview_can_be_kept(here: Path) -> None:
    keep = Progress()

    def report(update: Update) -> None:
        if update.stage == "Drawing Around":
            assert update.can_keep
            keep.keep.set()

    keep.report = report
    output = run(One2345(), StageCache(), keep, elevation=20, weights="stable-zero123")
    assert len(output.views) == 0
    assert len(output.mesh.faces) > 100


def test_weights_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path))
    assert One2345().installed() == ()
    with pytest.raises(TurnaroundError, match=r"zero123-xl are not installed"):
        run(One2345(), StageCache(), weights="zero123-xl")
