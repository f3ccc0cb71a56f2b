"""What engines that take several pictures, or draw any view, add to the main panel."""

from __future__ import annotations

import bpy

from ..protocol.messages import PipelineInfo


def draw_pictures(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup, engine: PipelineInfo | None) -> None:
    """The list of further pictures, each with its direction."""
    if engine is None or not engine.several_pictures:
        return
    header, body = layout.panel("turnaround_further", default_closed=not settings.further)
    header.label(text="Further Pictures")
    if body is None:
        return
    for index, further in enumerate(settings.further):
        box = body.box()
        row = box.row(align=True)
        row.use_property_split = False
        row.template_ID(further, "picture", open="image.open")
        row.operator("turnaround.remove_picture", text="", icon="REMOVE").index = index
        column = box.column(align=True)
        column.prop(further, "azimuth")
        column.prop(further, "same_elevation")
        if not further.same_elevation:
            column.prop(further, "elevation")
    body.operator("turnaround.add_picture", icon="ADD")


def draw_look(layout: bpy.types.UILayout, context: bpy.types.Context, engine: PipelineInfo | None) -> None:
    """The button that draws a view from here, and below it the latest."""
    if engine is None or not engine.novel_views or context.area.type != "VIEW_3D":
        return
    layout.operator("turnaround.look_from_here", icon="HIDE_OFF")
    looked = context.scene.turnaround.looked
    if looked is not None:
        column = layout.column(align=True)
        column.template_icon(icon_value=looked.preview.icon_id if looked.preview is not None else 0, scale=5.0)
        column.operator("turnaround.open_look", text=looked.name, icon="IMAGE_DATA")
