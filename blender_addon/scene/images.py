"""Image datablocks to arrays and back: the only place that knows of bottom-up rows and float pixels.

Arrays are uint8 [H, W, 4], straight-alpha sRGB, top row first. An image may be unsaved, packed or painted, so that
its pixels are asked for and never its file.
"""

from __future__ import annotations

import bpy
import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import TurnaroundError
from ..protocol.messages import MAX_PICTURE_SIDE
from .colors import srgb_from_linear

Pixels = NDArray[np.uint8]

SMALLEST_SIDE = 16
"""Below this there is nothing to see in a picture."""
LARGEST_SENT_SIDE = 4096
"""A larger picture is averaged down by a whole factor: no network looks at more, and a click must stay quick."""
MOST_PIXELS = 1 << 26
"""Blender hands out pixels as floats, 16 bytes each: 1 GiB at this bound."""
CHUNK_PIXELS = 1 << 21
TILE_SIDE = 256
FAINTEST = 32
"""What is less opaque in a drawn view is shown as transparent: its colour is noise, and Blender's icons add it up."""
SHEET_TAG = "turnaround_views"
"""Marks a contact sheet, which is no picture to work from."""


def is_source(image: bpy.types.Image) -> bool:
    """Whether an image can be a picture to work from: no render that Blender keeps to itself, and no sheet of views."""
    return image.type not in {"RENDER_RESULT", "COMPOSITING"} and SHEET_TAG not in image


def check_size(width: int, height: int) -> None:
    """Whether a picture of this size can be used.

    Raises:
        TurnaroundError: `picture.small`, `picture.large`.
    """
    if min(width, height) < SMALLEST_SIDE:
        raise TurnaroundError(
            "picture.small",
            f"The picture is only {width} x {height} pixels.",
            f"Choose one of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}.",
            field="picture",
        )
    if max(width, height) > MAX_PICTURE_SIDE or width * height > MOST_PIXELS:
        raise TurnaroundError(
            "picture.large",
            f"The picture is too large: {width} x {height} pixels.",
            "Make it smaller with Image > Resize; 2048 pixels a side are plenty.",
            field="picture",
        )


def read(image: bpy.types.Image) -> Pixels:
    """The pixels of an image datablock as the artist sees them, uint8 [H, W, 4].

    Pictures beyond `LARGEST_SENT_SIDE` come back smaller by a whole factor.

    Raises:
        TurnaroundError: `picture.unreadable`, `picture.small`, `picture.large`, `picture.transparent`.
    """
    if image.type in {"RENDER_RESULT", "COMPOSITING"}:
        raise TurnaroundError(
            "picture.unreadable",
            f'Blender does not hand out the pixels of "{image.name}".',
            "Save it with Image > Save As and open the saved file.",
            field="picture",
        )
    width, height = image.size  # loads the file if that has not happened yet
    if width == 0 or height == 0 or not image.has_data:
        raise TurnaroundError(
            "picture.unreadable",
            f'"{image.name}" cannot be read as a picture.',
            "Its file may be missing or damaged; open another one.",
            field="picture",
        )
    check_size(width, height)
    channels = len(image.pixels) // (width * height)
    flat = np.empty(width * height * channels, dtype=np.float32)
    image.pixels.foreach_get(flat)
    rgba = _srgb_bytes(
        flat.reshape(height, width, channels)[::-1], linear=_is_linear(image), premultiplied=image.is_float
    )
    if not rgba[..., 3].any():
        raise TurnaroundError(
            "picture.transparent",
            "The picture is completely transparent.",
            "Choose a picture in which the object can be seen.",
            field="picture",
        )
    return averaged(rgba, _reduction((width, height)))


