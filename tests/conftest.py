"""What tests of more than one room need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(scope="session")
def addon_zip(tmp_path_factory):
    """The add-on's zip for this machine, built from the sources as they are."""
    import build_addon

    return build_addon.build(build_addon.this_platform(), tmp_path_factory.mktemp("dist"))


@pytest.fixture
def precision_anew() -> Iterator[None]:
    """For runs of another precision: a process has one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
