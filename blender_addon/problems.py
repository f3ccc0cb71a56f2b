"""Failures that a button can fix."""

from __future__ import annotations

from typing import NamedTuple


class Remedy(NamedTuple):
    """A button for a failure."""

    operator: str
    label: str


IN_PREFERENCES = Remedy("turnaround.open_preferences", "Open Preferences")
MODELS = Remedy("turnaround.show_models", "Show Models")
SHOWN_IN_PREFERENCES = {IN_PREFERENCES, MODELS}
REMEDIES = {
    "backend.missing": Remedy("turnaround.set_up_backend", "Set Up Backend"),
    "backend.none": Remedy("turnaround.start_backend", "Start Backend"),
    "backend.ended": Remedy("turnaround.start_backend", "Start Backend"),
    "backend.lost": Remedy("turnaround.start_backend", "Start Backend"),
    "backend.absent": IN_PREFERENCES,
    "backend.start": IN_PREFERENCES,
    "backend.silent": Remedy("turnaround.start_backend", "Try Again"),
    "setup.failed": Remedy("turnaround.set_up_backend", "Set Up Backend"),
    "connection": IN_PREFERENCES,
    "keys": IN_PREFERENCES,
    "online": Remedy("turnaround.open_system_preferences", "Allow Online Access"),
    "weights": MODELS,
    "painter.missing": MODELS,
    "camera.none": Remedy("object.camera_add", "Add Camera"),
}


def remedy(code: str) -> Remedy | None:
    """The button for a code, or for its first word."""
    return REMEDIES.get(code) or REMEDIES.get(code.split(".")[0])
