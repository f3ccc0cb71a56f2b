"""The installed zip in a real bpy, with the real backend in its own process; each test of inside/ is one here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import blender_runner
import pytest

INSIDE = sorted((Path(__file__).parent / "inside").glob("check_*.py"))
TESTS = [(script, name) for script in INSIDE for name in blender_runner.test_names(script)]


@pytest.fixture(scope="session")
def results(tmp_path_factory, addon_zip):
    """A file's results; the file runs once, when the first of them is asked for."""

    @cache
    def of(script):
        folder = tmp_path_factory.mktemp(script.stem)
        told = blender_runner.backend_program(folder)
        return blender_runner.run(script, addon_zip, folder, seconds=600, **told)

    return of


@pytest.mark.blender
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("script", "name"), TESTS, ids=[f"{script.stem}-{name}" for script, name in TESTS])
def test_installed_addon(results, script, name):
    problem = results(script)[name]
    assert not problem, problem
