"""What engines that take several pictures, or draw any view, add to the main panel."""

from __future__ import annotations

import math

import bpy

from ..jobs import picture_of
from ..protocol.messages import PipelineInfo
from . import widgets

THUMBNAIL_SCALE = 3.0
THUMBNAIL_SHARE = 0.3
"""Of the width; the rest is the picture's direction."""


def draw_pictures(
    layout: bpy.types.UILayout,
    context: bpy.types.Context,
    settings: bpy.types.PropertyGroup,
    engine: PipelineInfo | None,
) -> None:
    """The list of further pictures, each with its direction; a word on them where the engine takes none."""
    count = sum(further.picture is not None for further in settings.further)
    if engine is None or not engine.several_pictures:
        if engine is not None and count:
            text = f"{engine.label} takes one picture: the further ones are left out."
            widgets.wrapped(layout, context, text, icon="INFO")
        return
    header, body = layout.panel("turnaround_further", default_closed=not settings.further)
    header.label(text=f"Further Pictures: {count}" if count else "Further Pictures")
    if body is None:
        return
    for index, further in enumerate(settings.further):
        box = body.box()
        row = box.row(align=True)
        row.use_property_split = False
        row.template_ID(further, "picture", open="image.open")
        row.operator("turnaround.remove_picture", text="", icon="REMOVE").index = index
        row = box.row()
        row.use_property_split = False  # beside the thumbnail there is no room for names before the fields
        picture = further.picture
        if picture is not None and picture.preview is not None:
            row = row.split(factor=THUMBNAIL_SHARE)
            row.template_icon(icon_value=picture.preview.icon_id, scale=THUMBNAIL_SCALE)
        column = row.column(align=True)
        column.prop(further, "azimuth")
        column.prop(further, "same_elevation")
        if not further.same_elevation:
            column.prop(further, "elevation")
        for note in notes(context, index):
            widgets.wrapped(box, context, note, icon="INFO")
    body.operator("turnaround.add_picture", icon="ADD")


def notes(context: bpy.types.Context, index: int) -> list[str]:
    """What an artist may have overlooked about a further picture; nothing of it keeps her from going on."""
    places = context.scene.turnaround.further
    further = places[index]
    if further.picture is None:
        return []
    said = []
    problem = widgets.size_problem(further.picture)
    if problem is not None:
        said.append(problem.sentence)
    others = [place for place in places[:index] if place.picture is not None]
    if _direction(further) in [(0, None), *map(_direction, others)]:
        said.append("From the same direction as another picture: change its angle.")
    elif further.picture in [picture_of(context), *(other.picture for other in others)]:
        said.append("The same picture again: right only if the subject looks the same from there.")
    return said


def _direction(further: bpy.types.PropertyGroup) -> tuple[int, int | None]:
    """Azimuth and elevation in whole degrees; None is the first picture's elevation."""
    elevation = None if further.same_elevation else round(math.degrees(further.elevation))
    return round(math.degrees(further.azimuth)) % 360, elevation


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
