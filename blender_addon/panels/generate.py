"""The main panel: a picture, how to read it, and the one tall button; or the job that runs."""

from __future__ import annotations

import math

import bpy

from .. import engines, painters, session
from ..installation import Installation
from ..jobs import Job, picture_of
from ..mixins import PanelSection
from ..operators.generate import label
from ..scene import cutouts, drawn, thumbnails
from ..scene.stamps import stamp_of
from . import further, widgets

THUMBNAIL_SCALE = 5.0


class Generate(PanelSection):
    """Drawn in the 3D View's sidebar and in the Image Editor's; see `panels.registration`."""

    bl_label = "Turnaround"

    def draw(self, context: bpy.types.Context) -> None:
        """Draws what can be done now."""
        layout = self.layout
        current = session.current()
        if current.problem is not None:
            widgets.problem(layout, context, current.problem)
        if current.installation is not None:
            _draw_installation(layout, context, current.installation)
            return
        if current.needs_set_up():
            _draw_set_up(layout, context)
            return
        if current.left_over is not None and current.job is None:
            _draw_left_over(layout, context, current.left_over)
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.turnaround
        widgets.choices(layout, settings, "source")
        if settings.source == "TEXT":
            _draw_text(layout, context, settings)
        else:
            _draw_picture(layout, context, settings)
        engine = engines.chosen(context.scene)
        further.draw_pictures(layout, context, settings, engine)
        _draw_camera(layout, context, settings)
        if engine is not None:  # a backend that has not run yet has told of none
            layout.prop(settings, "engine")
            _draw_engine(layout, context, engine)
        widgets.choices(layout, settings, "quality")
        if settings.quality == "CUSTOM":
            column = layout.column(align=True)
            column.prop(settings, "resolution")
            column.prop(settings, "target_faces")
        row = layout.row(align=True)
        row.prop(settings, "seed")
        row.operator("turnaround.roll_seed", text="", icon="FILE_REFRESH")
        layout.prop(settings, "variants")
        if current.job is not None:
            draw_job(layout, context, current.job)
        else:
            button = layout.row()
            button.scale_y = 1.6
            button.operator("turnaround.generate", text=label(context))
            further.draw_look(layout, context, engine)