def _reduction(size: tuple[int, int]) -> int:
    """The whole factor by which an image of this size is made smaller."""
    return -(-max(size) // LARGEST_SENT_SIDE)


def pixel_at(place: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """Where a place on an image lies in what `read` gives of it: x and y in pixels, top row first, never outside.

    Args:
        place: as the Image Editor counts, in fractions of width and height from the lower left corner.
        size: width and height of the image, in pixels of its own.
    """
    factor = _reduction(size)
    right, down = place[0] * size[0] / factor, (1.0 - place[1]) * size[1] / factor
    return min(max(right, 0.0), float(size[0] // factor)), min(max(down, 0.0), float(size[1] // factor))


def _is_linear(image: bpy.types.Image) -> bool:
    """Whether `image.pixels` are light, not display values: float buffers always are, bytes by their colour space."""
    name = image.colorspace_settings.name
    return image.is_float or name.startswith("Linear") or name in {"Working Space", "scene_linear"}


def _srgb_bytes(pixels: NDArray[np.float32], *, linear: bool, premultiplied: bool) -> Pixels:
    """Float pixels [H, W, 1..4] as uint8 [H, W, 4], a few rows at a time to bound the memory."""
    height, width, channels = pixels.shape
    out = np.empty((height, width, 4), dtype=np.uint8)
    rows = max(1, CHUNK_PIXELS // width)
    for top in range(0, height, rows):
        part = np.nan_to_num(pixels[top : top + rows], nan=0.0, posinf=1.0, neginf=0.0)
        color = part[..., :3] if channels >= 3 else np.repeat(part[..., :1], 3, axis=-1)
        alpha = part[..., channels - 1 :] if channels in (2, 4) else np.ones_like(part[..., :1])
        if premultiplied:
            color = color / np.where(alpha > 1e-6, alpha, 1.0)
        if linear:
            color = srgb_from_linear(color)
        chunk = out[top : top + rows]
        chunk[..., :3] = np.clip(color, 0.0, 1.0) * 255.0 + 0.5
        chunk[..., 3:] = np.clip(alpha, 0.0, 1.0) * 255.0 + 0.5
    return out


def averaged(rgba: Pixels, factor: int) -> Pixels:
    """The picture smaller by a whole factor: means over blocks, colours weighted by alpha. Leftover edges are cut."""
    if factor <= 1:
        return rgba
    height, width = rgba.shape[0] // factor, rgba.shape[1] // factor
    out = np.empty((height, width, 4), dtype=np.uint8)
    for row in range(height):
        line = rgba[row * factor : (row + 1) * factor, : width * factor].astype(np.float32)
        blocks = line.reshape(factor, width, factor, 4).transpose(1, 0, 2, 3).reshape(width, factor * factor, 4)
        alpha = blocks[..., 3:]
        weight = alpha.sum(axis=1)
        color = (blocks[..., :3] * alpha).sum(axis=1) / np.maximum(weight, 1e-6)
        out[row] = np.concatenate([color, weight / factor**2], axis=-1) + 0.5
    return out


def write(name: str, rgba: Pixels, image: bpy.types.Image | None = None) -> bpy.types.Image:
    """An image datablock with these pixels: `image` if it is given, else a new one called `name`."""
    height, width = rgba.shape[:2]
    if image is None:
        image = bpy.data.images.new(name, width, height, alpha=True)
    elif tuple(image.size) != (width, height):
        image.scale(width, height)
    image.pixels.foreach_set((rgba[::-1].astype(np.float32) / 255.0).ravel())
    image.update()
    return image


def contact_sheet(views: Pixels, cutout: Pixels | None = None) -> Pixels:
    """Pictures [V, H, W, 4] side by side in a near-square grid, the cutout first; tiles of at most `TILE_SIDE`."""
    side = min(TILE_SIDE, views.shape[1] if len(views) else cutout.shape[0] if cutout is not None else 1)
    tiles = [_tile(picture, side) for picture in ([cutout] if cutout is not None else []) + list(views)]
    columns = int(np.ceil(np.sqrt(len(tiles)))) or 1
    rows = -(-len(tiles) // columns) or 1
    sheet = np.zeros((rows * side, columns * side, 4), dtype=np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    sheet[sheet[..., 3] < FAINTEST] = 0
    return sheet


def _tile(picture: Pixels, side: int) -> Pixels:
    """A picture sampled at the centres of `side` x `side` cells."""
    rows = ((np.arange(side) + 0.5) * picture.shape[0] / side).astype(int)
    columns = ((np.arange(side) + 0.5) * picture.shape[1] / side).astype(int)
    return picture[rows[:, None], columns]
