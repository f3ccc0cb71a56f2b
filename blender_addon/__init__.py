"""Turnaround: one picture to a coloured 3D mesh, made by a backend outside of Blender.

The parts are registered in order and undone in reverse; each is a module with `register` and `unregister`.
"""

from __future__ import annotations

from . import menus, operators, overlay, preferences, properties, session
from .panels import registration as panels
from .scene import thumbnails

PARTS = (thumbnails, properties, preferences, session, operators, panels, menus, overlay)


def register() -> None:
    """Turns the add-on on; if a part fails, those before it are undone, so that nothing stays half on."""
    done = []
    try:
        for part in PARTS:
            part.register()
            done.append(part)
    except Exception:
        for part in reversed(done):
            part.unregister()
        raise


def unregister() -> None:
    """Turns the add-on off."""
    for part in reversed(PARTS):
        part.unregister()
