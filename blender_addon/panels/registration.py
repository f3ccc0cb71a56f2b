"""Every panel in both places: the 3D View's sidebar and the Image Editor's."""

from __future__ import annotations

import bpy

from ..screen import TAB
from .backend import Backend
from .generate import Generate, Options
from .result import Result, Views
from .subject import Subject

SPACES = {"VIEW_3D": "view3d", "IMAGE_EDITOR": "image"}


def _classes() -> list[type]:
    """Panel classes in their order from top to bottom; the first of a space is the parent of the others."""
    classes: list[type] = []
    for space, suffix in SPACES.items():
        parent = f"TURNAROUND_PT_generate_{suffix}"
        for section in (Generate, Subject, Options, Result, Views, Backend):
            name = f"TURNAROUND_PT_{section.__name__.lower()}_{suffix}"
            place = {"bl_space_type": space, "bl_region_type": "UI", "bl_category": TAB, "bl_idname": name}
            if section is not Generate:
                place["bl_parent_id"] = parent
            classes.append(type(name, (section, bpy.types.Panel), place))
    return classes


CLASSES = _classes()


def register() -> None:
    """Adds the panels."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Takes them away."""
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
