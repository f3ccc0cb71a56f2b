"""The engines that the backend offers, each with its own settings as ordinary Blender properties.

A pipeline that somebody else's package adds appears here without a line changed: its `OptionSpec`s become a property
group on the scene when the backend says Welcome.
"""

from __future__ import annotations

import re
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from .protocol.messages import Option, OptionSpec, PipelineInfo

_offered: dict[str, PipelineInfo] = {}
_groups: dict[str, type] = {}
_items: list[tuple[str, str, str, int]] = []
"""Blender keeps no reference to the strings of a dynamic enum, so they must live here."""

SPELLED = {"auto": "Automatic", "ddim": "DDIM"}
"""Choices whose names are not just capitalised."""


def offer(pipelines: tuple[PipelineInfo, ...]) -> None:
    """Takes over what the backend offers. Call it from the main thread, never while something is drawn."""
    if tuple(_offered.values()) == pipelines:
        return
    withdraw()
    for pipeline in pipelines:
        _offered[pipeline.name] = pipeline
        if pipeline.options:
            group = type(
                f"TURNAROUND_PG_{_identifier(pipeline.name)}",
                (bpy.types.PropertyGroup,),
                {"__annotations__": _properties(pipeline)},
            )
            bpy.utils.register_class(group)
            _groups[pipeline.name] = group
            setattr(bpy.types.Scene, attribute(pipeline.name), PointerProperty(type=group))


def withdraw() -> None:
    """Takes all engines and their settings away again; values saved in files stay."""
    for name, group in _groups.items():
        delattr(bpy.types.Scene, attribute(name))
        bpy.utils.unregister_class(group)
    _groups.clear()
    _offered.clear()


def offered() -> dict[str, PipelineInfo]:
    """The engines by name; empty before a backend has answered."""
    return _offered


def chosen(scene: bpy.types.Scene) -> PipelineInfo | None:
    """The engine that the scene asks for, if it is on offer; else the first one."""
    return _offered.get(scene.turnaround.engine_name) or next(iter(_offered.values()), None)


def attribute(name: str) -> str:
    """The scene's property that holds an engine's own settings."""
    return f"turnaround_engine_{_identifier(name)}"


def options_of(scene: bpy.types.Scene, engine: PipelineInfo) -> dict[str, Option]:
    """The values of an engine's own settings, without those that are left to the backend."""
    group = getattr(scene, attribute(engine.name), None)
    return {option.name: getattr(group, option.name) for option in engine.options if is_set(group, option)}


def is_set(group: Any, option: OptionSpec) -> bool:
    """Whether an option's value is the artist's own; `group` holds the engine's settings, or is None."""
    return group is not None and (not option.automatic or getattr(group, switch(option)))


def switch(option: OptionSpec) -> str:
    """The property that tells whether an automatic option is set."""
    return f"set_{option.name}"


def _identifier(name: str) -> str:
    """A name made of what an identifier may hold, short enough for Blender; different names stay different."""
    plain = re.sub(r"\W", "_", name)
    return plain if plain == name and len(plain) <= 32 else f"{plain[:24]}_{sum(map(ord, name)) % 9973}"


def _properties(pipeline: PipelineInfo) -> dict[str, Any]:
    """A property for each option, and a switch for each that is chosen automatically until an artist sets it."""
    switches = {
        switch(option): BoolProperty(
            name=f"Set {option.label}",
            description=f"{option.description.rstrip('.')}. Off, it is chosen to suit the weights and the quality",
        )
        for option in pipeline.options
        if option.automatic
    }
    return {option.name: _property(option) for option in pipeline.options} | switches


def _property(option: OptionSpec) -> Any:
    """A Blender property for an option; giving an automatic one a value sets it."""
    about: dict[str, Any] = {
        "name": option.label,
        "description": option.description.rstrip("."),
        "default": option.default,
    }
    if option.automatic:
        about["update"] = lambda group, context: setattr(group, switch(option), True)
    if option.choices:
        items = [(choice, SPELLED.get(choice) or choice.replace("_", " ").title(), "") for choice in option.choices]
        return EnumProperty(items=items, **about | {"default": str(option.default)})
    if isinstance(option.default, bool):
        return BoolProperty(**about)
    if isinstance(option.default, str):
        return StringProperty(**about)
    number = int if isinstance(option.default, int) else float
    about |= {
        key: number(value) for key, value in (("min", option.minimum), ("max", option.maximum)) if value is not None
    }
    if number is int:
        return IntProperty(**about)
    share = (option.minimum, option.maximum) == (0.0, 1.0)
    return FloatProperty(subtype="FACTOR" if share else "NONE", **about)


# ------------------------------------------------------------------------------------- the enum that chooses among them


def items(settings: Any, context: bpy.types.Context | None) -> list[tuple[str, str, str, int]]:
    """The engines as an enum's items; the stored name alone before a backend has answered."""
    names = {name: (info.label, info.description.rstrip(".")) for name, info in _offered.items()}
    stored = settings.engine_name if settings is not None else ""
    if not names:
        names = {stored: (stored or "None", "Offered once the backend runs")}
    _items[:] = [(name, label, about, number) for number, (name, (label, about)) in enumerate(names.items())]
    return _items


def chosen_number(settings: Any) -> int:
    """Which item is chosen."""
    return next((number for name, _, _, number in items(settings, None) if name == settings.engine_name), 0)


def choose_number(settings: Any, number: int) -> None:
    """Stores the choice by name, so that it survives another list."""
    settings.engine_name = next(name for name, _, _, n in items(settings, None) if n == number)
