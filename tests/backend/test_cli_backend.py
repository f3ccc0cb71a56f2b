"""The command line as a client: a real backend in its own process does the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from typer.testing import CliRunner

from backend.cli import app
from backend.cli.console import CANCELLED
from backend.geometry.gaussians.ply import read_splats
from protocol import connection

PIPELINES = """
import time
import numpy as np, trimesh
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.registry import Output
from backend.preparation.framing import framed_camera
from protocol.messages import Framing, OptionSpec, PipelineInfo, Report, ViewCamera

SPLATS = np.full((5, 14), 0.5, "f4")

class Boxes:
    def info(self):
        slow = OptionSpec(name="slow", label="Slow", description="", default=False)
        return PipelineInfo(name="boxes", label="Boxes", description="", options=(slow,), splats=True)

    def generate(self, request, *, device, cache, progress):
        camera = framed_camera(20.0)
        view = ViewCamera(elevation_deg=20, azimuth_deg=0, distance=camera.distance, fov_deg=camera.fov_deg)
        for index in range(request.settings.variants):
            progress.begin("Drawing Views", (0.0, 1.0))
            for step in range(2000 if request.settings.options.get("slow") else 2):
                progress.step(step, 2000)
                time.sleep(0.01)
            box = trimesh.creation.box((0.1 * (index + 1), 0.2, request.picture.shape[0] / 1000))
            mesh = Mesh(np.asarray(box.vertices, "f4"), np.asarray(box.faces, "i4"), np.full((8, 4), 255, "u1"))
            report = Report(
                pipeline="boxes", seed=index, settings=request.settings, elevation_deg=20.0, elevation_source="given",
                elevation_spread_deg=0.0, camera=view, framing=Framing(center_x=0, center_y=0, side=1), seconds={},
            )
            yield Output(mesh, ViewSet(np.zeros((2, 8, 8, 4), "u1"), (camera, camera)), request.picture, report, SPLATS)

    def free(self):
        pass

PIPELINES = {"boxes": Boxes()}
"""


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[connection.ConnectionFile]:
    (tmp_path / "boxes_for_test.py").write_text(PIPELINES)
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    code = "from backend.server.serve import serve\n" + (
        "serve(device='cpu', pipelines='boxes_for_test:PIPELINES', warm=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while (found := connection.find()) is None:
            assert process.poll() is None, "the backend ended"
            assert time.monotonic() < deadline, "the backend does not start"
            time.sleep(0.05)
        yield found
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def turnaround(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_a_backend_does_the_job_and_says_what_it_cannot(
    backend: connection.ConnectionFile, picture: Path, tmp_path: Path
) -> None:
    command = ["generate", picture, "--backend", "--pipeline", "boxes", "--variants", 2]
    done = turnaround(*command, "-o", tmp_path / "box.ply", "--views-out", tmp_path / "views")
    assert done.exit_code == 0, done.output
    for index in (1, 2):
        assert trimesh.load(tmp_path / f"box.{index}.ply").extents == pytest.approx([0.1 * index, 0.2, 0.04])
        assert len(list((tmp_path / "views" / str(index)).glob("view_*.png"))) == 2
    unknown = turnaround("generate", picture, "-o", tmp_path / "x.ply", "--backend")
    assert unknown.exit_code == 1
    assert 'no engine called "one2345"' in unknown.stderr
    string = connection.local_address().string()
    remote = turnaround("generate", picture, "-o", tmp_path / "r.ply", "--pipeline", "boxes", "--connect", string)
    assert remote.exit_code == 0, remote.output
    splats = tmp_path / "splats.ply"
    done = turnaround(*command[:-2], "-o", tmp_path / "box.ply", "--splats", splats)
    assert done.exit_code == 0, done.output
    assert np.allclose(read_splats(splats).packed(), 0.5, atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_cancels_the_job_in_the_backend(
    backend: connection.ConnectionFile, picture: Path, tmp_path: Path
) -> None:
    def interrupt() -> None:
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    arguments = ["generate", picture, "-o", tmp_path / "x.ply", "--backend", "--pipeline", "boxes"]
    stopped = turnaround(*arguments, "--option", "slow=true")
    assert stopped.exit_code == CANCELLED, stopped.output
    assert not (tmp_path / "x.ply").exists()
    again = turnaround(*arguments)
    assert again.exit_code == 0, "the backend is free for the next job"


def test_without_a_backend_the_command_says_so(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    for arguments, words in ((["--backend"], "No backend is running"), (["--connect", "hello"], "connection string")):
        result = turnaround("generate", picture, "-o", tmp_path / "x.ply", *arguments)
        assert result.exit_code == 1
        assert words in result.stderr
