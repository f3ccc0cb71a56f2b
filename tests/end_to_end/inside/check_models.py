"""Weights installed from the preferences: a real backend, and a hub on this machine. Runs inside Blender."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.turnaround"
session, models = (import_module(f"{PACKAGE}.{name}") for name in ("session", "models"))
connection = import_module(f"{PACKAGE}.protocol.connection")

NAME, FILE = "one2345-sparseneus", "SparseNeuS_demo_v1/exp/lod0/checkpoints/ckpt_215000.pth"
FIRST = 1_500_000
"""Bytes that the hub sends before it looks at its gate."""
TESTS = Path(os.environ["EXAMPLES"]).parent / "tests"
FOLDER = Path(tempfile.mkdtemp())
CHECKPOINT = FOLDER / "ckpt_215000.pth"
MAKE = "import sys, json, weights_samples as w; w.save_sparseneus(sys.argv[1], json.load(open(sys.argv[2])))"
SERVE = (
    "import sys; from backend.server.serve import serve; serve(device='cpu', warm=False, parent_pid=int(sys.argv[1]),"
    " pipelines='fake_pipelines:PIPELINES', painters='fake_pipelines:PAINTERS', installer='fake_installer')"
)


class Hub(http.server.BaseHTTPRequestHandler):
    """Where the model is published; broken where the test says so."""

    data = b""
    digest = ""
    gate = threading.Event()

    def do_GET(self):
        index = json.dumps([[FILE, len(self.data), self.digest]]).encode()
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        body = index if self.path == "/index.json" else self.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            time.sleep(0.3)  # what comes at once is told only once
            self.wfile.write(body[:FIRST])
            if body is not index:
                self.gate.wait(60.0)
            self.wfile.write(body[FIRST:])

    def log_message(self, *arguments): ...


def preferences():
    return bpy.context.preferences.addons[PACKAGE].preferences


def known():
    return session.current().models


def state():
    return known().find(NAME).state


def wait(done, seconds=60.0):
    """Calls the tick as Blender's timer would until `done()`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, session.current().details() or f"nothing happened: {known().progress}"
        time.sleep(min(session.current().tick(), 0.02))


def press(operator, **more):
    return getattr(bpy.ops.turnaround, f"{operator}_model")(model=NAME, **more)


def done(operator, **more):
    """Presses, and waits until the backend has done it or failed; how it stands then."""
    assert press(operator, **more) == {"FINISHED"}
    wait(lambda: state() == "working")
    wait(lambda: state() != "working")
    return state()


def test_models_are_asked_for_once_a_backend_runs_and_the_artist_looks():
    assert not preferences().show_models, "an artist who does not ask is not shown any"
    assert not bpy.ops.turnaround.install_model.poll()
    environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    environment["TURNAROUND_WEIGHTS"] = str(FOLDER / "weights")
    python = os.environ["BACKEND_PYTHON"]
    manifest = TESTS / "data" / "one2345_recon_checkpoint.json"
    subprocess.run([python, "-c", MAKE, CHECKPOINT, manifest], env=environment, check=True)
    Hub.data = CHECKPOINT.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment["HUB"] = f"http://127.0.0.1:{server.server_port}"
    subprocess.Popen([python, "-c", SERVE, str(os.getpid())], env=environment)
    wait(lambda: session.current().ready)
    for _ in range(20):
        session.current().tick()
        time.sleep(0.01)
    assert known().known is None
    preferences().show_models = True
    wait(lambda: known().known is not None)
    groups = known().groups()
    assert {"Pictures from Text", "Ouroboros3D"} <= groups.keys()
    assert not [model for group in groups.values() for model in group if model.shipped]
    assert state() == "absent"
    assert models.facts(known().find(NAME)) == "Ask the source about commercial use, no licence is stated"
    assert models.facts(known().find("sam-vit-huge-original")) == "2.6 GB. Commercial use allowed, Apache-2.0"
    assert models.download(known().find("sam-vit-huge-original")) == "Downloads 2.6 GB from dl.fbaipublicfiles.com"


def test_nothing_is_downloaded_before_its_licence_is_accepted():
    assert known().find(NAME).needs_acceptance
    assert press("install") == {"CANCELLED"}
    session.current().tick()
    assert state() == "absent"


def test_progress_shows_and_cancel_leaves_nothing():
    Hub.digest = hashlib.sha256(Hub.data).hexdigest()
    assert press("install", accept_licence=True) == {"FINISHED"}
    wait(lambda: known().progress is not None and known().progress.done >= 2**20)
    assert state() == "working"
    assert known().busy
    assert models.describe(known().progress) == f"Downloading 0.00 of {len(Hub.data) / 1e9:.2f} GB"
    assert 0 < models.fraction(known().progress) < 1
    assert press("cancel") == {"FINISHED"}
    Hub.gate.set()
    wait(lambda: state() == "absent")
    assert known().find(NAME).failed is None
    assert not known().busy


def test_a_failure_stays_with_its_model_until_the_next_attempt():
    assert done("import", filepath=str(FOLDER / "nothing.pth")) == "absent"
    failed = known().find(NAME).failed
    assert failed.sentence == "There is nothing at nothing.pth."
    assert session.current().problem is None, "the panel has nothing to do with it"
    assert bpy.ops.turnaround.copy_model_details(model=NAME) == {"FINISHED"}


def test_a_model_is_installed_removed_and_imported():
    assert done("install", accept_licence=True) == "present"
    assert known().find(NAME).failed is None
    assert (FOLDER / "weights" / NAME / "sparseneus.safetensors").is_file()
    assert done("remove") == "absent"
    assert not (FOLDER / "weights" / NAME).exists()
    assert done("import", filepath=str(CHECKPOINT)) == "present"


def test_another_connection_begins_with_what_is_there():
    session.current().reset()
    assert known().known is None
    wait(lambda: known().known is not None)
    assert state() == "present"
    session.current().stop()
    wait(lambda: connection.find() is None)
    assert not bpy.ops.turnaround.remove_model.poll()
