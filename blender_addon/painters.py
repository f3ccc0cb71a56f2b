"""The painters that the backend offers: they draw the picture where the source is a text."""

from __future__ import annotations

from typing import Any

import bpy

from .protocol.errors import TurnaroundError
from .protocol.messages import PainterInfo
from .protocol.validation import no_painter

_offered: dict[str, PainterInfo] | None = None
_items: list[tuple[str, str, str, int]] = []
"""Blender keeps no reference to the strings of a dynamic enum, so they must live here."""


def offer(painters: tuple[PainterInfo, ...]) -> None:
    """Takes over what the backend offers. Call it from the main thread, never while something is drawn."""
    global _offered
    _offered = {painter.name: painter for painter in painters}


def withdraw() -> None:
    """Forgets them."""
    global _offered
    _offered = None


def offered() -> dict[str, PainterInfo] | None:
    """All painters by name, those without weights too; None before a backend has answered."""
    return _offered


def ready() -> dict[str, PainterInfo]:
    """Those that can draw now."""
    return {name: painter for name, painter in (_offered or {}).items() if painter.ready}


def chosen(scene: bpy.types.Scene) -> PainterInfo | None:
    """The painter that the scene asks for, if it can draw; else the first that can."""
    can = ready()
    return can.get(scene.turnaround.painter_name) or next(iter(can.values()), None)


def problem() -> TurnaroundError | None:
    """Why nothing can be drawn from a text, as far as that is known."""
    return no_painter(None, _offered) if _offered is not None and not ready() else None


# ------------------------------------------------------------------------------------- the enum that chooses among them


def items(settings: Any, context: bpy.types.Context | None) -> list[tuple[str, str, str, int]]:
    """The painters that can draw as an enum's items, with their licences as tooltips."""
    _items[:] = [
        (name, painter.label, licence_line(painter) or "A painter of the backend's", number)
        for number, (name, painter) in enumerate(ready().items())
    ] or [("", "None", "Offered once the backend runs", 0)]
    return _items


def chosen_number(settings: Any) -> int:
    """Which item is chosen."""
    return next((number for name, _, _, number in items(settings, None) if name == settings.painter_name), 0)


def choose_number(settings: Any, number: int) -> None:
    """Stores the choice by name, so that it survives another list."""
    settings.painter_name = next(name for name, _, _, n in items(settings, None) if n == number)


def licence_line(painter: Any) -> str:
    """A painter's licence, of its info or its report, in a few words; "" where none is known."""
    limits = {"no": ", no commercial use", "conditions": ", with conditions for commercial use"}
    return f"Licence: {painter.licence}{limits.get(painter.commercial, '')}" if painter.licence else ""
