"""The elevation experiment: pictures from random sides, methods that find their elevation, and what is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from evaluation_fixture import chair
from PIL import Image
from typer.testing import CliRunner
from zero123_fixture import make_zero123

from backend.cli import app
from backend.elevation.solve import ASSUMED_DEG, Estimate
from backend.evaluation.elevation import ElevationScore, Pose, estimators, make_poses, score, summarise
from backend.evaluation.elevation_report import BAR, END_DEG, MARGIN, PANEL_WIDTH, cells, counts, histogram
from backend.training.data.meshes import find_meshes
from protocol.errors import TurnaroundError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lumpy stone with spots to hold on to."""
    root = tmp_path_factory.mktemp("meshes")
    rng = np.random.default_rng(0)
    stone = trimesh.creation.icosphere(subdivisions=4)
    waves = sum(np.sin(stone.vertices @ rng.normal(0, 3, 3) + rng.uniform(0, 6)) for _ in range(5))
    spots = sum(np.sin(stone.vertices @ rng.normal(0, 12, 3)[:, None] + rng.uniform(0, 6, 3)) for _ in range(6))
    stone.vertices *= (1 + 0.06 * np.asarray(waves))[:, None] * (1, 0.8, 0.9)
    stone.visual.vertex_colors = np.c_[np.clip(128 + 40 * np.asarray(spots), 0, 255), np.full(len(spots), 255)].astype(
        np.uint8
    )
    stone.export(root / "stone.ply")
    return root


@pytest.fixture(scope="module")
def poses(folder: Path) -> list[Pose]:
    return list(make_poses(find_meshes(folder), poses=3))


def found(degrees: float, *, assumed: bool = False) -> Estimate:
    return Estimate(degrees, 1.0, 0.5, "assumed" if assumed else "estimated", np.empty(0), np.empty(0))


def test_poses_are_of_all_elevations_and_the_same_each_time(folder: Path, poses: list[Pose]) -> None:
    assert [pose.name for pose in poses] == [f"stone.ply #{number}" for number in range(3)]
    assert len({round(pose.camera.elevation_deg) for pose in poses}) == 3
    for one, two in zip(poses, make_poses(find_meshes(folder), poses=3), strict=True):
        np.testing.assert_array_equal(one.picture, two.picture)
        assert one.camera == two.camera
        assert one.near.images.shape == (4, 256, 256, 4)


def test_pictures_are_from_all_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.evaluation.elevation.ELEVATIONS_DEG", (20.0, 20.0))
    chair(0.6, 0.5, 0.8, (220, 40, 40)).export(tmp_path / "chair.ply")
    shapes = [pose.picture[..., 3] > 127 for pose in make_poses(find_meshes(tmp_path), poses=6, size=64)]
    for number, one in enumerate(shapes):
        for other in shapes[:number]:
            assert (one & other).sum() / (one | other).sum() < 0.97, "nothing but the side can change the outline"


def test_an_elevation_that_is_found_too_high_is_a_positive_error_to_the_right() -> None:
    high = ElevationScore(method="high", name="a", true_deg=10.0, found_deg=13.0)
    assert high.error_deg == 3.0
    for found_deg, right in ((13.0, True), (70.0, True), (7.0, False)):
        page = np.asarray(histogram([ElevationScore(method="m", name="a", true_deg=10.0, found_deg=found_deg)]))
        columns = np.flatnonzero((page == BAR).all(-1).any(0))
        assert len(columns)
        assert all((columns > MARGIN + PANEL_WIDTH / 2) == right)
        center = (columns.mean() - MARGIN) / PANEL_WIDTH * 2 * END_DEG - END_DEG
        assert abs(center - np.clip(found_deg - 10, -57.5, 57.5)) <= 2.5


def test_matching_true_views_finds_the_elevation(poses: list[Pose]) -> None:
    scores = score(estimators("cpu", drawn=False), poses)
    assert [s.method for s in scores[:2]] == ["regression", "flow, true views"]
    matched = [s for s in scores if s.method == "flow, true views"]
    assert not any(s.assumed or s.failure for s in matched)
    assert max(abs(s.error_deg) for s in matched) < 5
    assert [s.true_deg for s in matched] == [pose.camera.elevation_deg for pose in poses]


def test_every_drawn_source_is_matched_and_drawn_once(
    poses: list[Pose], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_zero123(tmp_path / "zero123-xl", "relative") / "cc_projection"
    (weights / "model.safetensors").rename(weights / "diffusion_pytorch_model.safetensors")
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("backend.pipelines.one2345.published.QUALITIES", {"standard": 1})
    monkeypatch.setattr("backend.evaluation.elevation.MATCHING_STEPS", 1)
    methods = estimators("cpu")
    assert list(methods) == ["regression", "flow, true views", "flow, drawn views", "flow, views by zero123-xl"]
    scores = score({name: methods[name] for name in list(methods)[2:]}, poses[:1])
    assert all(-90 <= s.found_deg <= 90 and not s.failure for s in scores)


def test_what_fails_counts_as_assumed(poses: list[Pose]) -> None:
    def fail(pose: Pose) -> Estimate:
        raise TurnaroundError("views.few", "There are none.")

    told = {"right": lambda pose: found(pose.camera.elevation_deg), "off": lambda pose: found(90.0), "fails": fail}
    done: list[None] = []
    scores = score(told, poses, lambda: done.append(None))
    assert len(done) == len(scores) == 9
    right, off, fails = summarise(scores)
    assert (right.mean_deg, right.close, right.assumed) == (0.0, 1.0, 0)
    assert off.close == 0.0
    assert fails.assumed == 3
    truth = [pose.camera.elevation_deg for pose in poses]
    assert fails.mean_deg == pytest.approx(np.abs(np.subtract(ASSUMED_DEG, truth)).mean())
    assert ("right", "0.0", "0.0", "100%", "0", "3") in cells([right, off, fails])
    page = histogram(scores)
    assert page.height > histogram(scores[:1]).height


def test_bars_hold_every_error() -> None:
    bars = counts([0.0, -0.1, 4.9, 100.0, -60.0, 60.0])
    assert sum(bars) == 6
    assert bars[0] == 1
    assert bars[-1] == 2
    assert bars[12] == 2
    assert bars[11] == 1


def test_the_command_writes_a_table_json_and_a_histogram(folder: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "elevation", "--meshes", str(folder), "-o", str(tmp_path), "--poses", "1", "--no-drawn"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "flow, true views" in result.output
    content = json.loads((tmp_path / "elevation.json").read_text())
    assert content["poses_each"] == 1
    assert [row["method"] for row in content["summary"]] == ["regression", "flow, true views"]
    assert content["summary"][1]["mean_deg"] < 5
    assert "flow, true views" in (tmp_path / "elevation.md").read_text()
    with Image.open(tmp_path / "elevation.png") as page:
        assert page.getcolors(1 << 16) is not None
