"""What can be made of the selected result."""

from __future__ import annotations

import bpy
from mathutils import Vector

from .. import jobs, screen, session
from ..mixins import OperatorBase
from ..protocol.errors import TurnaroundError
from ..scene import preview, results
from ..scene.stamps import stamp_of, stamped, variants_of
from .generate import begin, idle

FRAMING_DISTANCE = 3.0
"""How far the view stands from a shape, in radii of the sphere around it."""


def in_object_mode(operator: type[bpy.types.Operator], context: bpy.types.Context) -> bool:
    """Whether objects may be changed now; else says so in the operator's tooltip."""
    if context.mode != "OBJECT":
        operator.poll_message_set("Switch to Object Mode first")
        return False
    return True


class _OnResult(OperatorBase):
    """Base of operators on the active object, which Turnaround must have made."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether Turnaround made the active object."""
        if stamp_of(context.active_object) is None:
            cls.poll_message_set("Select an object that Turnaround made")
            return False
        return True


class TURNAROUND_OT_rebuild(_OnResult, bpy.types.Operator):
    """Build the mesh again with this elevation and resolution; what they leave alone comes from the cache"""

    bl_idname = "turnaround.rebuild"
    bl_label = "Rebuild"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a result, and no job runs."""
        return super().poll(context) and idle(cls)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Starts the job."""
        obj = context.active_object
        return begin(self, lambda: jobs.rebuilding(obj, stamped(obj), context.scene))


class TURNAROUND_OT_regenerate(_OnResult, bpy.types.Operator):
    """Make another result from the same picture with the next seed, beside this one"""

    bl_idname = "turnaround.regenerate"
    bl_label = "Regenerate"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a result, and no job runs."""
        return super().poll(context) and idle(cls)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Starts the job."""
        obj = context.active_object
        return begin(self, lambda: jobs.regenerating(obj, stamped(obj), context.scene))


class TURNAROUND_OT_match_camera(_OnResult, bpy.types.Operator):
    """Place, turn and scale the result so that through the scene's camera it covers the subject in the picture"""

    bl_idname = "turnaround.match_camera"
    bl_label = "Match Camera"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012  (Blender reads it from the class)

    at_cursor: bpy.props.BoolProperty(
        name="At the Cursor's Depth", description="Stand as far away as the 3D cursor; else keep the size"
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a result and a camera."""
        if not super().poll(context):
            return False
        if context.scene.camera is None:
            cls.poll_message_set("Add a camera to the scene first")
            return False
        return in_object_mode(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Places it, and says how well it covers."""
        try:
            overlap = results.match(context.active_object, context.scene, at_cursor=self.at_cursor)
        except TurnaroundError as error:
            session.current().fail(error)
            self.report({"WARNING"}, error.sentence)
            return {"CANCELLED"}
        self.report({"INFO"}, f"Overlap with the subject: {100 * overlap:.0f} %")
        return {"FINISHED"}


class TURNAROUND_OT_step_variant(_OnResult, bpy.types.Operator):
    """Show another variant of this result"""

    bl_idname = "turnaround.step_variant"
    bl_label = "Step Variant"
    bl_options = {"UNDO", "INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    step: bpy.props.IntProperty(default=1)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a result, and nobody is editing it."""
        return super().poll(context) and in_object_mode(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Makes it the active one; where variants are stacked, the others are hidden."""
        active = context.active_object
        stamp = stamp_of(active)
        variants = variants_of(stamp.group) if stamp is not None else []
        if len(variants) < 2:
            return {"CANCELLED"}
        layer = context.view_layer
        following = variants[(variants.index(active) + self.step) % len(variants)]
        if any(not variant.visible_get(view_layer=layer) for variant in variants):
            for variant in variants:
                results.show(variant, variant == following, layer)
        for selected in context.selected_objects:
            selected.select_set(False)
        following.select_set(True)
        layer.objects.active = following
        return {"FINISHED"}


class TURNAROUND_OT_keep_only_this(_OnResult, bpy.types.Operator):
    """Delete the other variants of this result"""

    bl_idname = "turnaround.keep_only_this"
    bl_label = "Keep Only This"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012  (Blender reads it from the class)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a result, and nobody is editing it."""
        return super().poll(context) and in_object_mode(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Deletes them; undo brings them back."""
        active = context.active_object
        stamp = stamp_of(active)
        others = [variant for variant in variants_of(stamp.group) if variant != active] if stamp is not None else []
        for other in others:
            results.discard(other)
        return {"FINISHED"} if others else {"CANCELLED"}


class TURNAROUND_OT_frame(bpy.types.Operator):
    """Bring the shape into the middle of the 3D View"""

    bl_idname = "turnaround.frame"
    bl_label = "Frame Shape"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a 3D View, and a shape to see."""
        if context.area is None or context.area.type != "VIEW_3D":
            return False
        if _shape_at_hand(context) is None:
            cls.poll_message_set("There is no shape yet")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Moves the view, not the shape."""
        shape = _shape_at_hand(context)
        if shape is None:
            return {"CANCELLED"}
        corners = [shape.matrix_world @ Vector(corner) for corner in shape.bound_box]
        middle = sum(corners, Vector()) / len(corners)
        view = context.space_data.region_3d
        if view.view_perspective == "CAMERA":
            view.view_perspective = "PERSP"
        view.view_location = middle
        view.view_distance = FRAMING_DISTANCE * max((corner - middle).length for corner in corners)
        return {"FINISHED"}


def _shape_at_hand(context: bpy.types.Context) -> bpy.types.Object | None:
    """The preview while a job has one, else the selected result."""
    shape = preview.shape(context.scene)
    if shape is None and stamp_of(context.active_object) is not None:
        shape = context.active_object
    return shape


class TURNAROUND_OT_show_views(bpy.types.Operator):
    """Show the views that the backend drew in an Image Editor"""

    bl_idname = "turnaround.show_views"
    bl_label = "Open in Image Editor"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there are any."""
        from ..panels.result import views_of

        if views_of(context) is None:
            cls.poll_message_set("No view is drawn yet")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Uses an Image Editor that is open, else a new window."""
        from ..panels.result import views_of

        screen.fit(screen.show_picture(context, views_of(context)))
        return {"FINISHED"}


CLASSES = (
    TURNAROUND_OT_rebuild,
    TURNAROUND_OT_regenerate,
    TURNAROUND_OT_match_camera,
    TURNAROUND_OT_step_variant,
    TURNAROUND_OT_keep_only_this,
    TURNAROUND_OT_frame,
    TURNAROUND_OT_show_views,
)
