"""Where the artist says that a picture's subject is: marks that are kept with the image."""

from __future__ import annotations

from typing import Any

import bpy

from ..protocol.messages import SubjectPoint
from . import images

Place = tuple[float, float]
"""On an image, in fractions of its width and height from the lower left corner, as the Image Editor counts."""

MOST_POINTS = 64
"""As many as a job may have."""


def set_box(image: bpy.types.Image, one: Place, other: Place) -> bool:
    """Marks the box between two corners; what lies outside of the image is left out. False if nothing is left."""
    (left, right), (bottom, top) = (sorted(_inside(value) for value in pair) for pair in zip(one, other, strict=True))
    width, height = image.size
    if (right - left) * width < 1.0 or (top - bottom) * height < 1.0:
        return False
    marks = image.turnaround
    marks.box, marks.has_box = (left, bottom, right, top), True
    return True


def add_point(image: bpy.types.Image, place: Place, *, on_subject: bool) -> bool:
    """Marks a point; False if it is outside of the image, or there are as many as there may be."""
    points = image.turnaround.points
    if len(points) >= MOST_POINTS or any(_inside(value) != value for value in place):
        return False
    point = points.add()
    point.place, point.on_subject = place, on_subject
    return True


def remove_point(image: bpy.types.Image, number: int) -> None:
    """Takes a point away."""
    image.turnaround.points.remove(number)


def clear(image: bpy.types.Image) -> None:
    """Takes all marks away."""
    marks = image.turnaround
    marks.has_box = False
    marks.points.clear()


def is_marked(image: bpy.types.Image) -> bool:
    """Whether there is any mark."""
    return image.turnaround.has_box or bool(image.turnaround.points)


def describe(image: bpy.types.Image) -> str:
    """What is marked, for people: "Box, 2 points"."""
    count = len(image.turnaround.points)
    said = ["Box"] if image.turnaround.has_box else []
    said += [f"{count} point{'s' if count > 1 else ''}"] if count else []
    return ", ".join(said).capitalize()


def settings_of(image: bpy.types.Image) -> dict[str, Any]:
    """The marks as fields of a job's settings, in pixels of the picture as it is sent, top row first."""
    marks, size = image.turnaround, tuple(image.size)
    points = tuple(
        SubjectPoint(x=x, y=y, subject=point.on_subject)
        for point in marks.points
        for x, y in [images.pixel_at(point.place, size)]
    )
    if not marks.has_box:
        return {"subject_box": None, "subject_points": points}
    left, bottom, right, top = marks.box
    box = (*images.pixel_at((left, top), size), *images.pixel_at((right, bottom), size))
    return {"subject_box": box, "subject_points": points}


def _inside(value: float) -> float:
    return min(max(value, 0.0), 1.0)
