"""Measures the installed add-on inside Blender and prints one line of JSON a measurement."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

MARK = "@@measured "


def main() -> None:
    """Builds, installs and measures."""
    import blender_runner

    import build_addon

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        addon = build_addon.build(build_addon.this_platform(), folder)
        script = Path(__file__).parent / "inside" / "measure_speed.py"
        said = blender_runner.output_of(script, addon, folder, **blender_runner.backend_program(folder))
    measured = [line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)]
    print("\n".join(measured) or said[-4000:])


if __name__ == "__main__":
    main()
