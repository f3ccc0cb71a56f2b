"""Saying where the subject of a picture is: a box, points, or its cutout painted by hand."""

from __future__ import annotations

from typing import NamedTuple

import bpy
from bpy.props import BoolProperty, FloatVectorProperty

from .. import jobs, overlay, screen, session
from ..mixins import OperatorBase
from ..protocol.errors import TurnaroundError
from ..scene import cutouts, subjects, thumbnails

SHORTEST_DRAG = 4.0
"""Pixels; less is a click, and no box."""
ENDING = {"ESC", "RIGHTMOUSE", "RET", "NUMPAD_ENTER"}


class Where(NamedTuple):
    """Where the pointer is: in pixels of the region, and on the image that is shown there."""

    image: bpy.types.Image
    region: bpy.types.Region
    pixel: tuple[float, float]
    place: subjects.Place


class _Marks(OperatorBase):
    """Base of operators that mark a picture."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a picture that can be marked."""
        image = jobs.picture_of(context)
        if image is None:
            cls.poll_message_set("Choose a picture first")
            return False
        if cutouts.original(image):
            cls.poll_message_set("This is a cutout: paint what is to stay")
            return False
        return True


class _ByHand(_Marks):
    """Base of those that follow the pointer in the Image Editor, `hint` above it."""

    hint = ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Begins."""
        if context.area is None or context.area.type != "IMAGE_EDITOR":
            self.report({"WARNING"}, "Open the picture in an Image Editor first")
            return {"CANCELLED"}
        overlay.marking = self._marking = overlay.Marking(context.area.as_pointer())
        context.window.cursor_modal_set("CROSSHAIR")
        context.area.header_text_set(self.hint)
        context.workspace.status_text_set(self.hint)
        context.window_manager.modal_handler_add(self)
        context.area.tag_redraw()
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Follows the pointer until something is marked or the artist has had enough."""
        if overlay.marking is not self._marking:  # another one has begun since, and tidies up
            return {"CANCELLED"}
        area, image = context.area, jobs.picture_of(context)
        gone = area is None or area.type != "IMAGE_EDITOR" or image is None
        if gone or (event.type in ENDING and event.value == "PRESS"):
            return self._end(context, {"CANCELLED"})
        region = next(region for region in area.regions if region.type == "WINDOW")
        pressed = event.type == "LEFTMOUSE" and event.value in {"PRESS", "DOUBLE_CLICK"}
        if pressed and not _over_picture(area, event):
            return self._end(context, {"CANCELLED", "PASS_THROUGH"})  # a button was pressed, or another editor
        area.tag_redraw()
        released = event.type == "LEFTMOUSE" and event.value == "RELEASE"
        pixel = event.mouse_x - region.x, event.mouse_y - region.y
        where = Where(image, region, pixel, region.view2d.region_to_view(*pixel))
        return self.follow(context, where, event, pressed=pressed, released=released)

    def follow(
        self, context: bpy.types.Context, where: Where, event: bpy.types.Event, *, pressed: bool, released: bool
    ) -> set[str]:
        """What the pointer does there; each operator has its own."""
        raise NotImplementedError

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends it, with its window."""
        self._end(context, set())

    def _end(self, context: bpy.types.Context, outcome: set[str]) -> set[str]:
        overlay.marking = None
        context.window.cursor_modal_restore()
        if context.area is not None:
            context.area.header_text_set(None)
        context.workspace.status_text_set(None)
        screen.redraw_pictures()
        return outcome


def _over_picture(area: bpy.types.Area, event: bpy.types.Event) -> bool:
    """Whether the pointer is over an area's picture and none of its sidebars."""

    def has(region: bpy.types.Region) -> bool:
        return 0 <= event.mouse_x - region.x < region.width and 0 <= event.mouse_y - region.y < region.height

    there = {region.type for region in area.regions if has(region) and min(region.width, region.height) > 1}
    return there == {"WINDOW"}


