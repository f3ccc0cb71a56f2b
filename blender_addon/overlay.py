"""What is drawn over a picture in the Image Editor: its marks, what was cut away, and the mark in the making."""

from __future__ import annotations

import math
from dataclasses import dataclass

import bpy
import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader

from .scene import cutouts
from .scene.cutouts import Cutout
from .scene.images import is_source
from .scene.subjects import Place
from .screen import TAB

Color = tuple[float, float, float, float]

ACCENT: Color = (1.0, 0.55, 0.1, 1.0)
ON_SUBJECT: Color = (0.2, 0.75, 0.3, 1.0)
OFF_SUBJECT: Color = (0.85, 0.2, 0.2, 1.0)
WHITE: Color = (1.0, 1.0, 1.0, 1.0)
SHADOW: Color = (0.0, 0.0, 0.0, 0.6)
POINT_RADIUS = 8.0
"""Pixels at interface scale 1; a click within it means the point."""
DARKENING = 0.7
"""How much of its brightness what was cut away loses."""
TEXTURE_SIDE = 1024


@dataclass
class Marking:
    """The operator that is marking now.

    Attributes:
        area: of the Image Editor, as a pointer's number.
        box: two corners of the box that is being dragged.
    """

    area: int
    box: tuple[Place, Place] | None = None


marking: Marking | None = None
_handle: object | None = None
_texture: tuple[Cutout, gpu.types.GPUTexture] | None = None


def is_shown(area: bpy.types.Area) -> bool:
    """Whether marks are drawn in an Image Editor: while something is marked there, or its tab is Turnaround's."""
    if marking is not None and marking.area == area.as_pointer():
        return True
    if not area.spaces.active.show_region_ui:
        return False
    return any(region.type == "UI" and region.active_panel_category == TAB for region in area.regions)


def point_at(region: bpy.types.Region, image: bpy.types.Image, x: float, y: float) -> int | None:
    """Which point of an image is drawn at a place in the region, if any is."""
    reach = POINT_RADIUS * bpy.context.preferences.system.ui_scale
    for number, point in reversed(list(enumerate(image.turnaround.points))):
        if math.dist(_pixel(region, point.place), (x, y)) <= reach:
            return number
    return None


def _pixel(region: bpy.types.Region, place: Place) -> tuple[float, float]:
    return region.view2d.view_to_region(*place, clip=False)


def _draw() -> None:
    context = bpy.context
    area, region, image = context.area, context.region, context.space_data.image
    if image is None or not is_source(image) or not is_shown(area):
        return
    gpu.state.blend_set("ALPHA")
    try:
        _draw_cutout(context, region, image)
        _draw_marks(context, area, region, image)
    finally:
        gpu.state.blend_set("NONE")


def _draw_marks(
    context: bpy.types.Context, area: bpy.types.Area, region: bpy.types.Region, image: bpy.types.Image
) -> None:
    scale = context.preferences.system.ui_scale
    marks = image.turnaround
    dragged = marking.box if marking is not None and marking.area == area.as_pointer() else None
    if dragged is not None:
        _rectangle(_pixel(region, dragged[0]), _pixel(region, dragged[1]), scale)
    elif marks.has_box:
        left, bottom, right, top = marks.box
        _rectangle(_pixel(region, (left, bottom)), _pixel(region, (right, top)), scale)
    for point in marks.points:
        _point(_pixel(region, point.place), POINT_RADIUS * scale, on_subject=point.on_subject)


def _rectangle(one: tuple[float, float], other: tuple[float, float], scale: float) -> None:
    (left, right), (bottom, top) = (sorted(pair) for pair in zip(one, other, strict=True))
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    _line(corners, SHADOW, 4.0 * scale)
    _line(corners, ACCENT, 2.0 * scale)


def _point(center: tuple[float, float], radius: float, *, on_subject: bool) -> None:
    _disc(center, radius, WHITE)
    _disc(center, radius * 0.8, ON_SUBJECT if on_subject else OFF_SUBJECT)
    arm, (x, y) = radius * 0.45, center
    _line([(x - arm, y), (x + arm, y)], WHITE, radius * 0.25)
    if on_subject:
        _line([(x, y - arm), (x, y + arm)], WHITE, radius * 0.25)


def _disc(center: tuple[float, float], radius: float, color: Color) -> None:
    angles = [2.0 * math.pi * number / 24 for number in range(24)]
    rim = [(center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)) for angle in angles]
    triangles = [(0, number, number + 1) for number in range(1, len(rim) - 1)]
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    shader.uniform_float("color", color)
    batch_for_shader(shader, "TRIS", {"pos": rim}, indices=triangles).draw(shader)


def _line(points: list[tuple[float, float]], color: Color, width: float) -> None:
    shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")
    shader.uniform_float("viewportSize", gpu.state.viewport_get()[2:])
    shader.uniform_float("lineWidth", width)
    shader.uniform_float("color", color)
    batch_for_shader(shader, "LINE_STRIP", {"pos": [(x, y, 0.0) for x, y in points]}).draw(shader)


def _draw_cutout(context: bpy.types.Context, region: bpy.types.Region, image: bpy.types.Image) -> None:
    """Darkens what was cut away; a paintable cutout shows that itself."""
    cutout = cutouts.known(image.name)
    if cutout is None or cutouts.original(image) or not context.scene.turnaround.show_cutout:
        return
    left, bottom = _pixel(region, (0.0, 0.0))
    right, top = _pixel(region, (1.0, 1.0))
    shader = gpu.shader.from_builtin("IMAGE")
    shader.uniform_sampler("image", _darkness(cutout))
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    content = {"pos": corners, "texCoord": [(0, 0), (1, 0), (1, 1), (0, 1)]}
    batch_for_shader(shader, "TRI_FAN", content).draw(shader)


def _darkness(cutout: Cutout) -> gpu.types.GPUTexture:
    """A texture that darkens what is not the subject; made once for each cutout."""
    global _texture
    if _texture is None or _texture[0] is not cutout:
        shrink = min(1.0, TEXTURE_SIDE / max(cutout.size))
        width, height = (max(1, round(side * shrink)) for side in cutout.size)
        pixels = np.zeros((height, width, 4), np.float32)
        pixels[..., 3] = DARKENING * (1.0 - cutout.matte(width, height)[::-1] / np.float32(255.0))
        data = gpu.types.Buffer("FLOAT", pixels.size, pixels.ravel())
        _texture = cutout, gpu.types.GPUTexture((width, height), format="RGBA8", data=data)
    return _texture[1]


def register() -> None:
    """Begins to draw; without a window there is nothing to draw on."""
    global _handle
    if not bpy.app.background:
        _handle = bpy.types.SpaceImageEditor.draw_handler_add(_draw, (), "WINDOW", "POST_PIXEL")


def unregister() -> None:
    """Stops."""
    global _handle, _texture, marking
    if _handle is not None:
        bpy.types.SpaceImageEditor.draw_handler_remove(_handle, "WINDOW")
    _handle = _texture = marking = None
