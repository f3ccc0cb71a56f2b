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
        row.operator("turnaround.remove_picture", text="", icon="X").index = index
        column = box.column(align=True)
        column.prop(further, "azimuth")
        column.prop(further, "same_elevation")
        if not further.same_elevation:
            column.prop(further, "elevation")
    body.operator("turnaround.add_picture", icon="ADD")


def draw_look(layout: bpy.types.UILayout, context: bpy.types.Context, engine: PipelineInfo | None) -> None:
    """The button that draws a view from here."""
    if engine is not None and engine.novel_views and context.area.type == "VIEW_3D":
        layout.operator("turnaround.look_from_here", icon="HIDE_OFF")
