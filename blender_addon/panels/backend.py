"""The backend: what it is doing, and what can be done about it."""

from __future__ import annotations

import bpy

from .. import session
from ..mixins import PanelSection
from . import widgets


class Backend(PanelSection):
    """State and buttons of the backend."""

    bl_label = "Backend"
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012  (Blender reads it from the class)

    def draw(self, context: bpy.types.Context) -> None:
        """Draws its state, and the way to its settings."""
        draw_state(self.layout, context)
        self.layout.operator("turnaround.open_preferences", text="Settings", icon="PREFERENCES")


def draw_state(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """One line of state, and the buttons that fit it; the preferences show it too."""
    current = session.current()
    row = layout.row()
    row.label(text=current.link.status(), icon=current.link.state.icon)
    for device in current.link.devices:
        if device.memory_total:
            text = (
                f"{device.name}, {widgets.gigabytes(device.memory_used)} of {widgets.gigabytes(device.memory_total)} GB"
            )
        else:
            text = device.name
        widgets.wrapped(layout, context, text)
    if current.needs_set_up():
        return
    row = layout.row(align=True)
    if current.ready:
        row.operator("turnaround.stop_backend", icon="PAUSE")
        row.operator("turnaround.free_memory", icon="TRASH")
    else:
        row.operator("turnaround.start_backend", icon="PLAY")
