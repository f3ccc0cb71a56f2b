"""Runs the files of inside/ in a real bpy on the installed zip; each of their tests is one here."""

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
        return blender_runner.run(script, addon_zip, tmp_path_factory.mktemp(script.stem))

    return of


@pytest.mark.blender
@pytest.mark.parametrize(("script", "name"), TESTS, ids=[f"{script.stem}-{name}" for script, name in TESTS])
def test_inside_blender(results, script, name):
    problem = results(script)[name]
    assert not problem, problem
