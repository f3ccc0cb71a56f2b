"""What can be pressed. Operators are thin: they read the context and call the session or the scene."""

from __future__ import annotations

import bpy

from . import backend, generate, models, result, setup, subject, views

CLASSES = tuple(cls for part in (generate, subject, views, result, backend, setup, models) for cls in part.CLASSES)


def register() -> None:
    """Adds the operators."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Takes them away."""
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
