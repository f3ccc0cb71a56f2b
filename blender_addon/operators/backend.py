"""Start, stop and set up the backend; read and clear what went wrong."""

from __future__ import annotations

import bpy

from .. import session
from ..protocol.errors import TurnaroundError

ADDON = __package__.rpartition(".")[0]


class TURNAROUND_OT_start_backend(bpy.types.Operator):
    """Start the backend, or connect to the one that runs"""

    bl_idname = "turnaround.start_backend"
    bl_label = "Start"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Starts it; the state follows by the timer."""
        current = session.current()
        try:
            current.dismiss()
            current.open()
        except TurnaroundError as error:
            current.fail(error)
            return {"CANCELLED"}
        return {"FINISHED"}


class TURNAROUND_OT_stop_backend(bpy.types.Operator):
    """Stop the backend; a job that runs is cancelled"""

    bl_idname = "turnaround.stop_backend"
    bl_label = "Stop"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is one to stop."""
        return session.current().ready

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks it to stop."""
        session.current().stop()
        return {"FINISHED"}


class TURNAROUND_OT_free_memory(bpy.types.Operator):
    """Let the backend drop the weights and results that no job is using"""

    bl_idname = "turnaround.free_memory"
    bl_label = "Free Memory"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a backend."""
        return session.current().ready

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks for it."""
        session.current().free_memory()
        return {"FINISHED"}


class TURNAROUND_OT_open_preferences(bpy.types.Operator):
    """Show where the backend is and how it is reached"""

    bl_idname = "turnaround.open_preferences"
    bl_label = "Open Preferences"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Opens the add-on's preferences."""
        bpy.ops.preferences.addon_show(module=ADDON)
        return {"FINISHED"}


class TURNAROUND_OT_open_system_preferences(bpy.types.Operator):
    """Show where Blender allows online access"""

    bl_idname = "turnaround.open_system_preferences"
    bl_label = "Allow Online Access"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Opens the System page of the preferences."""
        bpy.ops.screen.userpref_show(section="SYSTEM")
        return {"FINISHED"}


class TURNAROUND_OT_copy_details(bpy.types.Operator):
    """Copy what went wrong, with what a developer needs to know"""

    bl_idname = "turnaround.copy_details"
    bl_label = "Copy Details"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether anything went wrong."""
        return session.current().problem is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Puts it on the clipboard."""
        context.window_manager.clipboard = session.current().details()
        self.report({"INFO"}, "Details copied")
        return {"FINISHED"}


class TURNAROUND_OT_dismiss_problem(bpy.types.Operator):
    """Hide this message"""

    bl_idname = "turnaround.dismiss_problem"
    bl_label = "Dismiss"
    bl_options = {"INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Hides it."""
        session.current().dismiss()
        return {"FINISHED"}


CLASSES = (
    TURNAROUND_OT_start_backend,
    TURNAROUND_OT_stop_backend,
    TURNAROUND_OT_free_memory,
    TURNAROUND_OT_open_preferences,
    TURNAROUND_OT_open_system_preferences,
    TURNAROUND_OT_copy_details,
    TURNAROUND_OT_dismiss_problem,
)
