"""What a timer must ask of Blender's windows: to draw again, to show colours, and to end a step of undo."""

from __future__ import annotations

import bpy

TAB = "Turnaround"
"""The sidebar's tab that all panels are in."""
LAYOUT_SECONDS = 0.1
"""After which a new window has been drawn once."""


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


def redraw_pictures() -> None:
    """Has every Image Editor drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "IMAGE_EDITOR":
                area.tag_redraw()


def show_picture(context: bpy.types.Context, image: bpy.types.Image) -> bpy.types.Area:
    """Shows an image in the Image Editor at hand, else in one that is open, else in a new window."""
    here = [context.area] if context.area is not None else []
    area = next((area for area in [*here, *context.screen.areas] if area.type == "IMAGE_EDITOR"), None)
    if area is None:
        bpy.ops.wm.window_new()
        area = context.window_manager.windows[-1].screen.areas[0]
        area.type = "IMAGE_EDITOR"
    area.spaces.active.image = image
    return area


def fit(area: bpy.types.Area) -> None:
    """Has an Image Editor show its picture as large as there is room for, as soon as it has been laid out."""
    pointer = area.as_pointer()

    def enlarge() -> None:
        for window in bpy.context.window_manager.windows:
            for there in window.screen.areas:  # it may be closed by now
                if there.as_pointer() == pointer and there.type == "IMAGE_EDITOR":
                    region = next(region for region in there.regions if region.type == "WINDOW")
                    with bpy.context.temp_override(window=window, area=there, region=region):
                        bpy.ops.image.view_all(fit_view=True)

    bpy.app.timers.register(enlarge, first_interval=LAYOUT_SECONDS)


def show_in_open_editor(image: bpy.types.Image) -> None:
    """Shows an image in an Image Editor that shows no picture to work from, if one is open; what is edited stays."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            space = area.spaces.active
            if area.type == "IMAGE_EDITOR" and space.mode == "VIEW":
                space.image = image
                return


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