def _draw_set_up(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    widgets.wrapped(layout, context, "Meshes are made by a backend, which is not on this computer yet.")
    button = layout.row()
    button.scale_y = 1.6
    button.operator("turnaround.set_up_backend", icon="IMPORT")


def _draw_installation(layout: bpy.types.UILayout, context: bpy.types.Context, installation: Installation) -> None:
    layout.label(text=f"{installation.text}...", icon="TIME")
    if installation.detail:
        widgets.wrapped(layout, context, installation.detail)
    layout.operator("turnaround.cancel_set_up", icon="X")


def _draw_left_over(layout: bpy.types.UILayout, context: bpy.types.Context, job: Job) -> None:
    box = layout.box()
    widgets.wrapped(box, context, f"Blender was closed before {job.wish.picture} was done.", icon="INFO")
    row = box.row(align=True)
    row.operator("turnaround.fetch_result")
    row.operator("turnaround.forget_result")


def _source(context: bpy.types.Context) -> bpy.types.Image | None:
    """The picture that meshes are made from; for a text, the one that was drawn from its words, if there is one."""
    settings = context.scene.turnaround
    if settings.source == "PICTURE":
        return picture_of(context)
    report = drawn.report_of(settings.picture)
    return settings.picture if report is not None and report.prompt == settings.prompt else None


def _draw_text(layout: bpy.types.UILayout, context: bpy.types.Context, settings: bpy.types.PropertyGroup) -> None:
    problem = painters.problem()
    if problem is not None:  # nothing to write for
        box = layout.box()
        widgets.wrapped(box, context, problem.sentence, icon="INFO")
        box.operator("turnaround.show_models")
        return
    column = layout.column()
    column.use_property_split = False
    column.prop(settings, "prompt", text="", placeholder="A blue mug")
    picture, job = _source(context), session.current().job
    if job is not None and job.imagine is not None:  # its place is kept, so that Cancel does not move under a click
        column.template_icon(icon_value=0, scale=THUMBNAIL_SCALE)
    elif picture is not None:
        _draw_thumbnail(column, picture)
        _draw_warnings(column, context, picture)
    layout.prop(settings, "single_object")
    layout.prop(settings, "negative_prompt")
    painter = painters.chosen(context.scene)
    if len(painters.ready()) > 1:
        layout.prop(settings, "painter")
    if painter is not None and painter.commercial in {"no", "conditions"}:
        widgets.wrapped(layout, context, painters.licence_line(painter), icon="INFO")


def _draw_picture(layout: bpy.types.UILayout, context: bpy.types.Context, settings: bpy.types.PropertyGroup) -> None:
    picture = picture_of(context)
    column = layout.column()
    column.use_property_split = False
    if context.area and context.area.type == "IMAGE_EDITOR" and picture is not None:
        column.label(text=picture.name, icon="IMAGE_DATA")
    else:
        column.template_ID(settings, "picture", open="image.open")
        if picture is not None and settings.picture is None:
            column.label(text=f"Or the open one: {picture.name}")
    if picture is None:
        return
    _draw_thumbnail(column, picture)
    problem = widgets.size_problem(picture)
    if problem is not None:
        widgets.wrapped(column, context, problem.sentence, icon="ERROR")
    _draw_warnings(column, context, picture)


def _draw_thumbnail(layout: bpy.types.UILayout, picture: bpy.types.Image) -> None:
    icon = thumbnails.icon(picture.name) or (picture.preview.icon_id if picture.preview is not None else 0)
    if icon:
        layout.template_icon(icon_value=icon, scale=THUMBNAIL_SCALE)


def _draw_warnings(layout: bpy.types.UILayout, context: bpy.types.Context, picture: bpy.types.Image) -> None:
    """What is wrong with a picture, told by the painter that drew it and the engine that has looked at it.

    While a job runs, what its engine says stands below the bar: nothing may move under a click on *Cancel*.
    """
    report, stamp = drawn.report_of(picture), stamp_of(context.active_object)
    cutout = cutouts.known(picture.name)
    warnings = list(report.warnings) if report is not None else []
    if session.current().job is None:
        if cutout is not None:  # newer than any result, and there after a cancelled job too
            warnings += cutout.notes
        elif stamp is not None and stamp.picture == picture.name:
            warnings += stamp.report.warnings
    for warning in warnings:
        widgets.wrapped(layout, context, warning, icon="ERROR")


def _draw_camera(layout: bpy.types.UILayout, context: bpy.types.Context, settings: bpy.types.PropertyGroup) -> None:
    widgets.choices(layout, settings, "camera")
    if settings.camera == "SCENE":
        if context.scene.camera is None:
            layout.operator("object.camera_add", text="Add Camera", icon="ADD")
        return
    if settings.camera == "MANUAL":
        layout.prop(settings, "elevation")
        return
    stamp, picture = stamp_of(context.active_object), _source(context)
    if stamp is None or picture is None or stamp.picture != picture.name:
        return
    if stamp.report.elevation_source == "estimated":
        spread = max(1.0, math.ceil(stamp.report.elevation_spread_deg))
        split = layout.split(factor=0.4)
        name = split.row()
        name.alignment = "RIGHT"
        name.label(text="Elevation")
        split.label(text=f"Found {stamp.report.elevation_deg:.0f}° ± {spread:.0f}°")


def _draw_engine(layout: bpy.types.UILayout, context: bpy.types.Context, engine: engines.PipelineInfo) -> None:
    if not engine.ready:
        widgets.wrapped(layout, context, engine.hint or "Its weights are missing.", icon="ERROR")
    group = getattr(context.scene, engines.attribute(engine.name), None)
    if group is not None:
        header, body = layout.panel("turnaround_engine", default_closed=True)
        header.label(text=f"{engine.label} Settings")
        if body is not None:
            column = body.column(align=True)
            for option in engine.options:
                if option.automatic:
                    _draw_automatic(column, group, option)
                else:
                    column.prop(group, option.name)


def _draw_automatic(layout: bpy.types.UILayout, group: bpy.types.PropertyGroup, option: engines.OptionSpec) -> None:
    """A switch, and beside it the value, or that the backend chooses it."""
    row = layout.row(heading=option.label)
    row.prop(group, engines.switch(option), text="")
    if engines.is_set(group, option):
        row.prop(group, option.name, text="")
    else:
        row.label(text="Automatic")


def draw_job(layout: bpy.types.UILayout, context: bpy.types.Context, job: Job) -> None:
    """The progress bar in the button's place, with what can be done about the job."""
    bar = layout.row()
    bar.scale_y = 1.4
    bar.progress(factor=job.fraction, text=job.describe(), type="BAR")
    row = layout.row(align=True)  # always the same buttons in the same places, so that none moves away under a click
    row.operator("turnaround.cancel", icon="X")
    row.operator("turnaround.keep", icon="CHECKMARK")
    if context.area.type == "VIEW_3D":
        row.operator("turnaround.frame", text="", icon="ZOOM_SELECTED")
    if job.in_the_way:
        widgets.wrapped(
            layout, context, f"{job.in_the_way} stands where the shape appears: hide or move it.", icon="INFO"
        )
    if job.notes:
        box = layout.box()
        for note in job.notes:
            widgets.wrapped(box, context, note, icon="ERROR")


class Options(PanelSection):
    """Where and how large results stand."""

    bl_label = "Placement"
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where there is something to place."""
        return not session.current().needs_set_up()

    def draw(self, context: bpy.types.Context) -> None:
        """Draws the placement of the next results."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.turnaround
        widgets.choices(layout, settings, "placement")
        layout.prop(settings, "height")
        if settings.placement == "CURSOR":
            widgets.choices(layout, settings, "layout")
