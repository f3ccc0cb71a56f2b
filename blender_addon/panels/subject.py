"""What in the picture the mesh is made of: how the background goes, and where the subject is."""

from __future__ import annotations

import bpy

from .. import session
from ..jobs import picture_of
from ..mixins import PanelSection
from ..scene import cutouts, subjects
from . import widgets


class Subject(PanelSection):
    """Drawn in the 3D View's sidebar and in the Image Editor's, where it can be marked."""

    bl_label = "Subject"
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where something can be cut out."""
        return not session.current().needs_set_up()

    def draw(self, context: bpy.types.Context) -> None:
        """Draws how it is found, the marks, and the way to paint it."""
        layout, image = self.layout, picture_of(context)
        layout.use_property_split = True
        layout.use_property_decorate = False
        in_editor = context.area.type == "IMAGE_EDITOR"
        if image is not None and cutouts.original(image):
            _draw_painted(layout, context, image)
            return
        layout.prop(context.scene.turnaround, "matting")
        if image is None:
            return
        if in_editor:
            row = layout.row(align=True)
            row.operator("turnaround.mark_box", icon="SELECT_SET")
            row.operator("turnaround.add_points", icon="ADD")
        if subjects.is_marked(image):
            row = layout.row()
            row.label(text=subjects.describe(image))
            row.operator("turnaround.clear_marks", icon="X")
        if not in_editor:
            layout.operator("turnaround.open_picture", text="Mark in Image Editor", icon="IMAGE_DATA")
        if cutouts.known(image.name) is not None:
            if in_editor:
                layout.prop(context.scene.turnaround, "show_cutout")
            layout.operator("turnaround.edit_cutout", icon="BRUSH_DATA")


def _draw_painted(layout: bpy.types.UILayout, context: bpy.types.Context, image: bpy.types.Image) -> None:
    name = cutouts.original(image)
    widgets.wrapped(layout, context, f"The cutout of {name}: what is clear here is left out of the mesh.")
    space = context.space_data
    if context.area.type != "IMAGE_EDITOR":
        layout.operator("turnaround.open_picture", text="Paint in Image Editor", icon="BRUSH_DATA")
        return
    brush = context.tool_settings.image_paint.brush
    if space.mode != "PAINT" or brush is None:
        layout.prop_enum(space, "ui_mode", "PAINT")
        return
    row = layout.row(align=True)
    row.use_property_split = False
    row.prop_enum(brush, "blend", "ERASE_ALPHA", text="Take Away")
    row.prop_enum(brush, "blend", "ADD_ALPHA", text="Bring Back")
