"""What the artist chose in the preferences, and the folders that follow from it."""

from __future__ import annotations

from pathlib import Path

import bpy

from . import process


def preferences() -> bpy.types.AddonPreferences:
    """The artist's preferences, see `preferences.TURNAROUND_AP_preferences`."""
    return bpy.context.preferences.addons[__package__].preferences


def own_folder(*, create: bool = False) -> Path:
    """Where the add-on may keep files of its own."""
    return Path(bpy.utils.extension_path_user(__package__, create=create))


def find_command() -> list[str] | None:
    """The command that runs this machine's backend, or None."""
    return process.find_command(bpy.path.abspath(preferences().python), own_folder() / "environment")
