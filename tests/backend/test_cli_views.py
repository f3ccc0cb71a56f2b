"""`turnaround views`, and further pictures of `turnaround generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli import app
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines import registry
from backend.pipelines.stage import Progress, StageCache
from backend.preparation.framing import framed_camera
from protocol.messages import Direction, Framing, OptionSpec, PipelineInfo, Report, ViewCamera


class Painter:
    """A pipeline whose views have their number in red, so that a test sees which is which."""

    def __init__(self) -> None:
        self.requests: list[registry.Request] = []

    def info(self) -> PipelineInfo:
        views = OptionSpec(name="views", label="Views", description="", default=8, minimum=0, maximum=32)
        return PipelineInfo(
            name="3dim", label="Painter", description="", options=(views,), several_pictures=True, novel_views=True
        )

    def generate(
        self, request: registry.Request, *, device: str, cache: StageCache, progress: Progress
    ) -> Iterator[registry.Output]:
        self.requests.append(request)
        settings, camera = request.settings, framed_camera(20.0)
        images = np.zeros((len(settings.look_from), 8, 8, 4), np.uint8)
        images[..., 0] = 10 * np.arange(1, len(images) + 1)[:, None, None]
        report = Report(
            pipeline="3dim",
            seed=settings.seed,
            settings=settings,
            elevation_deg=20.0,
            elevation_source="estimated",
            elevation_spread_deg=3.0,
            camera=ViewCamera(elevation_deg=20.0, azimuth_deg=0.0, distance=camera.distance, fov_deg=camera.fov_deg),
            framing=Framing(center_x=32, center_y=32, side=64),
            seconds={},
        )
        looks = bool(len(images))
        mesh = Mesh(
            np.eye(3, dtype=np.float32)[: 0 if looks else 3],
            np.arange(0 if looks else 3, dtype=np.int32).reshape(-1, 3),
            np.full((0 if looks else 3, 4), 255, np.uint8),
        )
        yield registry.Output(mesh, ViewSet(images, (camera,) * len(images)), np.zeros((8, 8, 4), np.uint8), report)

    def free(self) -> None:
        pass


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Painter:
    fake = Painter()
    monkeypatch.setattr(registry, "pipelines", lambda: {"3dim": fake})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    return fake


def save(path: Path, value: int) -> Path:
    Image.fromarray(np.full((32, 32, 4), value, np.uint8)).save(path)
    return path


def turnaround(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_views_are_written_in_the_order_in_which_they_were_asked_for(painter: Painter, tmp_path: Path) -> None:
    picture, back, out = save(tmp_path / "a.png", 100), save(tmp_path / "mail@home.png", 50), tmp_path / "out"
    result = turnaround(
        "views", picture, "--cameras", 90, "--cameras", "-45,30", "-o", out, "--also", f"{back}@180,-5", "--seed", 4
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(out / "view_01.png"), str(out / "view_02.png")]
    assert [np.asarray(Image.open(path))[0, 0, 0] for path in sorted(out.iterdir())] == [10, 20]
    (request,) = painter.requests
    assert request.settings.look_from == (
        Direction(azimuth_deg=90.0),
        Direction(azimuth_deg=-45.0, elevation_deg=30.0),
    )
    assert request.settings.options == {"views": 0}  # those of a mesh are drawn first only where they are asked for
    assert request.settings.extra_pictures == (Direction(azimuth_deg=180.0, elevation_deg=-5.0),)
    assert request.settings.seed == 4
    assert (request.picture == 100).all()
    assert [int(extra[0, 0, 0]) for extra in request.extra_pictures] == [50]
    turnaround("views", picture, "--cameras", 90, "-o", out, "--option", "views=3")
    assert painter.requests[1].settings.options == {"views": 3}


def test_generate_takes_further_pictures(painter: Painter, tmp_path: Path) -> None:
    picture, back = save(tmp_path / "a.png", 100), save(tmp_path / "b.png", 50)
    result = turnaround("generate", picture, "--also", f"{back}@180", "--pipeline", "3dim", "-o", tmp_path / "a.ply")
    assert result.exit_code == 0, result.output
    (request,) = painter.requests
    assert request.settings.extra_pictures == (Direction(azimuth_deg=180.0),)
    assert len(request.extra_pictures) == 1
    assert not request.settings.look_from


@pytest.mark.parametrize("text", ["b.png", "b.png@", "b.png@left", "b.png@1,2,3", "b.png@400", "b.png@0,95"])
def test_a_direction_that_is_none_is_said_to_be(painter: Painter, tmp_path: Path, text: str) -> None:
    picture = save(tmp_path / "a.png", 100)
    save(tmp_path / "b.png", 50)
    result = turnaround(
        "generate", picture, "--also", f"{tmp_path}/{text}", "--pipeline", "3dim", "-o", tmp_path / "a.ply"
    )
    assert result.exit_code != 0
    assert not painter.requests
    assert not (tmp_path / "a.ply").exists()
