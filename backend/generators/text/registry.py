"""Where painters are found.

Ours are the Stable Diffusion checkpoints in the weights folder: those that the catalogue names, and any other folder
there in diffusers' layout. The entry-point group `turnaround.painters` adds those of other packages.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from backend.generators.text import stable_diffusion
from backend.generators.text.base import Painter

GROUP = "turnaround.painters"


def painters() -> dict[str, Painter]:
    """All painters by name, those of the catalogue whether or not they are installed.

    One that fails to import is left out, so that it cannot take ours with it.
    """
    found: dict[str, Painter] = dict(stable_diffusion.painters())
    for entry in entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()
        except Exception:  # somebody else's package
            continue
    return found
