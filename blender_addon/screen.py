"""What a timer must ask of Blender's windows: to draw again, to show colours, and to end a step of undo."""

from __future__ import annotations

import bpy


def redraw() -> None:
    """Has every place drawn again in which the add-on shows something."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
            elif area.type in {"VIEW_3D", "IMAGE_EDITOR"}:
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def show_colors() -> None:
    """Has Solid views show colour attributes, where they are left at Blender's default of one colour a material."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                shading = area.spaces.active.shading
                if shading.type == "SOLID" and shading.color_type == "MATERIAL":
                    shading.color_type = "VERTEX"


def push_undo(message: str) -> None:
    """Ends one step of the undo history; a timer has no window of its own to do it in."""
    windows = bpy.context.window_manager.windows
    if windows:
        with bpy.context.temp_override(window=windows[0]):
            bpy.ops.ed.undo_push(message=message)
    else:
        bpy.ops.ed.undo_push(message=message)
