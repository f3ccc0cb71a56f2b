"""What Blender gives to a registered class, declared for the bases that are mixed into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy


class PanelSection:
    """Base of what is drawn as a panel; see `panels.registration`."""

    if TYPE_CHECKING:  # there at run time it would be taken before Blender's own, or for a property
        layout: bpy.types.UILayout


class OperatorBase:
    """Base of what operators have in common."""

    if TYPE_CHECKING:

        @classmethod
        def poll_message_set(cls, message: str) -> None:
            """Says in the button's tooltip why it cannot be pressed."""

        def report(self, type: set[str], message: str) -> None:
            """Says something in the status bar."""
