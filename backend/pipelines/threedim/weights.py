"""Which view generator draws: the small one that ships, or an installed one."""

from __future__ import annotations

from backend.weights.store import catalogue, is_present
from protocol.errors import TurnaroundError
from protocol.messages import Settings

AUTO, TINY = "auto", "tiny"
"""Weights that are not an entry's name: an installed generator if it and a GPU are there, and those that ship."""


def installed() -> tuple[str, ...]:
    """Names of the installed view generators."""
    return tuple(entry.name for entry in catalogue() if entry.layout == "xunet" and is_present(entry))


def chosen_weights(settings: Settings, device: str) -> str:
    """`TINY`, or the name of an installed generator.

    Raises:
        TurnaroundError: `weights.absent`.
    """
    wanted, there = str(settings.options.get("weights", AUTO)), installed()
    if wanted == AUTO:
        return there[0] if there and device.startswith("cuda") else TINY
    if wanted != TINY and wanted not in there:
        raise TurnaroundError(
            "weights.absent",
            f"The weights {wanted} are not installed, or not those of a view generator.",
            f"Import them: turnaround models import {wanted} PATH.",
            field="options.weights",
        )
    return wanted
