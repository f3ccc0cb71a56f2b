"""The installed zip in a real bpy, with the real backend in its own process; each test of inside/ is one here."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import blender_runner
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INSIDE = sorted((HERE / "inside").glob("check_*.py"))
TESTS = [(script, name) for script in INSIDE for name in blender_runner.test_names(script)]


@pytest.fixture(scope="session")
def results(tmp_path_factory, addon_zip):
    """A file's results; the file runs once, when the first of them is asked for."""

    @cache
    def of(script):
        folder = tmp_path_factory.mktemp(script.stem)
        program = folder / "turnaround"  # as pip installs one, but that it also sees the plugin
        program.write_text(
            f"#!/bin/sh\nexport PYTHONPATH='{HERE / 'plugin'}:{ROOT}'\n"
            f"exec '{sys.executable}' -c 'from backend.cli import app; app()' \"$@\"\n"
        )
        program.chmod(0o755)
        told = {"BACKEND_PROGRAM": str(program), "EXAMPLES": str(ROOT / "examples")}
        told |= {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        return blender_runner.run(script, addon_zip, folder, seconds=600, **told)

    return of


@pytest.mark.blender
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("script", "name"), TESTS, ids=[f"{script.stem}-{name}" for script, name in TESTS])
def test_installed_addon(results, script, name):
    problem = results(script)[name]
    assert not problem, problem
