"""Weights installed through a real gateway and a real installer process, from a hub on this machine."""

import contextlib
import hashlib
import http.server
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import weights_samples as samples
from server_fixture import Backend, until

from backend.server.gateway import _check_local
from backend.weights import install, store
from protocol.errors import TurnaroundError
from protocol.messages import Failed, Welcome
from protocol.models import (
    CancelModel,
    ImportModel,
    InstallModel,
    ModelList,
    ModelProgress,
    Models,
    RemoveModel,
)

NAME, FILE = "one2345-sparseneus", "SparseNeuS_demo_v1/exp/lod0/checkpoints/ckpt_215000.pth"
MANIFEST = Path(__file__).parents[1] / "data" / "one2345_recon_checkpoint.json"
FIRST = 100_000
"""Bytes that the hub sends before it looks at its gate."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "ckpt_215000.pth"
    samples.save_sparseneus(path, json.loads(MANIFEST.read_text()))
    return path


class Hub:
    """Where the model is published."""

    def __init__(self, data):
        self.data = data
        self.digest = hashlib.sha256(data).hexdigest()
        self.open = threading.Event()
        self.open.set()
        self.ranges = []


@pytest.fixture
def hub(checkpoint, monkeypatch):
    hub = Hub(checkpoint.read_bytes())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            index = json.dumps([[FILE, len(hub.data), hub.digest]]).encode()
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            body = index if self.path == "/index.json" else hub.data[start:]
            if body is not index:
                hub.ranges.append(start)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(hub.data) - 1}/{len(hub.data)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[:FIRST])
                if body is not index:
                    hub.open.wait(30.0)
                self.wfile.write(body[FIRST:])

        def log_message(self, *arguments): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HUB", f"http://127.0.0.1:{server.server_port}")
    yield hub
    hub.open.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def backend(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    backend = Backend(tmp_path / "home")
    backend.start(json.dumps({"installer": "fake_installer"}))
    yield backend
    if backend.process.poll() is None:
        log = backend.stop()
        assert backend.process.returncode == 0, log
        assert "could not" not in log, log


class Watcher:
    """A client that looks at the models."""

    def __init__(self, client):
        self.client = client
        self.models, self.progress, self.seen, self.welcome = {}, None, [], None
        client.connect()
        client.send(Models())
        self.wait(lambda: self.models)

    def wait(self, condition, seconds=60.0):
        def met():
            for message, _ in self.client.wait(0.1):
                self.take(message)
            return condition()

        return until(met, seconds=seconds)

    def take(self, message):
        self.seen.append(message)
        if isinstance(message, ModelList):
            self.models = {model.name: model for model in message.models}
            self.progress = message.progress
        elif isinstance(message, ModelProgress):
            self.progress = message
        elif isinstance(message, Welcome):
            self.welcome = message

    def ask(self, message, state, name=NAME):
        """Sends an order and waits until it has been carried out; returns why it failed, or None."""
        self.client.send(message)
        self.wait(lambda: self.models[name].state in ("working", "waiting"))
        self.wait(lambda: self.models[name].state == state)
        return self.models[name].failed


@pytest.fixture
def watcher(backend):
    with backend.client() as client:
        yield Watcher(client)


def clean(tmp_path):
    return not [p for p in (tmp_path / "weights").iterdir() if p.is_dir() and p.name != ".downloads"]


def test_the_list_says_all_that_is_known_before_a_download(watcher):
    model = watcher.models[NAME]
    assert (model.title, model.state, model.failed) == ("One-2-3-45's SparseNeuS", "absent", None)
    assert (model.commercial, model.needs_acceptance) == ("unknown", True)
    assert model.licence_page == "https://huggingface.co/One-2-3-45/code"
    assert model.source == "huggingface.co"
    one_file = watcher.models["sam-vit-huge-original"]
    assert (one_file.size_gb, one_file.licence_page, one_file.source) == (2.6, "", "dl.fbaipublicfiles.com")
    assert watcher.models["tiny-xunet"].shipped
    assert watcher.models["tiny-xunet"].state == "present"
    assert len(watcher.models) == len(store.catalogue())


def test_from_a_licence_to_an_installed_model_and_away_again(watcher, hub, tmp_path):
    assert watcher.ask(InstallModel(name=NAME), "absent").code == "weights.licence"
    assert not hub.ranges, "nothing was fetched before the licence was accepted"
    assert watcher.ask(InstallModel(name=NAME, accept_licence=True), "present") is None
    progress = [m for m in watcher.seen if isinstance(m, ModelProgress)]
    assert {m.name for m in progress} == {NAME}
    stages = list(dict.fromkeys(m.stage for m in progress))
    assert stages == ["Looking Up Files", "Downloading", "Converting", "Finishing"]
    assert max(m.done for m in progress if m.stage == "Downloading") == len(hub.data)
    install.verify(store.find_entry(NAME))
    assert watcher.ask(RemoveModel(name=NAME), "absent") is None
    assert clean(tmp_path)


def test_it_goes_on_without_its_client_and_others_wait_until_it_is_cancelled(backend, watcher, hub, tmp_path):
    hub.open.clear()
    order = InstallModel(name=NAME, accept_licence=True)
    watcher.client.send(order)
    watcher.wait(lambda: watcher.progress and watcher.progress.stage == "Downloading")
    with backend.client() as other:
        later = Watcher(other)
        assert later.models[NAME].state == "working"
        assert (later.progress.stage, later.progress.total) == ("Downloading", len(hub.data))
        other.send(order)  # as a client that is not sure does
        other.send(InstallModel(name="zero123-xl"))
        later.wait(lambda: later.models["zero123-xl"].state == "waiting")
        other.send(RemoveModel(name=NAME))
        later.wait(lambda: isinstance(later.seen[-1], Failed))
        assert later.seen[-1].code == "weights.busy"
        other.send(CancelModel(name="zero123-xl"))
        later.wait(lambda: later.models["zero123-xl"].state == "absent")
        other.send(CancelModel(name=NAME))
        hub.open.set()  # a chunk is read to its end
        later.wait(lambda: later.models[NAME].state == "absent")
        assert later.models[NAME].failed is None
        assert later.progress is None
    assert clean(tmp_path)
    assert watcher.ask(order, "present") is None
    assert watcher.models["zero123-xl"].state == "absent", "what was cancelled does not begin later"


def test_failures_are_told_until_the_next_attempt(watcher, hub, checkpoint, tmp_path):
    hub.digest = "0" * 64
    order = InstallModel(name=NAME, accept_licence=True)
    failed = watcher.ask(order, "absent")
    assert failed.code == "weights.damaged"
    assert failed.sentence
    assert failed.hint
    assert watcher.ask(ImportModel(name=NAME, path=str(tmp_path / "no")), "absent").code == "weights.missing"
    crashed = watcher.ask(ImportModel(name=NAME, path=str(tmp_path / "crash")), "absent")
    assert crashed.code == "weights.crashed"
    assert watcher.ask(ImportModel(name=NAME, path=str(checkpoint)), "present") is None
    assert watcher.ask(RemoveModel(name="tiny-xunet"), "present", "tiny-xunet").code == "weights.shipped"
    watcher.client.send(InstallModel(name="zero124"))
    watcher.wait(lambda: isinstance(watcher.seen[-1], Failed))
    assert watcher.seen[-1].code == "weights.unknown"


def test_who_did_not_ask_is_told_nothing(backend, watcher):
    with backend.client() as other:
        other.connect()
        assert watcher.ask(RemoveModel(name=NAME), "absent") is None
        assert not [m for m, _ in other.wait(0.3) if isinstance(m, (ModelList, ModelProgress))]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_installer_ends_with_its_backend(backend, watcher, hub, tmp_path, how):
    hub.open.clear()
    watcher.client.send(InstallModel(name=NAME, accept_licence=True))
    watcher.wait(lambda: watcher.progress and watcher.progress.stage == "Downloading" and hub.ranges)
    threading.Timer(0.5, hub.open.set).start()
    getattr(backend, how)()

    def free():
        with contextlib.suppress(TurnaroundError):  # busy
            return install.remove(store.find_entry(NAME))

    assert until(free), "what was downloaded had been kept"
    assert clean(tmp_path)
    assert not list((tmp_path / "weights" / ".downloads").iterdir())


def test_an_installed_model_can_be_chosen_at_once(tmp_path, monkeypatch, checkpoint, hub):
    monkeypatch.setenv("TURNAROUND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    for path in store.stored_files(store.find_entry("zero123-xl")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("there")
    backend = Backend(tmp_path / "home")
    backend.start(json.dumps({"pipelines": "", "painters": ""}))
    try:
        with backend.client() as client:
            watcher = Watcher(client)

            def choices():
                pipelines = (watcher.welcome or client.welcome).pipelines
                (one2345,) = [pipeline for pipeline in pipelines if pipeline.name == "one2345"]
                return next(option.choices for option in one2345.options if option.name == "weights")

            assert "zero123-xl" not in choices()
            assert watcher.ask(ImportModel(name=NAME, path=str(checkpoint)), "present") is None
            watcher.wait(lambda: "zero123-xl" in choices())
            assert watcher.ask(RemoveModel(name=NAME), "absent") is None
            watcher.wait(lambda: "zero123-xl" not in choices())
    finally:
        backend.stop()


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("192.168.1.7", False), ("fe80::1%eth0", False)],
)
def test_paths_are_taken_from_this_machine_only(address, allowed):
    frame = SimpleNamespace(get=lambda name: {"Peer-Address": address}[name])
    with contextlib.nullcontext() if allowed else pytest.raises(TurnaroundError, match="computer where the backend"):
        _check_local(frame)
