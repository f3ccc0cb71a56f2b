"""The command line: what it writes, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from backend.cli import app
from backend.cli.console import CANCELLED
from backend.cli.doctor import masked
from backend.geometry.gaussians.ply import read_splats
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines import registry
from backend.pipelines.stage import Preview, Progress, StageCache
from backend.preparation.framing import framed_camera
from protocol.errors import TurnaroundError
from protocol.messages import Framing, OptionSpec, PipelineInfo, Report, Settings, ViewCamera

OPTIONS = (
    OptionSpec(name="views", label="Views", description="", default=8, minimum=0, maximum=32),
    OptionSpec(name="strength", label="Strength", description="", default=0.5, minimum=0.0, maximum=1.0),
    OptionSpec(name="smooth", label="Smooth", description="", default=True),
    OptionSpec(name="mode", label="Mode", description="", default="soft", choices=("soft", "hard")),
)


class Boxes:
    """A pipeline whose meshes are boxes as wide as their seed, so that a test sees what arrived."""

    def __init__(self) -> None:
        self.requests: list[registry.Request] = []
        self.ready = True
        self.error: Exception | None = None
        self.splats: np.ndarray | None = None
        self.on_step = lambda: None

    def info(self) -> PipelineInfo:
        return PipelineInfo(
            name="one2345",
            label="Boxes",
            description="",
            options=OPTIONS,
            ready=self.ready,
            hint="Install them.",
            splats=self.splats is not None,
        )

    def generate(
        self, request: registry.Request, *, device: str, cache: StageCache, progress: Progress
    ) -> Iterator[registry.Output]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        for index in range(request.settings.variants):
            progress.variant = index
            progress.begin("Drawing Views", (0.0, 1.0), Preview(notes=("Touches the top border.",)))
            for step in range(3):
                self.on_step()
                progress.step(step + 1, 3)
            yield self._output(request.settings, request.settings.seed + index, device)

    def _output(self, settings: Settings, seed: int, device: str) -> registry.Output:
        box = trimesh.creation.box((0.1 + 0.1 * seed, 0.2, 0.3))
        colors = np.full((len(box.vertices), 4), 255, np.uint8)
        mesh = Mesh(np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32), colors)
        camera = framed_camera(20.0)
        report = Report(
            pipeline="one2345",
            seed=seed,
            settings=settings,
            elevation_deg=20.0,
            elevation_source="estimated",
            elevation_spread_deg=3.0,
            elevation_confidence=0.75,
            camera=ViewCamera(elevation_deg=20.0, azimuth_deg=0.0, distance=camera.distance, fov_deg=camera.fov_deg),
            framing=Framing(center_x=32, center_y=32, side=64),
            seconds={"views": 0.5},
            warnings=("Touches the top border.", "Look twice."),
            device=device,
        )
        views = ViewSet(np.full((2, 8, 8, 4), 9, np.uint8), (camera, camera.moved(azimuth_deg=90)))
        return registry.Output(mesh, views, np.full((8, 8, 4), 7, np.uint8), report, self.splats)

    def free(self) -> None:
        pass


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Boxes:
    fake = Boxes()
    monkeypatch.setattr(registry, "pipelines", lambda: {"one2345": fake})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    return fake


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (200, 40, 40, 255)
    Image.fromarray(pixels).save(tmp_path / "apple.png")
    return tmp_path / "apple.png"


def turnaround(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_every_variant_view_and_number_is_written(boxes: Boxes, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = turnaround(
        "generate", picture, "-o", out / "apple.ply", "--variants", 2, "--seed", 3, "--elevation", "-12.5",
        "--fov", 30, "--resolution", 64, "--faces", 5000, "--quality", "draft", "--device", "cpu",
        "--option", "views=4", "--option", "strength=1", "--option", "smooth=off", "--option", "mode=hard",
        "--views-out", out / "views", "--report", out / "report.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert boxes.requests[0].settings == Settings(
        seed=3,
        variants=2,
        elevation_deg=-12.5,
        fov_deg=30.0,
        resolution=64,
        target_faces=5000,
        quality="draft",
        options={"views": 4, "strength": 1.0, "smooth": False, "mode": "hard"},
    )
    assert result.stdout.split() == [str(out / "apple.1.ply"), str(out / "apple.2.ply")]
    for index in (1, 2):
        mesh = trimesh.load(out / f"apple.{index}.ply")
        assert mesh.extents == pytest.approx([0.1 + 0.1 * (2 + index), 0.2, 0.3])
        names = sorted(path.name for path in (out / "views" / str(index)).iterdir())
        assert names == ["cutout.png", "view_01.png", "view_02.png"]
    report = json.loads((out / "report.json").read_text())
    assert report["picture"] == "apple.png"
    assert [v["report"]["seed"] for v in report["variants"]] == [3, 4]
    assert report["variants"][0]["report"]["seconds"] == {"views": 0.5}
    assert report["variants"][0]["report"]["elevation_confidence"] == 0.75
    assert report["variants"][0]["views"][1]["camera"]["azimuth_deg"] == 90.0
    assert "Drawing Views" in result.stderr
    said = result.stderr
    assert said.index("Warning: Touches the top border.") < said.index("Drawing Views (33%)"), "before the work"
    assert [said.count(note) for note in ("Touches the top border.", "Look twice.")] == [1, 1]


def test_one_variant_keeps_its_name_and_elevation_is_found(boxes: Boxes, picture: Path, tmp_path: Path) -> None:
    result = turnaround("generate", picture, "-o", tmp_path / "apple.glb", "--views-out", tmp_path / "views")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "apple.glb").is_file()
    assert boxes.requests[0].settings.elevation_deg is None
    assert np.asarray(Image.open(tmp_path / "views" / "cutout.png"))[0, 0, 0] == 7


def test_splats_are_written_where_there_are_any_and_else_refused_at_once(
    boxes: Boxes, picture: Path, tmp_path: Path
) -> None:
    command = ["generate", picture, "-o", tmp_path / "apple.glb", "--splats"]
    assert "Boxes does not make Gaussians" in turnaround(*command, tmp_path / "s.ply").stderr
    boxes.splats = np.full((3, 14), 0.5, np.float32)
    boxes.splats[:, 1] = (0.1, 0.2, 0.3)
    assert "Gaussians cannot be written" in turnaround(*command, tmp_path / "s.glb").stderr
    assert not boxes.requests
    result = turnaround(*command, tmp_path / "s.ply", "--variants", 2)
    assert result.exit_code == 0, result.output
    for number in (1, 2):
        assert np.allclose(read_splats(tmp_path / f"s.{number}.ply").packed(), boxes.splats, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--elevation", "95"], ["Elevation is 95", "from -90 to 90"]),
        (["--elevation", "steep"], ['Elevation is "steep"', "auto"]),
        (["--elevation", "nan"], ["Elevation"]),
        (["--variants", "0"], ["Variants is 0", "from 1 to 16"]),
        (["--resolution", "5000"], ["Mesh Resolution is 5000", "from 16 to 512"]),
        (["--fov", "0"], ["Field of View is 0", "from 1 to 120"]),
        (["--faces", "1"], ["Target Faces is 1", "from 100"]),
        (["--seed", "-1"], ["Seed is -1"]),
        (["--quality", "best"], ["Quality is best", "standard"]),
        (["--pipeline", "magic"], ['no engine called "magic"', "one2345"]),
        (["--option", "views"], ['"views" is not an option', "NAME=VALUE"]),
        (["--option", "magic=1"], ['no option "magic"', "mode, smooth, strength, views"]),
        (["--option", "views=many"], ["Views", "a whole number"]),
        (["--option", "strength=2"], ["Strength is 2", "from 0 to 1"]),
        (["--option", "smooth=maybe"], ["Smooth", "on or off"]),
        (["--option", "mode=loud"], ['no choice "loud"', "soft, hard"]),
        (["-o", "mesh.fbx"], [".fbx", ".glb"]),
    ],
)
def test_what_cannot_be_is_a_sentence_and_a_hint(
    boxes: Boxes, picture: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    output = [] if "-o" in arguments else ["-o", tmp_path / "mesh.glb"]
    result = turnaround("generate", picture, *output, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.stderr
    assert not boxes.requests, "nothing was started"


def test_bad_pictures_and_missing_weights_are_said_in_words(boxes: Boxes, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    for path in (text, tmp_path / "nothing.png", tmp_path):
        result = turnaround("generate", path, "-o", tmp_path / "mesh.glb")
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
    boxes.ready = False
    result = turnaround("generate", picture, "-o", tmp_path / "mesh.glb")
    assert result.exit_code == 1
    assert "no weights" in result.stderr
    assert "Install them." in result.stderr


def test_details_are_shown_only_when_wanted(boxes: Boxes, picture: Path, tmp_path: Path) -> None:
    boxes.error = TurnaroundError("some.code", "It broke.", "Mend it.", details="screw 7")
    command = ["generate", picture, "-o", tmp_path / "mesh.glb"]
    short, long = turnaround(*command), turnaround(*command, "--verbose")
    assert short.exit_code == long.exit_code == 1
    assert short.stderr.splitlines()[-2:] == ["Error: It broke.", "Mend it."]
    assert "screw 7" in long.stderr
    assert "some.code" in long.stderr
    boxes.error = ZeroDivisionError("oops")
    short, long = turnaround(*command), turnaround(*command, "--verbose")
    assert short.exit_code == long.exit_code == 1
    assert "--verbose" in short.stderr
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr


def test_usage_errors_have_their_own_exit_code(boxes: Boxes, picture: Path) -> None:
    assert turnaround("generate", picture).exit_code == 2
    assert turnaround("generate", picture, "-o", "a.glb", "--variants", "two").exit_code == 2
    assert turnaround("dance").exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_stops_at_the_next_step_and_leaves_nothing(boxes: Boxes, picture: Path, tmp_path: Path) -> None:
    steps = []

    def step() -> None:
        steps.append(1)
        if len(steps) == 5:  # in the second variant
            os.kill(os.getpid(), signal.SIGINT)

    boxes.on_step = step
    before = signal.getsignal(signal.SIGINT)
    result = turnaround("generate", picture, "-o", tmp_path / "mesh.glb", "--variants", 3)
    assert result.exit_code == CANCELLED
    assert "Cancelled." in result.stderr
    assert len(steps) == 5
    assert [path.name for path in tmp_path.glob("*.glb")] == ["mesh.1.glb"], "the finished one stays"
    assert signal.getsignal(signal.SIGINT) == before


def test_models_are_listed_with_their_licences(boxes: Boxes) -> None:
    shown = turnaround("models", "list")
    assert shown.exit_code == 0
    assert "stable-zero123" in shown.stdout
    rows = {row["name"]: row for row in json.loads(turnaround("models", "list", "--json").stdout)}
    assert rows["stable-zero123"]["commercial"] == "no"
    assert rows["stable-zero123"]["present"] is False


def test_doctor_reports_without_private_paths(boxes: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "ada"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setattr(registry, "broken", lambda: {"other": f"ImportError: {home}/secret plan/x.py"})
    result = turnaround("doctor", "-o", tmp_path / "report.txt")
    assert result.exit_code == 0, result.output
    for word in ("torch", "cpu:", "one2345: Boxes, ready", "other: FAILED", "zero123-xl: not here", "none runs"):
        assert word in result.stdout
    assert "ada" not in result.stdout
    assert str(tmp_path) not in result.stdout
    assert (tmp_path / "report.txt").read_text() == result.stdout


names = st.text(st.sampled_from("abcXYZ019_.-"), min_size=1, max_size=12).filter(lambda s: s.strip("."))


@given(folders=st.lists(names, min_size=1, max_size=5), file=names)
def test_masking_leaves_only_the_last_part_of_a_path(folders: list[str], file: str) -> None:
    private = "/" + "/".join(f"q{folder}" for folder in folders)
    shown = masked(f'failed in "{private}/{file}", line 3')
    assert shown.endswith(f'/{file}", line 3')
    assert all(f"q{folder}" not in shown for folder in folders)
    assert "https://example.org/a/b" in masked("see https://example.org/a/b")


def test_doctor_survives_a_section_that_fails(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise OSError("no registry")

    monkeypatch.setattr(registry, "broken", fail)
    result = turnaround("doctor")
    assert result.exit_code == 0
    assert "could not be checked: OSError: no registry" in result.stdout
    assert "Keys" in result.stdout


def test_bench_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import backend.bench

    (tmp_path / "speed.py").write_text(
        "TARGETS = {'job_seconds': ('<=', 3.0), 'rate': ('>=', 3.0)}\n"
        "def measure():\n"
        "    return {'job_seconds': 2.0, 'rate': 2.0, 'bytes': 7}\n"
    )
    monkeypatch.setattr(backend.bench, "__path__", [str(tmp_path)])
    result = turnaround("bench", "-o", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "bench.json").read_text())["measurements"]
    assert [(row["name"], row["met"]) for row in rows] == [("job_seconds", True), ("rate", False), ("bytes", None)]
    unknown = turnaround("bench", "magic")
    assert unknown.exit_code == 1
    assert "speed" in unknown.stderr


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from backend.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert result.exit_code == 0 and 'generate' in result.output, result.output\n"
        "heavy = {'torch', 'diffusers', 'scipy', 'cv2', 'trimesh', 'numba', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_job_off_the_main_thread_leaves_signals_alone(boxes: Boxes, picture: Path, tmp_path: Path) -> None:
    codes = []
    worker = threading.Thread(
        target=lambda: codes.append(turnaround("generate", picture, "-o", tmp_path / "mesh.glb").exit_code)
    )
    worker.start()
    worker.join(60)
    assert codes == [0]
