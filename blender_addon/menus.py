"""Entries in Blender's menus, which is also what F3 searches."""

from __future__ import annotations

import bpy

from .operators.generate import TURNAROUND_OT_generate, label
from .operators.views import TURNAROUND_OT_look_from_here


def _draw(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    menu.layout.separator()
    menu.layout.operator(TURNAROUND_OT_generate.bl_idname, text=label(context))


def _draw_look(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    menu.layout.separator()
    menu.layout.operator(TURNAROUND_OT_look_from_here.bl_idname)


def register() -> None:
    """Adds Generate to the 3D View's Add menu and the Image Editor's Image menu, and Look from Here to View."""
    bpy.types.VIEW3D_MT_add.append(_draw)
    bpy.types.IMAGE_MT_image.append(_draw)
    bpy.types.VIEW3D_MT_view.append(_draw_look)


def unregister() -> None:
    """Takes them away."""
    bpy.types.VIEW3D_MT_view.remove(_draw_look)
    bpy.types.IMAGE_MT_image.remove(_draw)
    bpy.types.VIEW3D_MT_add.remove(_draw)
