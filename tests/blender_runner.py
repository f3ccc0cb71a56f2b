"""Runs test files inside a real bpy, on the installed zip.

bpy has an environment of its own without torch, as an artist has it: `.venv-bpy-5.0.1`, made when it is missing, or
the Python that the environment variable TURNAROUND_BPY_PYTHON names (for other versions of Blender). As a script,
this file is what runs there: it installs the zip into a throw-away profile, calls every `test_*` function of a file
in order, and prints one line of JSON each. bpy may crash while it exits, so those lines are what counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-bpy-5.0.1"
PACKAGES = ("bpy==5.0.1", "numpy<2")
MARK = "@@result "
PACKAGE = "bl_ext.user_default.turnaround"


# ------------------------------------------------------------------------------------------------ outside of Blender


def bpy_python() -> Path:
    """The Python to run bpy with; makes its environment at first use."""
    if os.environ.get("TURNAROUND_BPY_PYTHON"):
        return Path(os.environ["TURNAROUND_BPY_PYTHON"])
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (ENVIRONMENT / "ready").touch()
    return python


def test_names(script: Path) -> list[str]:
    """The test functions of a file that runs inside Blender, in order; it cannot be imported out here."""
    return re.findall(r"^def (test_\w+)\(", script.read_text(encoding="utf-8"), re.MULTILINE)


def output_of(script: Path, addon: Path, folder: Path, *, seconds: int = 240, **environment: str) -> str:
    """What a file says that runs inside Blender; its last words too if it does not end by itself."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TURNAROUND_"))}
    clean |= {"BLENDER_USER_RESOURCES": str(folder / "profile"), "TURNAROUND_HOME": str(folder / "home")}
    command = [str(bpy_python()), "-I", str(Path(__file__).resolve()), str(script), str(addon)]
    with (folder / "output.txt").open("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(command, env=clean | environment, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        try:
            ending = f"exit code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ending = f"no end after {seconds} s"
        said.seek(0)
        return f"{said.read()}\n{ending}"


def run(script: Path, addon: Path, folder: Path, *, seconds: int = 240, **environment: str) -> dict[str, str]:
    """Runs a file's tests inside Blender: name -> "" if it passed, else the reason."""
    output = output_of(script, addon, folder, seconds=seconds, **environment)
    said = dict(json.loads(line.removeprefix(MARK)) for line in output.splitlines() if line.startswith(MARK))
    return {name: said.get(name, f"did not run: {output[-4000:]}") for name in test_names(script)}


def backend_program(folder: Path) -> dict[str, str]:
    """Environment for Blender with a `turnaround` program as pip would install it, but that it sees a plugin too."""
    program = folder / "turnaround"
    plugin = ROOT / "tests" / "end_to_end" / "plugin"
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH='{plugin}:{ROOT}'\n"
        f"exec '{sys.executable}' -c 'from backend.cli import app; app()' \"$@\"\n"
    )
    program.chmod(0o755)
    told = {"BACKEND_PROGRAM": str(program), "BACKEND_PYTHON": sys.executable, "EXAMPLES": str(ROOT / "examples")}
    return told | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


# ------------------------------------------------------------------------------------------------- inside of Blender


def _install(addon: str) -> None:
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(filepath=addon, repo="user_default", enable_on_install=True)
    assert PACKAGE in bpy.context.preferences.addons, "the add-on is not enabled after its installation"


def _main() -> None:
    script, addon = sys.argv[1:]
    sys.path[:] = [entry for entry in sys.path if not entry or not Path(entry).resolve().is_relative_to(ROOT / "tests")]
    _install(addon)
    spec = importlib.util.spec_from_file_location("inside", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in test_names(Path(script)):
        start = time.perf_counter()
        try:
            getattr(module, name)()
            problem = ""
        except Exception:
            problem = traceback.format_exc()
        print(f"{name}: {time.perf_counter() - start:.2f} s")
        print(MARK + json.dumps([name, problem]), flush=True)
    os._exit(0)  # everything is said; what bpy does at its end is not ours


if __name__ == "__main__":
    _main()
