"""Where the backend is: on this machine, found or chosen, or on another one by its connection string."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from . import session
from .panels import backend, models, widgets
from .settings import find_command


def _changed(settings: bpy.types.AddonPreferences, context: bpy.types.Context) -> None:
    session.current().reset()


def _models_shown(settings: bpy.types.AddonPreferences, context: bpy.types.Context) -> None:
    session.current().models.ask()


class TURNAROUND_AP_preferences(bpy.types.AddonPreferences):
    """Preferences of the add-on."""

    bl_idname = __package__

    place: EnumProperty(
        name="Backend",
        description="Where the meshes are made",
        items=[
            ("LOCAL", "This Computer", "Started by Blender when it is needed"),
            ("REMOTE", "Another Computer", "Reached by the connection string that it shows"),
        ],
        update=_changed,
    )
    python: StringProperty(
        name="Python",
        description="The Python in which the backend is installed, or its folder; empty to look for it",
        subtype="FILE_PATH",
        update=_changed,
    )
    stays: BoolProperty(
        name="Keep Running",
        description="Leave the backend running when Blender closes, so that jobs go on and the next start is quick",
    )
    connection_string: StringProperty(
        name="Connection",
        description="The line that the other computer's backend shows; it holds a secret, like a password",
        subtype="PASSWORD",
        maxlen=1024,
        update=_changed,
    )

    show_models: BoolProperty(
        name="Models",
        description="Published weights that the backend can use, their licences, and getting them",
        update=_models_shown,
    )

    def draw(self, context: bpy.types.Context) -> None:
        """Draws them, with the backend's state and the buttons for it."""
        layout = self.layout
        problem = session.current().problem
        if problem is not None:
            widgets.problem(layout, context, problem)
        layout.use_property_split = True
        layout.row().prop(self, "place", expand=True)
        if self.place == "LOCAL":
            command = find_command()
            layout.prop(self, "python", placeholder=command[0] if command else "Not Found")
            if command is None and self.python:
                layout.label(
                    text="No Python there: choose the folder of the environment, or of Turnaround", icon="ERROR"
                )
            layout.prop(self, "stays")
        else:
            layout.prop(self, "connection_string")
        backend.draw_state(layout, context)
        models.draw(layout, context, self)


def register() -> None:
    """Registers the preferences."""
    bpy.utils.register_class(TURNAROUND_AP_preferences)


def unregister() -> None:
    """Takes them away."""
    bpy.utils.unregister_class(TURNAROUND_AP_preferences)
