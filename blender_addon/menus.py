"""Entries in Blender's menus, which is also what F3 searches."""

from __future__ import annotations

import bpy

from .operators.generate import TURNAROUND_OT_generate, label


def _draw(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    menu.layout.separator()
    menu.layout.operator(TURNAROUND_OT_generate.bl_idname, text=label(context))


def register() -> None:
    """Adds Generate to the 3D View's Add menu and the Image Editor's Image menu."""
    bpy.types.VIEW3D_MT_add.append(_draw)
    bpy.types.IMAGE_MT_image.append(_draw)


def unregister() -> None:
    """Takes it away."""
    bpy.types.IMAGE_MT_image.remove(_draw)
    bpy.types.VIEW3D_MT_add.remove(_draw)
