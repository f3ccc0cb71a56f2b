"""Pictures that were drawn from a text: ordinary image datablocks that carry their story."""

from __future__ import annotations

import bpy
import msgspec
import numpy as np

from ..protocol.errors import TurnaroundError
from ..protocol.messages import PictureReport
from ..protocol.validation import check_picture
from . import images

KEY = "turnaround_drawn"
"""Name of the custom property; its value is JSON, as that of a result's stamp."""
LONGEST_NAME = 48
"""Bytes of a datablock's name; Blender has 63, and adds numbers."""
SAME = ("prompt", "negative_prompt", "single_object", "seed", "steps", "guidance", "painter")
"""What makes two pictures the same."""


def name_of(prompt: str) -> str:
    """A prompt as the name of datablocks: its beginning, in whole words if that is possible."""
    text = " ".join(prompt.split())
    while len(text.encode()) > LONGEST_NAME:
        shorter = text.rpartition(" ")[0]
        text = shorter or text[:-1]
    return text.rstrip(" ,.")


def report_of(image: bpy.types.Image | None) -> PictureReport | None:
    """How an image was drawn; None if it was not, or its story cannot be read."""
    text = image.get(KEY) if image is not None else None
    if not isinstance(text, str):
        return None
    try:
        return msgspec.json.decode(text, type=PictureReport)
    except msgspec.DecodeError:
        return None


def keep(report: PictureReport, pixels: images.Pixels) -> bpy.types.Image:
    """A drawn picture as an image that is saved with the file; the same one again where it is there unchanged.

    Args:
        report: how it was drawn.
        pixels: uint8 [H, W, 4], as the backend sent them.

    Raises:
        TurnaroundError: `picture.form` or `picture.small`; nothing has been added then.
    """
    check_picture(pixels)
    images.check_size(pixels.shape[1], pixels.shape[0])
    for image in bpy.data.images:
        earlier = report_of(image)
        if earlier is not None and _same(earlier, report) and _unchanged(image, pixels):
            return image
    image = images.write(name_of(report.prompt), pixels)
    image[KEY] = msgspec.json.encode(report).decode()
    image.pack()
    image.use_fake_user = True
    return image


def _same(one: PictureReport, other: PictureReport) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in SAME)


def _unchanged(image: bpy.types.Image, pixels: images.Pixels) -> bool:
    """Whether nobody has painted on it since."""
    try:
        return np.array_equal(images.read(image), pixels)
    except TurnaroundError:
        return False
