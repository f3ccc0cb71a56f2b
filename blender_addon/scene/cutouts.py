"""What was cut out of a picture the last time: shown over it, and made into an image whose alpha can be painted."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray

from ..protocol.messages import Framing
from . import images

KEY = "turnaround_cutout_of"
"""Custom property of an image whose alpha is the matte; its value is the name of the picture that it was made of."""
MOST_KNOWN = 16


@dataclass(frozen=True)
class Cutout:
    """The backend's cutout of a picture.

    Attributes:
        alpha: uint8 [S, S], of the framed square.
        framing: of the square, in pixels of the picture as it was sent.
        size: width and height of that.
        notes: what is wrong with it, for the artist.
    """

    alpha: NDArray[np.uint8]
    framing: Framing
    size: tuple[int, int]
    notes: tuple[str, ...] = ()

    def matte(self, width: int, height: int) -> NDArray[np.uint8]:
        """The subject's alpha over the whole picture, drawn at another size: uint8 [height, width], top row first."""
        side = len(self.alpha)
        scale = side / self.framing.side
        down = (np.arange(height) + 0.5) * self.size[1] / height - self.framing.center_y
        right = (np.arange(width) + 0.5) * self.size[0] / width - self.framing.center_x
        padded = np.pad(self.alpha, 1).astype(np.float32)  # nothing of the subject lies outside of the square
        rows = _along(padded, down * scale + side / 2 + 0.5)
        return (_along(rows.T, right * scale + side / 2 + 0.5).T + 0.5).astype(np.uint8)


_known: dict[str, Cutout] = {}


def keep(name: str, cutout: Cutout) -> None:
    """Remembers what was cut out of the picture called `name`."""
    _known.pop(name, None)
    _known[name] = cutout
    while len(_known) > MOST_KNOWN:
        del _known[next(iter(_known))]


def known(name: str) -> Cutout | None:
    """What was cut out of it the last time since Blender was started, if anything was."""
    return _known.get(name)


def forget(name: str | None = None) -> None:
    """Forgets a picture's cutout, or all of them."""
    if name is None:
        _known.clear()
    _known.pop(name or "", None)


# ------------------------------------------------------------------------------------------------- painted cutouts


def original(image: bpy.types.Image) -> str:
    """Name of the picture that an image is a paintable cutout of; "" if it is none."""
    name = image.get(KEY)
    return name if isinstance(name, str) else ""


def paintable(image: bpy.types.Image, cutout: Cutout) -> bpy.types.Image:
    """A picture's copy whose alpha is the matte; what is clear keeps its colours, so that it can be painted back.

    Raises:
        TurnaroundError: as `images.read`.
    """
    rgba = images.read(image)
    rgba[..., 3] = cutout.matte(rgba.shape[1], rgba.shape[0])
    copy = images.write(f"{image.name.rsplit('.', 1)[0]} Cutout", rgba)
    copy[KEY] = image.name
    copy.pack()
    return copy


def read(image: bpy.types.Image) -> tuple[images.Pixels, NDArray[np.uint8] | None]:
    """A picture's pixels as `images.read` gives them, and its matte [H, W] if it is a paintable cutout.

    Raises:
        TurnaroundError: as `images.read`.
    """
    rgba = images.read(image)
    if not original(image):
        return rgba, None
    matte = rgba[..., 3].copy()
    rgba[..., 3] = 255
    return rgba, matte


def _along(values: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of [N, M] interpolated at places, whose whole numbers are the rows' centres; the end rows go on."""
    places = np.clip(places, 0.0, len(values) - 1.0)
    first = np.minimum(places.astype(int), len(values) - 2)
    weight = (places - first).astype(np.float32)[:, None]
    return values[first] * (1.0 - weight) + values[first + 1] * weight
