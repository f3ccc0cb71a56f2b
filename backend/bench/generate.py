"""How long an artist waits: a real backend process, a picture, and every figure that the project aims at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.geometry.mesh import Mesh
from backend.geometry.render import Light, prepare, render
from backend.preparation.framing import framed_camera
from protocol.client import Client
from protocol.connection import find, local_address
from protocol.errors import TurnaroundError
from protocol.messages import Event, Result, Settings

TARGETS = {
    "picture_to_mesh_seconds": ("<=", 60.0),
    "first_event_seconds": ("<=", 1.0),
    "preview_shape_seconds": ("<=", 5.0),
    "elevation_override_seconds": ("<=", 8.0),
}


def measure(pipeline: str = "one2345") -> dict[str, float]:
    """Starts a backend with an empty cache and generates twice.

    Returns:
        Seconds from starting the process to its first welcome; its idle memory; seconds from submitting a picture to
        the first event, to the coarse shape and to the mesh; and the same picture at another elevation. The first
        mesh is made cold: the networks are loaded on the way.
    """
    with tempfile.TemporaryDirectory() as home:
        return _measure(pipeline, home)


def _measure(pipeline: str, home: str) -> dict[str, float]:
    before = os.environ.get("TURNAROUND_HOME")
    os.environ["TURNAROUND_HOME"] = home
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "backend.cli", "serve"], stdout=subprocess.DEVNULL)
    try:
        while find() is None:
            if process.poll() is not None or time.perf_counter() - start > 60:
                raise TurnaroundError("bench.backend", "The backend did not start.", "Try: turnaround serve")
            time.sleep(0.01)
        with Client(local_address, name="bench") as client:
            client.connect(60)
            result = {"start_up_seconds": time.perf_counter() - start}
            time.sleep(3)
            result["idle_megabytes"] = sum(_resident(pid) for pid in _family(process.pid)) / 1e6
            first = _job(client, pipeline, picture(), Settings())
            result |= {f"{name}_seconds": seconds for name, seconds in first.items()}
            again = _job(client, pipeline, picture(), Settings(elevation_deg=25.0))
            result["elevation_override_seconds"] = again["picture_to_mesh"]
            warm = _job(client, pipeline, picture(), Settings(seed=1))
            result["next_variant_seconds"] = warm["picture_to_mesh"]
        return result
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        if before is None:
            del os.environ["TURNAROUND_HOME"]
        else:
            os.environ["TURNAROUND_HOME"] = before


def picture() -> NDArray[np.uint8]:
    """A picture of two stacked boxes, uint8 [512, 512, 4]."""
    low = _box(np.array([0.0, 0.0, -0.15]), np.array([0.35, 0.25, 0.2]), (200, 80, 60))
    high = _box(np.array([0.05, 0.0, 0.2]), np.array([0.2, 0.2, 0.15]), (240, 220, 180))
    both = Mesh(
        np.concatenate([low.vertices, high.vertices]),
        np.concatenate([low.faces, high.faces + len(low.vertices)]),
        np.concatenate([low.colors, high.colors]),
    )
    return render(prepare(both), framed_camera(18.0, 30.0), 512, Light()).rgba


def _box(center: NDArray, half: NDArray, color: tuple[int, int, int]) -> Mesh:
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    colors = np.full((8, 4), (*color, 255), np.uint8)
    return Mesh((center + half * corners).astype(np.float32), np.array(faces, np.int32), colors)


def _job(client: Client, pipeline: str, image: NDArray[np.uint8], settings: Settings) -> dict[str, float]:
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    for received in client.follow(client.submit(pipeline, settings, picture=image)):
        now = time.perf_counter() - start
        if isinstance(received.message, Event):
            seconds.setdefault("first_event", now)
            if "vertices" in received.arrays:
                seconds.setdefault("preview_shape", now)
        if isinstance(received.message, Result):
            seconds["picture_to_mesh"] = now
    return seconds


def _family(pid: int) -> list[int]:
    """A process and its children's children, where /proc tells."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(child) for child in children.read_text().split()] if children.is_file() else []
    return [pid, *(member for child in below for member in _family(child))]


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it cannot be told."""
    statm = Path(f"/proc/{pid}/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0
