"""The selected result: what it is, and what can be made of it."""

from __future__ import annotations

import bpy

from .. import engines, painters, session
from ..mixins import PanelSection
from ..scene.stamps import stamp_of, variants_of
from . import widgets


class Result(PanelSection):
    """Shown while the active object is one that Turnaround made."""

    bl_label = "Result"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether Turnaround made the active object."""
        return stamp_of(context.active_object) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Draws its story, what a rebuild can change, and its siblings."""
        layout = self.layout
        obj = context.active_object
        stamp = stamp_of(obj)
        if stamp is None:
            return
        report = stamp.report
        engine = engines.offered().get(report.pipeline)
        column = layout.column(align=True)
        row = column.row(align=True)
        row.label(text=obj.name, icon="MESH_DATA")
        if context.area.type == "VIEW_3D":
            row.operator("turnaround.frame", text="", icon="ZOOM_SELECTED")
        story = f"Seed {report.seed}, elevation {report.elevation_deg:.0f}°"
        if engine is not None:  # a backend that has not run yet has not told its name
            story = f"{engine.label}, {story[0].lower()}{story[1:]}"
        widgets.wrapped(column, context, story)
        if stamp.drawn is not None:
            widgets.wrapped(column, context, f'"{stamp.drawn.prompt}", drawn by {stamp.drawn.label}')
            if stamp.drawn.commercial != "yes":
                widgets.wrapped(column, context, painters.licence_line(stamp.drawn))

        fields = layout.column(align=True)
        fields.use_property_split = True
        fields.use_property_decorate = False
        fields.prop(obj.turnaround, "elevation")
        fields.prop(obj.turnaround, "resolution")
        fields.prop(obj.turnaround, "target_faces")
        row = layout.row(align=True)
        row.operator("turnaround.rebuild")
        row.operator("turnaround.regenerate")
        row = layout.row(align=True)
        row.operator("turnaround.match_camera", icon="CAMERA_DATA")
        if stamp.overlap is not None:
            row.label(text=f"Overlap {100 * stamp.overlap:.0f} %")

        variants = variants_of(stamp.group)
        if len(variants) > 1:
            row = layout.row(align=True)
            row.operator("turnaround.step_variant", text="", icon="TRIA_LEFT").step = -1
            row.label(text=f"{variants.index(obj) + 1} of {len(variants)}" if obj in variants else "")
            row.operator("turnaround.step_variant", text="", icon="TRIA_RIGHT").step = 1
            row.operator("turnaround.keep_only_this")


class Views(PanelSection):
    """The views that the backend drew, as an image."""

    bl_label = "Views"
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there are views to show, or will be.

        It stays while a job runs: a panel that comes or goes slides the others, and Blender takes no clicks meanwhile.
        """
        return session.current().job is not None or views_of(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Draws them small, with the button that opens them large."""
        image = views_of(context)
        icon = image.preview.icon_id if image is not None and image.preview is not None else 0
        self.layout.template_icon(icon_value=icon, scale=9.0)  # an empty place where there is nothing yet
        self.layout.operator("turnaround.show_views", icon="IMAGE_DATA")


def views_of(context: bpy.types.Context) -> bpy.types.Image | None:
    """The views of the running job, else those of the active object."""
    if session.current().job is not None:
        from ..scene import preview

        return preview.views_image()
    stamp = stamp_of(context.active_object)
    return bpy.data.images.get(stamp.views) if stamp and stamp.views else None
