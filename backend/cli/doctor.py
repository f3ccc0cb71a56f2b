"""`turnaround doctor`: all that a bug report needs, and nothing that is private."""

from __future__ import annotations

import os
import platform
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from .console import Verbose

PACKAGES = (
    "turnaround",
    "torch",
    "numpy",
    "scipy",
    "diffusers",
    "transformers",
    "safetensors",
    "opencv-python-headless",
    "PyMCubes",
    "trimesh",
    "fast-simplification",
    "pyzmq",
    "msgspec",
    "typer",
    "rich",
    "gsplat",
    "accelerate",
    "numba",
    "scikit-image",
)

Section = tuple[str, Callable[[], Iterator[str]]]


def doctor(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report to this file.")] = None,
    verbose: Verbose = False,
) -> None:
    """Check this installation and print a report that can be copied into a bug report."""
    report = masked("\n".join(lines()))
    typer.echo(report)
    if output is not None:
        from backend.geometry.export import write_file

        write_file(output, f"{report}\n".encode())


def lines() -> Iterator[str]:
    """The report, before anything is masked; a section that fails says so and the others go on."""
    sections: list[Section] = [
        ("Versions", _versions),
        ("Devices", _devices),
        ("Engines", _engines),
        ("Painters", _painters),
        ("Weights", _weights),
        ("Keys", _keys),
        ("Backend", _backend),
        ("Settings", _settings),
    ]
    for title, section in sections:
        yield title
        try:
            yield from (f"  {line}" for line in section())
        except Exception as error:  # a doctor must not die of what it finds
            yield f"  could not be checked: {type(error).__name__}: {error}"


def masked(text: str) -> str:
    """The text without private paths: the home folder becomes ~, of other absolute paths only the last part stays."""
    home = str(Path.home())
    if home not in ("/", ""):
        text = re.sub(re.escape(home) + r"(?=[\\/\s'\":,;)]|$)", "~", text)
    return re.sub(r"(?<![\w.~/\\:-])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:'\"<>|]+)+[\\/](?=[^\s\\/])", "…/", text)


def _versions() -> Iterator[str]:
    from protocol.messages import PROTOCOL_VERSION

    yield f"Python {platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    yield f"protocol {PROTOCOL_VERSION}"
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} is not installed"


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu: {os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory
        yield f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory / 2**30:.1f} GB"
    if not torch.cuda.is_available():
        yield f"no CUDA device (torch built for CUDA {torch.version.cuda or 'none'})"


def _engines() -> Iterator[str]:
    from backend.pipelines import registry

    for name, pipeline in sorted(registry.pipelines().items()):
        info = pipeline.info()
        yield f"{name}: {info.label}, {'ready' if info.ready else f'not ready: {info.hint}'}"
    for name, error in sorted(registry.broken().items()):
        yield f"{name}: FAILED to load: {error}"


def _painters() -> Iterator[str]:
    from backend.generators.text.registry import GROUP, painters
    from backend.pipelines.registry import broken

    ready = [info for painter in painters().values() if (info := painter.info()).ready]
    for info in ready:
        yield f"{info.name}: {info.label}, ready"
    for name, error in sorted(broken(GROUP).items()):
        yield f"{name}: FAILED to load: {error}"
    if not ready:
        yield "none is installed"


def _weights() -> Iterator[str]:
    from backend.weights.store import catalogue, is_present, tiny_path, weights_digest, weights_folder

    for entry in catalogue():
        if is_present(entry):
            digests = ""
            if entry.shipped:
                digests = " " + " ".join(weights_digest(tiny_path(Path(f).stem))[:12] for f in entry.files)
            yield f"{entry.name}: present{digests}"
        else:
            yield f"{entry.name}: not here{' (IT SHOULD SHIP)' if entry.shipped else ''}"
    some = next((entry for entry in catalogue() if not entry.shipped), None)
    if some is not None:
        yield f"others are looked for in {weights_folder(some).parent}"


def _keys() -> Iterator[str]:
    from protocol.security import client_key_path, home

    for name, path in (("server", home() / "server.key"), ("client", client_key_path("local"))):
        if not path.is_file():
            yield f"{name} key: none yet, made at first use"
        elif sys.platform != "win32" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"{name} key: READABLE BY OTHERS, delete {path} and start the backend again"
        else:
            yield f"{name} key: present, private"


def _backend() -> Iterator[str]:
    from protocol.connection import DEFAULT_PORT, find

    found = find()
    if found is not None:
        answers = "answers" if _listens(found.port) else "does NOT answer"
        yield f"version {found.version}, protocol {found.protocol}, runs and {answers} on port {found.port}"
        return
    yield "none runs"
    if _listens(DEFAULT_PORT):
        yield f"port {DEFAULT_PORT} is TAKEN by another program"
    else:
        yield f"port {DEFAULT_PORT} is free"


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _settings() -> Iterator[str]:
    names = sorted(name for name in os.environ if name.startswith("TURNAROUND_"))
    yield f"environment: {', '.join(names) or 'nothing set'}"
