"""The weights on the backend's computer: folded away until the artist wants them."""

from __future__ import annotations

import bpy

from .. import models, session
from ..protocol.models import ModelInfo
from . import widgets

BUTTONS = 0.35
"""Part of the width that is left for buttons and progress."""


def draw(layout: bpy.types.UILayout, context: bpy.types.Context, preferences: bpy.types.AddonPreferences) -> None:
    """The heading, and under it what can be installed, if it is unfolded."""
    column = layout.column()
    column.use_property_split = False
    heading = column.row()
    heading.alignment = "LEFT"
    icon = "DOWNARROW_HLT" if preferences.show_models else "RIGHTARROW"
    heading.prop(preferences, "show_models", icon=icon, emboss=False)
    if not preferences.show_models:
        return
    current = session.current()
    if not current.ready:
        column.label(text="Models are listed while the backend runs", icon="INFO")
        return
    if current.models.known is None:
        column.label(text="Asking the Backend", icon="TIME")
        return
    for name, group in current.models.groups().items():
        box = column.box()
        box.label(text=name)
        for model in group:
            _row(box.column(), context, model)


def _row(column: bpy.types.UILayout, context: bpy.types.Context, model: ModelInfo) -> None:
    line = column.split(factor=1 - BUTTONS)
    about = line.column(align=True)
    about.label(text=model.title, icon="CHECKMARK" if model.state == "present" else "BLANK1")
    more = about.row()
    more.active = False
    more.label(text=models.facts(model), icon="BLANK1")
    buttons = line.row(align=True)
    if model.state in ("working", "waiting"):
        _progress(buttons, model)
    elif model.state == "present":
        buttons.operator("turnaround.remove_model").model = model.name
    else:
        if model.source:
            buttons.operator("turnaround.install_model").model = model.name
        if session.current().link.is_local:
            buttons.operator("turnaround.import_model", text="Import...").model = model.name
    if model.failed is not None:
        _failure(column, context, model)


def _progress(row: bpy.types.UILayout, model: ModelInfo) -> None:
    progress = session.current().models.progress if model.state == "working" else None
    if model.state == "waiting":
        row.label(text="Waiting")
    else:
        row.progress(factor=models.fraction(progress), text=models.describe(progress))
    row.operator("turnaround.cancel_model", text="", icon="X").model = model.name


def _failure(column: bpy.types.UILayout, context: bpy.types.Context, model: ModelInfo) -> None:
    assert model.failed is not None
    box = column.box()
    sentence = box.column()
    sentence.alert = True
    widgets.wrapped(sentence, context, model.failed.sentence, icon="ERROR")
    if model.failed.hint:
        widgets.wrapped(box, context, model.failed.hint)
    row = box.row()
    row.alignment = "LEFT"
    row.operator("turnaround.copy_model_details").model = model.name