class TURNAROUND_OT_mark_box(_ByHand, bpy.types.Operator):
    """Drag a box around the subject, in the Image Editor; what lies outside of it is background"""

    bl_idname = "turnaround.mark_box"
    bl_label = "Mark Box"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012  (Blender reads it from the class)

    hint = "Drag: a box around the subject     Esc: leave it"
    corner: FloatVectorProperty(name="Corner", size=2, description="From the picture's lower left corner")
    opposite: FloatVectorProperty(name="Opposite Corner", size=2, default=(1.0, 1.0))

    def follow(
        self, context: bpy.types.Context, where: Where, event: bpy.types.Event, *, pressed: bool, released: bool
    ) -> set[str]:
        """A press begins the box, the release ends it."""
        drag = self._marking
        if pressed:
            self._pressed, drag.box = where.pixel, (where.place, where.place)
            return {"RUNNING_MODAL"}
        if drag.box is None:
            return {"PASS_THROUGH"}  # to move the picture, and zoom
        drag.box = drag.box[0], where.place
        if released:
            if max(abs(a - b) for a, b in zip(self._pressed, where.pixel, strict=True)) < SHORTEST_DRAG:
                drag.box = None
                return {"RUNNING_MODAL"}
            self.corner, self.opposite = drag.box
            self._end(context, set())
            return self.execute(context)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Sets it."""
        image = jobs.picture_of(context)
        if image is None or not subjects.set_box(image, tuple(self.corner), tuple(self.opposite)):
            self.report({"WARNING"}, "That box is not in the picture")
            return {"CANCELLED"}
        screen.redraw_pictures()
        return {"FINISHED"}


class TURNAROUND_OT_add_points(_ByHand, bpy.types.Operator):
    """Click in the Image Editor to say what belongs to the subject, with Ctrl what does not"""

    # no step of undo itself: Blender would take the clicks' own steps for parts of it
    bl_idname = "turnaround.add_points"
    bl_label = "Add Points"

    hint = "Click: on the subject     Ctrl Click: not the subject     Click a point: take it away     Esc: done"

    def follow(
        self, context: bpy.types.Context, where: Where, event: bpy.types.Event, *, pressed: bool, released: bool
    ) -> set[str]:
        """Each click is one point, and one step of undo."""
        if not pressed:
            return {"PASS_THROUGH"}
        number = overlay.point_at(where.region, where.image, *where.pixel)
        if number is not None:
            bpy.ops.turnaround.remove_point("EXEC_DEFAULT", True, number=number)
        else:
            on_subject = not (event.ctrl or event.alt or event.oskey)
            bpy.ops.turnaround.mark_point("EXEC_DEFAULT", True, place=where.place, on_subject=on_subject)
        return {"RUNNING_MODAL"}


class TURNAROUND_OT_mark_point(_Marks, bpy.types.Operator):
    """Add one point"""

    bl_idname = "turnaround.mark_point"
    bl_label = "Mark Point"
    bl_options = {"UNDO", "INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    place: FloatVectorProperty(name="Place", size=2, description="From the picture's lower left corner")
    on_subject: BoolProperty(name="On the Subject", default=True)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Adds it."""
        image = jobs.picture_of(context)
        if image is None or not subjects.add_point(image, tuple(self.place), on_subject=self.on_subject):
            self.report({"WARNING"}, f"Points must lie on the picture, and there can be {subjects.MOST_POINTS}")
            return {"CANCELLED"}
        screen.redraw_pictures()
        return {"FINISHED"}


class TURNAROUND_OT_remove_point(bpy.types.Operator):
    """Take a point away"""

    bl_idname = "turnaround.remove_point"
    bl_label = "Remove Point"
    bl_options = {"UNDO", "INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    number: bpy.props.IntProperty(name="Number", min=0)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Takes it."""
        image = jobs.picture_of(context)
        if image is None or self.number >= len(image.turnaround.points):
            return {"CANCELLED"}
        subjects.remove_point(image, self.number)
        screen.redraw_pictures()
        return {"FINISHED"}


class TURNAROUND_OT_clear_marks(bpy.types.Operator):
    """Take the box and all points away"""

    bl_idname = "turnaround.clear_marks"
    bl_label = "Clear"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there are any."""
        image = jobs.picture_of(context)
        return image is not None and subjects.is_marked(image)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Takes them."""
        image = jobs.picture_of(context)
        if image is None:
            return {"CANCELLED"}
        subjects.clear(image)
        screen.redraw_pictures()
        return {"FINISHED"}


class TURNAROUND_OT_open_picture(bpy.types.Operator):
    """Open the picture in an Image Editor, to mark its subject there"""

    bl_idname = "turnaround.open_picture"
    bl_label = "Open in Image Editor"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is one."""
        return jobs.picture_of(context) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Opens it, with the sidebar."""
        image = jobs.picture_of(context)
        if image is None:
            return {"CANCELLED"}
        area = screen.show_picture(context, image)
        area.spaces.active.show_region_ui = True
        self.report({"INFO"}, f"Mark the subject with the {screen.TAB} tab of its sidebar")
        return {"FINISHED"}


class TURNAROUND_OT_edit_cutout(bpy.types.Operator):
    """Make a copy of the picture whose alpha is the cutout, to be painted on; Generate then takes what is not clear"""

    bl_idname = "turnaround.edit_cutout"
    bl_label = "Edit Cutout"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether a cutout is known."""
        image = jobs.picture_of(context)
        if image is None or cutouts.known(image.name) is None:
            cls.poll_message_set("Generate first: the cutout comes with the first progress")
            return False
        return not cutouts.original(image)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Makes it, chooses it as the picture, and opens it where one can paint."""
        image = jobs.picture_of(context)
        cutout = cutouts.known(image.name) if image is not None else None
        if image is None or cutout is None:
            return {"CANCELLED"}
        try:
            copy = cutouts.paintable(image, cutout)
            thumbnail = thumbnails.compose(cutouts.read(copy)[0], cutout.alpha, cutout.framing)
        except TurnaroundError as error:
            session.current().fail(error)
            return {"CANCELLED"}
        context.scene.turnaround.picture = copy
        thumbnails.show(copy.name, thumbnail)  # Blender's own would show the colours of what is clear
        if context.area is not None:  # none in a script without a window
            space = screen.show_picture(context, copy).spaces.active
            space.mode, space.show_region_ui = "PAINT", True
        return {"FINISHED"}


CLASSES = (
    TURNAROUND_OT_mark_box,
    TURNAROUND_OT_add_points,
    TURNAROUND_OT_mark_point,
    TURNAROUND_OT_remove_point,
    TURNAROUND_OT_clear_marks,
    TURNAROUND_OT_open_picture,
    TURNAROUND_OT_edit_cutout,
)
