"""Small things that several panels draw."""

from __future__ import annotations

import textwrap

import bpy

from .. import problems
from ..protocol.errors import TurnaroundError
from ..scene import images

CHARACTER_WIDTH = 6.4
"""About the width of a character in Blender's interface font, in pixels at scale 1."""
PADDING_CHARACTERS = 4
"""What a button needs beside its word, in characters."""

DISMISS_WIDTH = 36.0
"""What the cross beside a problem and the box around it take, in pixels at scale 1."""


def wrapped(
    layout: bpy.types.UILayout, context: bpy.types.Context, text: str, *, icon: str = "NONE", margin: float = 0.0
) -> None:
    """Text in as many labels as the region's width needs; Blender's labels do not wrap.

    Args:
        layout: what it is drawn in.
        context: tells the width.
        text: in one line or several.
        icon: before the first line.
        margin: what else takes of the width, in pixels at scale 1.
    """
    region = context.region
    scale = context.preferences.system.ui_scale
    width = (region.width if region else 300) / scale - (70 if icon != "NONE" else 50) - margin
    column = layout.column(align=True)
    column.scale_y = 0.8
    for number, line in enumerate(textwrap.wrap(text, max(16, int(width / CHARACTER_WIDTH)))):
        row = column.row(align=True)
        if icon != "NONE":
            row.label(text=line, icon=icon if number == 0 else "BLANK1")
        else:
            row.label(text=line)


def choices(layout: bpy.types.UILayout, owner: bpy.types.PropertyGroup, name: str) -> None:
    """An enum's name, and below it a row of buttons over the whole width, each as wide as its word needs."""
    column = layout.column(align=True)
    column.label(text=owner.bl_rna.properties[name].name)
    rest = column.row(align=True)
    rest.use_property_split = False
    items = owner.bl_rna.properties[name].enum_items
    widths = [len(item.name) + PADDING_CHARACTERS for item in items]
    for number, item in enumerate(items):
        part = rest.split(factor=widths[number] / sum(widths[number:]), align=True) if number < len(items) - 1 else rest
        part.prop_enum(owner, name, item.identifier)
        rest = part


def problem(layout: bpy.types.UILayout, context: bpy.types.Context, error: TurnaroundError) -> None:
    """A failure: its sentence, what to do, the button that does it if there is one, and its details to copy."""
    box = layout.box()
    row = box.row()
    sentence = row.column()
    sentence.alert = True
    wrapped(sentence, context, error.sentence, icon="ERROR", margin=DISMISS_WIDTH)
    row.operator("turnaround.dismiss_problem", text="", icon="X", emboss=False)
    if error.hint:
        wrapped(box, context, error.hint)
    buttons = box.row()
    remedy = problems.remedy(error.code)
    there_already = context.area.type == "PREFERENCES" and remedy in problems.SHOWN_IN_PREFERENCES
    if remedy is not None and not there_already:
        buttons.operator(remedy.operator, text=remedy.label)
    buttons.operator("turnaround.copy_details")


def size_problem(picture: bpy.types.Image) -> TurnaroundError | None:
    """What is wrong with a picture's size, for pictures that are loaded; drawing must not load a file."""
    try:
        if picture.has_data:
            images.check_size(*picture.size)
    except TurnaroundError as error:
        return error
    return None


def gigabytes(number: int) -> str:
    """Bytes as GB with one decimal below ten."""
    value = number / 1e9
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
