"""The picture as a thumbnail in which what was cut out stands bright, so that a bad cutout is seen at once."""

from __future__ import annotations

import bpy.utils.previews
import numpy as np
from numpy.typing import NDArray

from ..protocol.messages import Framing

SIDE = 128
DIMMED = 0.3
"""How much of its brightness the background keeps."""

_previews: bpy.utils.previews.ImagePreviewCollection | None = None


def compose(picture: NDArray[np.uint8], matte: NDArray[np.uint8], framing: Framing) -> NDArray[np.float32]:
    """The thumbnail, float32 [SIDE, SIDE, 4] 0..1, premultiplied, top row first.

    Args:
        picture: uint8 [H, W, 4].
        matte: uint8 [S, S], the subject's alpha in the framed square.
        framing: of the square in the picture, in pixels.
    """
    height, width = picture.shape[:2]
    step = max(height, width) / SIDE
    centres = (np.arange(SIDE) + 0.5) * step
    ys, xs = centres - 0.5 * (SIDE * step - height), centres - 0.5 * (SIDE * step - width)
    inside = ((ys >= 0) & (ys < height))[:, None] & ((xs >= 0) & (xs < width))
    rows, columns = np.clip(ys, 0, height - 1).astype(int), np.clip(xs, 0, width - 1).astype(int)
    shown = picture[rows[:, None], columns] / np.float32(255.0)
    shown[..., 3] *= inside

    side = len(matte)
    down = np.floor(((ys - framing.center_y) / framing.side + 0.5) * side).astype(int)
    right = np.floor(((xs - framing.center_x) / framing.side + 0.5) * side).astype(int)
    framed = ((down >= 0) & (down < side))[:, None] & ((right >= 0) & (right < side))
    alpha = matte[np.clip(down, 0, side - 1)[:, None], np.clip(right, 0, side - 1)] / np.float32(255.0)
    subject = np.where(framed, alpha, np.float32(0.0))
    shown[..., :3] *= (DIMMED + (1.0 - DIMMED) * subject)[..., None] * shown[..., 3:]  # icons are drawn premultiplied
    return shown.astype(np.float32)


def show(name: str, pixels: NDArray[np.float32]) -> None:
    """Keeps a thumbnail [SIDE, SIDE, 4] for the picture called `name`."""
    if _previews is None:
        return
    thumbnail = _previews.get(name) or _previews.new(name)
    thumbnail.image_size = (SIDE, SIDE)
    thumbnail.image_pixels_float = pixels[::-1].ravel().tolist()


def icon(name: str) -> int:
    """The thumbnail's icon; 0 if there is none."""
    return _previews[name].icon_id if _previews is not None and name in _previews else 0


def drop(name: str) -> None:
    """Forgets a thumbnail."""
    if _previews is not None and name in _previews:
        del _previews[name]


def register() -> None:
    """Opens the collection of thumbnails."""
    global _previews
    _previews = bpy.utils.previews.new()


def unregister() -> None:
    """Frees it."""
    global _previews
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
        _previews = None
