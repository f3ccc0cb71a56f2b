"""What tests of more than one room need."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(scope="session")
def addon_zip(tmp_path_factory):
    """The add-on's zip for this machine, built from the sources as they are."""
    import build_addon

    system = {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
    machine = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x64"
    return build_addon.build(f"{system}-{machine}", tmp_path_factory.mktemp("dist"))
