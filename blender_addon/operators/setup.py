"""Set Up Backend: what it downloads, how large, where to; then one click."""

from __future__ import annotations

import bpy

from .. import session
from ..installation import DOWNLOAD
from ..settings import own_folder


class TURNAROUND_OT_set_up_backend(bpy.types.Operator):
    """Install the backend on this computer, in an environment of its own"""

    bl_idname = "turnaround.set_up_backend"
    bl_label = "Set Up Backend"

    source: bpy.props.StringProperty(
        name="Turnaround",
        description="The downloaded Turnaround folder, the one with pyproject.toml in it",
        subtype="DIR_PATH",
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether it is not being set up already."""
        if session.current().installation is not None:
            cls.poll_message_set("It is being set up")
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Says what will happen before it does."""
        return context.window_manager.invoke_props_dialog(self, width=460, confirm_text="Set Up")

    def draw(self, context: bpy.types.Context) -> None:
        """The dialog."""
        column = self.layout.column()
        column.label(text=f"Downloads {DOWNLOAD}", icon="IMPORT")
        column.label(text=f"Installs to {own_folder()}", icon="FILE_FOLDER")
        if bpy.app.online_access:
            column.prop(self, "source")
        else:
            column.label(text="Blender may not download yet", icon="ERROR")
            column.operator("turnaround.open_system_preferences")
        column.separator()
        column.label(text="It is there already? Choose its Python instead:")
        column.operator("turnaround.open_preferences", icon="PREFERENCES")

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Begins."""
        source = bpy.path.abspath(self.source)
        if not bpy.app.online_access:
            self.report({"WARNING"}, "Allow Online Access in the preferences, under System")
            return {"CANCELLED"}
        if not source:
            self.report({"WARNING"}, "Choose the downloaded Turnaround folder first")
            return {"CANCELLED"}
        session.current().install(source, own_folder(create=True))
        return {"FINISHED"}


class TURNAROUND_OT_cancel_set_up(bpy.types.Operator):
    """Stop setting up and remove what was installed so far"""

    bl_idname = "turnaround.cancel_set_up"
    bl_label = "Cancel"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Stops it."""
        session.current().cancel_installation()
        return {"FINISHED"}


CLASSES = (TURNAROUND_OT_set_up_backend, TURNAROUND_OT_cancel_set_up)
