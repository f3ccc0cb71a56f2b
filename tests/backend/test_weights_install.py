from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_stable_diffusion
import torch
import weights_samples as samples
from filelock import FileLock

from backend.generators.text.stable_diffusion import painters
from backend.pipelines.stage import CancelledError
from backend.weights import download, install, store
from backend.weights.download import RemoteFile, fetch
from protocol.errors import TurnaroundError

MANIFEST = Path(__file__).parents[1] / "data" / "one2345_recon_checkpoint.json"


@dataclass
class Site:
    """A web server on this machine that can be told to behave badly."""

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off."""
    status: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    silent_after: int | None = None
    """Bytes of a body after which `wait` is called; -1 for before the answer."""
    wait: Callable[[], None] = lambda: None
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Path, Range and Authorization of each request."""
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            site.requests.append((self.path, asked, self.headers.get("Authorization")))
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.end_headers()
                return
            if self.path in site.status or self.path not in site.files:
                self.send_error(site.status.get(self.path, 404))
                return
            data = site.files[self.path]
            if site.silent_after == -1:
                site.wait()
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.ranges else 0
            if start >= len(data) and asked:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + site.breaks.pop(0) if site.breaks else len(data)
            with contextlib.suppress(ConnectionError):
                if site.silent_after is not None and site.silent_after >= 0:
                    self.wfile.write(data[start : site.silent_after])
                    start = max(start, site.silent_after)
                    site.wait()
                self.wfile.write(data[start:end])

        def log_message(self, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def get(file: RemoteFile, folder: Path, report: Any = lambda done, total: None) -> Path:
    return fetch(file, folder, report, insecure_host="127.0.0.1", pause=lambda seconds: None)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DATA = bytes(range(256)) * 20_000
"""5 MB, several chunks."""


# ------------------------------------------------------------------------------------------------------- one file


def test_a_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.files["/a.bin"] = DATA
    site.breaks = [2_000_000, 0, 1_500_000]
    seen: list[tuple[int, int]] = []
    file = RemoteFile("part/a.bin", f"{site.url}/a.bin", len(DATA), digest(DATA), token="secret")
    path = get(file, tmp_path, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "part" / "a.bin"
    assert path.read_bytes() == DATA
    starts = [int(asked[6:-1]) if asked else 0 for _, asked, _ in site.requests]
    assert starts == [0, 2_000_000, 2_000_000, 3_500_000]
    assert {authorization for *_, authorization in site.requests} == {"Bearer secret"}
    assert seen[-1] == (len(DATA), len(DATA))
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    get(file, tmp_path)
    assert len(site.requests) == 4, "what is there is not fetched again"


def test_a_server_without_ranges_sends_it_all_again(site: Site, tmp_path: Path) -> None:
    site.files["/a.bin"], site.ranges, site.breaks = DATA, False, [3_000_000]
    assert get(RemoteFile("a.bin", f"{site.url}/a.bin"), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "code"), [(401, "login"), (403, "login"), (404, "source"), (410, "source"), (400, "network")]
)
def test_refusals_in_words(site: Site, tmp_path: Path, status: int, code: str) -> None:
    site.status["/a.bin"] = status
    with pytest.raises(TurnaroundError) as failure:
        get(RemoteFile("a.bin", f"{site.url}/a.bin"), tmp_path)
    assert failure.value.code == f"weights.{code}"
    assert failure.value.hint
    assert len(site.requests) == 1


def test_a_server_in_trouble_is_asked_some_times(site: Site, tmp_path: Path) -> None:
    site.status["/a.bin"] = 503
    with pytest.raises(TurnaroundError) as failure:
        get(RemoteFile("a.bin", f"{site.url}/a.bin"), tmp_path)
    assert failure.value.code == "weights.network"
    assert len(site.requests) == download.ATTEMPTS
    with pytest.raises(TurnaroundError, match="cannot be reached"):
        get(RemoteFile("a.bin", "http://127.0.0.1:9/a.bin"), tmp_path)


@pytest.mark.parametrize("announced", [{"sha256": "0" * 64}, {"size": len(DATA) - 1}, {"size": len(DATA) + 1}])
def test_what_is_not_what_was_announced_is_thrown_away(site: Site, tmp_path: Path, announced: dict[str, Any]) -> None:
    site.files["/a.bin"] = DATA
    with pytest.raises(TurnaroundError) as failure:
        get(RemoteFile("a.bin", f"{site.url}/a.bin", **announced), tmp_path)
    assert failure.value.code == "weights.damaged"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../a.bin", "/a.bin", "a/../../b", "", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(site: Site, tmp_path: Path, name: str) -> None:
    with pytest.raises(TurnaroundError):
        get(RemoteFile(name, f"{site.url}/a.bin"), tmp_path)
    assert not site.requests


def test_only_https_and_no_token_for_others(site: Site, tmp_path: Path) -> None:
    with pytest.raises(TurnaroundError, match="https"):
        fetch(RemoteFile("a.bin", f"{site.url}/a.bin"), tmp_path, lambda done, total: None)
    assert not site.requests
    site.redirects["/a.bin"] = "http://localhost:1/a.bin"
    with pytest.raises(TurnaroundError, match="https"):
        get(RemoteFile("a.bin", f"{site.url}/a.bin"), tmp_path)
    site.redirects["/a.bin"] = f"{site.url}/b.bin"
    site.files["/b.bin"] = b"1234"
    get(RemoteFile("a.bin", f"{site.url}/a.bin", token="secret"), tmp_path)
    assert site.requests[-1] == ("/b.bin", None, None)


# ------------------------------------------------------------------------------------------------------ a checkpoint

SPARSENEUS = "one2345-sparseneus"
REMOTE = "SparseNeuS_demo_v1/exp/lod0/checkpoints/ckpt_215000.pth"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def hub(site: Site, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The hub with One-2-3-45's reconstructor on it: file name -> content, to be changed by the test."""
    import huggingface_hub

    samples.save_sparseneus(tmp_path / "ckpt.pth", json.loads(MANIFEST.read_text()))
    files = {REMOTE: (tmp_path / "ckpt.pth").read_bytes(), "README.md": b"hello"}

    def model_info(api: object, repository: str, *, files_metadata: bool, timeout: float) -> Any:
        assert files_metadata
        assert timeout
        site.files = {f"/{repository}/{name}": data for name, data in files.items()}
        siblings = [
            SimpleNamespace(rfilename=name, size=len(data), lfs=SimpleNamespace(sha256=digest(data)))
            for name, data in files.items()
        ]
        return SimpleNamespace(siblings=siblings, sha="abc")

    def url(repository: str, name: str, *, revision: str) -> str:
        assert revision == "abc"
        return f"{site.url}/{repository}/{name}"

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", url)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    local = functools.partial(fetch, insecure_host="127.0.0.1", pause=lambda seconds: None)
    monkeypatch.setattr(install, "fetch", local)
    return files


def nothing_installed(root: Path) -> bool:
    return not [path for path in root.glob("*") if not path.name.startswith(".")] and not [
        path for path in root.glob(".*") if path.is_dir() and path.name != ".downloads"
    ]


def test_installing_fetches_checks_converts_and_clears_up(hub: dict[str, bytes], site: Site, root: Path) -> None:
    entry = store.find_entry(SPARSENEUS)
    with pytest.raises(TurnaroundError) as failure:
        install.install(entry)
    assert failure.value.code == "weights.licence"
    assert "https://huggingface.co/One-2-3-45/code" in failure.value.hint
    assert not root.exists()
    assert not site.requests

    seen: list[install.InstallProgress] = []
    install.install(entry, accept_licence=True, progress=seen.append)
    install.verify(entry)
    assert store.is_present(entry)
    assert [path for path, *_ in site.requests] == [f"/One-2-3-45/code/{REMOTE}"], "and nothing else"
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["Looking Up Files", "Downloading", "Converting", "Finishing"]
    converting = [progress.fraction for progress in seen if progress.stage == "Converting"]
    assert converting == sorted(converting)
    assert converting[-1] == 1
    assert not (root / ".downloads" / SPARSENEUS).exists()
    install.install(entry, accept_licence=True)
    assert len(site.requests) == 1
    assert install.remove(entry)
    assert not store.is_present(entry)
    assert nothing_installed(root)
    assert not install.remove(entry)


@pytest.mark.parametrize("silent", ["hub", "connection", "body", "pause"])
def test_cancelling_does_not_wait_for_a_silent_server(
    hub: dict[str, bytes], site: Site, root: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    import huggingface_hub

    speak, asked = threading.Event(), threading.Event()

    def wait_long(*_: object, **__: object) -> None:
        asked.set()
        speak.wait(60)

    if silent == "hub":
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", wait_long)
    elif silent == "pause":
        site.breaks = [0]
        monkeypatch.setattr(install, "fetch", functools.partial(fetch, insecure_host="127.0.0.1", pause=wait_long))
    else:
        site.silent_after, site.wait = {"connection": -1, "body": 1000}[silent], wait_long
    start = time.monotonic()
    with pytest.raises(CancelledError):
        install.install(store.find_entry(SPARSENEUS), accept_licence=True, cancel=asked.is_set)
    assert time.monotonic() - start < 20
    assert nothing_installed(root)
    speak.set()


@pytest.mark.parametrize("stage", ["Looking Up Files", "Downloading", "Converting", "Finishing"])
def test_cancelling_leaves_nothing_but_the_download(hub: dict[str, bytes], site: Site, root: Path, stage: str) -> None:
    entry = store.find_entry(SPARSENEUS)
    stop = threading.Event()

    def progress(progress: install.InstallProgress) -> None:
        if progress.stage == stage:
            stop.set()

    with pytest.raises(CancelledError):
        install.install(entry, accept_licence=True, progress=progress, cancel=stop.is_set)
    assert nothing_installed(root)
    before = len(site.requests)
    install.install(entry, accept_licence=True)
    assert store.is_present(entry)
    if stage in ("Converting", "Finishing"):
        assert len(site.requests) == before, "it was fetched already"


def test_a_lost_connection_keeps_what_has_arrived(hub: dict[str, bytes], site: Site, root: Path) -> None:
    entry = store.find_entry(SPARSENEUS)
    site.breaks = [500_000] + [0] * download.ATTEMPTS
    with pytest.raises(TurnaroundError) as failure:
        install.install(entry, accept_licence=True)
    assert failure.value.code == "weights.network"
    assert nothing_installed(root)
    site.breaks = []
    install.install(entry, accept_licence=True)
    assert site.requests[-1][1] == "bytes=500000-"
    assert store.is_present(entry)


def test_a_checkpoint_of_another_model_is_not_kept(hub: dict[str, bytes], root: Path, tmp_path: Path) -> None:
    entry = store.find_entry(SPARSENEUS)
    torch.save({"pyramid_feature_network": {"conv.weight": torch.ones(2)}}, tmp_path / "other.pth")
    good, hub[REMOTE] = hub[REMOTE], (tmp_path / "other.pth").read_bytes()
    with pytest.raises(TurnaroundError) as failure:
        install.install(entry, accept_licence=True)
    assert failure.value.code == "weights.mismatch"
    assert "missing: pyramid_feature_network.conv0.0.conv.weight" in failure.value.details
    assert nothing_installed(root)
    assert not list((root / ".downloads").iterdir())
    hub[REMOTE] = good
    install.install(entry, accept_licence=True)
    assert store.is_present(entry)


def test_a_file_that_is_gone_and_a_hub_that_is_away(hub: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    del hub[REMOTE]
    with pytest.raises(TurnaroundError) as failure:
        install.install(store.find_entry(SPARSENEUS), accept_licence=True)
    assert failure.value.code == "weights.source"

    class ProxyError(Exception): ...

    errors = (
        OfflineModeIsEnabled("offline"),
        ConnectionResetError("gone"),
        ProxyError("407"),  # no error of Python's own
        json.JSONDecodeError("a captive portal's page", "<html>", 0),
        ImportError("a package for this kind of proxy"),
    )
    for error in errors:

        def away(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", away)
        with pytest.raises(TurnaroundError) as failure:
            install.install(store.find_entry(SPARSENEUS), accept_licence=True)
        assert failure.value.code == "weights.network"
        assert repr(error) in failure.value.details
    with pytest.raises(TurnaroundError) as failure:
        install.install(store.find_entry("xunet-srn64"), accept_licence=True)
    assert failure.value.code == "weights.unpublished"


@pytest.mark.parametrize("share", [0.0, 0.9, 1.2])
def test_a_disk_that_is_too_full_is_told_before_anything_is_fetched(
    hub: dict[str, bytes], site: Site, root: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    free = int(share * len(hub[REMOTE]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(TurnaroundError) as failure:
        install.install(store.find_entry(SPARSENEUS), accept_licence=True)
    assert failure.value.code == "weights.no_space"
    assert nothing_installed(root)
    assert not site.requests


def test_a_disk_that_is_full_while_writing(
    root: Path, hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store.find_entry(SPARSENEUS)
    opened = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, data: Any) -> None:
            if self.file.tell() > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.write(data)

    def open_full(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        file = opened(path, mode, *arguments, **more)
        return Full(file) if mode == "xb" else file

    with monkeypatch.context() as full:
        full.setattr(Path, "open", open_full)
        with pytest.raises(TurnaroundError) as failure:
            install.import_from(entry, tmp_path / "ckpt.pth")
        assert failure.value.code == "weights.no_space"
    assert nothing_installed(root)


def test_one_at_a_time_and_leftovers_are_cleared(hub: dict[str, bytes], root: Path, tmp_path: Path) -> None:
    entry = store.find_entry(SPARSENEUS)
    left, anothers, working, foreign = (
        root / name for name in (f".{SPARSENEUS}.abcdef", ".lgm.abcdef", ".xunet-srn64.abcdef", ".config.abcdef")
    )
    for folder in (left, anothers, working, foreign):
        (folder / "new").mkdir(parents=True)
    codes: list[str] = []

    def progress(progress: install.InstallProgress) -> None:
        if progress.stage == "Converting" and not codes:
            with pytest.raises(TurnaroundError) as failure:
                install.import_from(entry, tmp_path / "ckpt.pth")
            codes.append(failure.value.code)

    with FileLock(root / ".xunet-srn64.lock"):
        install.install(entry, accept_licence=True, progress=progress)
    assert codes == ["weights.busy"]
    assert [folder.exists() for folder in (left, anothers, working, foreign)] == [False, False, True, True]
    assert store.is_present(entry)


class Killed(BaseException):
    """Nothing after it is done."""


@pytest.mark.parametrize("killed", [False, True])
def test_weights_that_cannot_be_replaced_stay(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    samples.save_sparseneus(tmp_path / "ckpt.pth", json.loads(MANIFEST.read_text()))
    entry = store.find_entry(SPARSENEUS)
    install.import_from(entry, tmp_path / "ckpt.pth")
    (root / SPARSENEUS / "mine").touch()
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise Killed if killed else PermissionError(errno.EACCES, "a file in it is open", str(path))
        return replace(path, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", fail)
        if killed:
            broken.setattr(install, "_clear", lambda staging, target: None)
        with pytest.raises(Killed if killed else TurnaroundError):
            install.import_from(entry, tmp_path / "ckpt.pth")
    assert store.is_present(entry) != killed
    with pytest.raises(TurnaroundError, match="nothing at"):  # whatever is begun next, it clears up
        install.import_from(store.find_entry("lgm"), tmp_path / "none")
    torch.save({}, tmp_path / "none")
    with pytest.raises(TurnaroundError):
        install.import_from(store.find_entry("lgm"), tmp_path / "none")
    assert (root / SPARSENEUS / "mine").exists()
    install.verify(entry)
    assert [path.name for path in root.glob("*") if path.is_dir()] == [SPARSENEUS]


def unreadable(path: Path, monkeypatch: pytest.MonkeyPatch, *calls: str) -> None:
    """Has the system refuse a path, which it does not do for its administrator."""

    def refusing(call: Any) -> Any:
        def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
            if self == path:
                raise PermissionError(errno.EACCES, "refused", str(self))
            return call(self, *arguments, **more)

        return refuse

    for name in calls:
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))


@pytest.mark.parametrize(
    ("spoil", "codes"),
    [
        (lambda path: (path.unlink(), path.mkdir()), {"weights.missing", "weights.unreadable"}),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), {"weights.missing"}),
        (lambda path: None, {"weights.unreadable"}),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, codes: set[str]
) -> None:
    path = tmp_path / "published" / "ckpt_215000.pth"
    path.parent.mkdir()
    path.write_bytes(b"1")
    spoil(path)
    if path.is_file():
        unreadable(path, monkeypatch, "open")
    with pytest.raises(TurnaroundError, match=r"ckpt_215000\.pth") as failure:
        install.import_from(store.find_entry(SPARSENEUS), path.parent)
    assert failure.value.code in codes
    assert nothing_installed(root)


@pytest.mark.parametrize("gone", ["scheduler", "tokenizer"])
def test_a_part_of_a_folder_that_is_not_there_is_named(root: Path, tmp_path: Path, gone: str) -> None:
    tiny_stable_diffusion.save(tmp_path / "published")
    shutil.rmtree(tmp_path / "published" / gone)
    with pytest.raises(TurnaroundError, match=gone) as failure:
        install.import_from(store.find_entry("sd-turbo"), tmp_path / "published")
    assert failure.value.code in ("weights.missing", "weights.damaged")
    assert nothing_installed(root)


def test_weights_that_cannot_be_read_stop_nothing_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.save_sparseneus(tmp_path / "ckpt.pth", json.loads(MANIFEST.read_text()))
    entry = store.find_entry(SPARSENEUS)
    install.import_from(entry, tmp_path / "ckpt.pth")
    with monkeypatch.context() as refused:
        unreadable(store.stored_files(entry)[0], refused, "stat")
        assert not store.is_present(entry)
        with pytest.raises(TurnaroundError, match=r"sparseneus\.safetensors cannot be read") as failure:
            install.verify(entry)
        assert failure.value.code == "weights.unreadable"
        unreadable(root, refused, "iterdir")
        assert painters().keys() == {e.name for e in store.catalogue() if e.pipeline == "text-to-image"}
    assert store.is_present(entry)


def test_what_is_missing_is_told_by_its_path(root: Path) -> None:
    entry = store.find_entry("zero123-xl")
    with pytest.raises(TurnaroundError, match="is not installed"):
        install.verify(entry)
    path, *_ = store.stored_files(entry)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    with pytest.raises(TurnaroundError, match=r"without unet/diff.*, vae/config\.json, vae/.* and 5 more\."):
        install.verify(entry)


def test_a_converter_that_leaves_something_out_installs_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.save_sparseneus(tmp_path / "ckpt.pth", json.loads(MANIFEST.read_text()))
    monkeypatch.setitem(store.STORED, "sparseneus", ("sparseneus.safetensors", "more.json"))
    with pytest.raises(TurnaroundError, match=r"more\.json") as failure:
        install.import_from(store.find_entry(SPARSENEUS), tmp_path / "ckpt.pth")
    assert failure.value.code == "weights.damaged"
    assert nothing_installed(root)


def test_verify_finds_what_has_changed(root: Path, tmp_path: Path) -> None:
    samples.save_sparseneus(tmp_path / "ckpt.pth", json.loads(MANIFEST.read_text()))
    entry = store.find_entry(SPARSENEUS)
    with pytest.raises(TurnaroundError, match="not installed"):
        install.verify(entry)
    install.import_from(entry, tmp_path / "ckpt.pth")
    (path,) = store.stored_files(entry)
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(TurnaroundError, match=r"sparseneus\.safetensors") as failure:
        install.verify(entry)
    assert failure.value.code == "weights.damaged"
    (path.parent / install.RECORD).unlink()
    install.verify(entry)  # without digests the structure is all there is, and one bit of a number is still a number

    state = {"a": torch.ones(3)}
    store.save_weights(path, state, {})
    with pytest.raises(TurnaroundError) as failure:
        install.verify(entry)
    assert failure.value.code == "weights.mismatch"
    assert "unexpected: a" in failure.value.details
    for shipped in (entry for entry in store.catalogue() if entry.shipped):
        install.verify(shipped)
        for refused in (lambda e: install.import_from(e, tmp_path), install.remove):
            with pytest.raises(TurnaroundError) as failure:
                refused(shipped)
            assert failure.value.code == "weights.shipped"


def test_a_known_digest_is_compared_on_import(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_h_4b8939.pth"
    torch.save({}, path)
    with pytest.raises(TurnaroundError) as failure:
        install.import_from(store.find_entry("sam-vit-huge-original"), path)
    assert failure.value.code == "weights.damaged"
    assert "sha256" in failure.value.details
