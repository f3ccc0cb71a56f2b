"""Further pictures to work from, and views from wherever the artist looks."""

from __future__ import annotations

import math

import bpy

from .. import jobs, screen
from ..protocol.messages import MAX_EXTRA_PICTURES
from .generate import begin, has_source, idle

LIKELY_ANGLES = (180.0, 90.0, -90.0, 45.0, -45.0, 135.0, -135.0)
"""From where artists draw a subject beside its front, in degrees: the back, its sides, and what is between them."""


class TURNAROUND_OT_add_picture(bpy.types.Operator):
    """Add a further picture of the subject, such as your own view from behind"""

    bl_idname = "turnaround.add_picture"
    bl_label = "Add Picture"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is room for one more."""
        if len(context.scene.turnaround.further) >= MAX_EXTRA_PICTURES:
            cls.poll_message_set(f"{MAX_EXTRA_PICTURES} further pictures are the most")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Adds an empty place for it, with an angle that no other has."""
        places = context.scene.turnaround.further
        taken = {round(math.degrees(place.azimuth)) % 360 for place in places}
        places.add().azimuth = math.radians(next((a for a in LIKELY_ANGLES if a % 360 not in taken), LIKELY_ANGLES[0]))
        return {"FINISHED"}


class TURNAROUND_OT_remove_picture(bpy.types.Operator):
    """Work without this picture"""

    bl_idname = "turnaround.remove_picture"
    bl_label = "Remove Picture"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    index: bpy.props.IntProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Removes its place; the image stays."""
        context.scene.turnaround.further.remove(self.index)
        return {"FINISHED"}


class TURNAROUND_OT_look_from_here(bpy.types.Operator):
    """Draw what the subject looks like from where this view looks at it, as an image"""

    bl_idname = "turnaround.look_from_here"
    bl_label = "Look from Here"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether this is a 3D View, and an engine is there that can."""
        if context.area is None or context.area.type != "VIEW_3D":
            return False
        if jobs.looking_engine(context) is None:
            cls.poll_message_set("Choose an engine that draws views from anywhere, such as 3DiM")
            return False
        return idle(cls) and (jobs.looked_at(context) is not None or has_source(cls, context))

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Starts the job; the image arrives by the timer."""
        return begin(self, lambda: jobs.looking(context, context.space_data.region_3d))


class TURNAROUND_OT_open_look(bpy.types.Operator):
    """Show the view large, in an Image Editor"""

    bl_idname = "turnaround.open_look"
    bl_label = "Open View"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is one."""
        return context.scene.turnaround.looked is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Shows it."""
        screen.fit(screen.show_picture(context, context.scene.turnaround.looked))
        return {"FINISHED"}


CLASSES = (
    TURNAROUND_OT_add_picture,
    TURNAROUND_OT_remove_picture,
    TURNAROUND_OT_look_from_here,
    TURNAROUND_OT_open_look,
)
