"""Framing: the subject cut out of its picture, centred in a square, at the size that the networks expect.

Every picture is framed alike: the longer side of the subject's bounding box fills `FILL` of the square. The camera of
the framed square looks at the object frame's origin from the distance at which the square is `2 * HALF_WIDTH` wide
there, whatever the field of view, so that every subject has about the same size in object units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.geometry.cameras import Camera
from protocol.errors import TurnaroundError
from protocol.messages import Framing

FILL = 0.75
"""Share of the square that the longer side of the subject's bounding box fills (One-2-3-45's preprocessing)."""

HALF_WIDTH = 0.58
"""Half the square's width at the origin, in object units: FILL * HALF_WIDTH = 0.435 is the subject's half size."""

DEFAULT_FOV_DEG = 40.0


def framed_camera(elevation_deg: float, azimuth_deg: float = 0.0, fov_deg: float = DEFAULT_FOV_DEG) -> Camera:
    """The camera of a framed square: it sees `HALF_WIDTH` to each side of the origin."""
    return Camera(elevation_deg, azimuth_deg, float(HALF_WIDTH / np.tan(np.radians(fov_deg) / 2)), fov_deg)


def subject_box(cutout: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The subject's bounding box (left, top, right, bottom) in pixel edges, right and bottom exclusive.

    A pixel belongs to the subject where its alpha is more than half of the highest, so that a soft edge ends where
    the shape does, and a faint shadow or a veil of noise does not count.

    Args:
        cutout: uint8 [H, W, 4], straight alpha.

    Raises:
        TurnaroundError: `picture.transparent`.
    """
    alpha = cutout[..., 3]
    return bounding_box(alpha > alpha.max() // 2)


def bounding_box(solid: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of what is true in [H, W], right and bottom exclusive.

    Raises:
        TurnaroundError: `picture.transparent`, nothing is.
    """
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        raise TurnaroundError(
            "picture.transparent",
            "The picture is transparent everywhere.",
            "Use a picture that shows an object, or check its alpha channel.",
            field="picture",
        )
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def frame(cutout: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], Framing]:
    """Cuts out the square about the subject and resamples it.

    A point (x, y) of the framed square, in its pixels, lies in the picture at
    `(center_x, center_y) + ((x, y) / size - 0.5) * side`; pixel centres are at +0.5 in both.

    Args:
        cutout: uint8 [H, W, 4], straight alpha; the subject alone.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 4], straight alpha, transparent where the square reaches beyond the picture; and where the
        square lies in the picture.

    Raises:
        TurnaroundError: `picture.transparent`.
    """
    left, top, right, bottom = subject_box(cutout)
    framing = Framing(
        center_x=(left + right) / 2, center_y=(top + bottom) / 2, side=max(right - left, bottom - top) / FILL
    )
    return _resample(cutout, framing, size), framing


def _resample(picture: NDArray[np.uint8], framing: Framing, size: int) -> NDArray[np.uint8]:
    """The framed square at `size`, filtered with premultiplied alpha so that no hidden colour bleeds in."""
    height, width = picture.shape[:2]
    x0, y0 = framing.center_x - framing.side / 2, framing.center_y - framing.side / 2
    x1, y1 = x0 + framing.side, y0 + framing.side
    # The filter's support beyond the square; resize then wants a box inside of an image that is padded to hold it.
    margin = int(np.ceil(2 * max(1.0, framing.side / size)))
    px0, py0 = int(np.floor(x0)) - margin, int(np.floor(y0)) - margin
    px1, py1 = int(np.ceil(x1)) + margin, int(np.ceil(y1)) + margin
    crop = picture[max(py0, 0) : min(py1, height), max(px0, 0) : min(px1, width)]
    pad = ((max(-py0, 0), max(py1 - height, 0)), (max(-px0, 0), max(px1 - width, 0)))
    box = (x0 - px0, y0 - py0, x1 - px0, y1 - py0)
    # Both filters have no negative lobes, so that nothing rings at the subject's edge.
    kernel = Image.Resampling.HAMMING if framing.side > size else Image.Resampling.BILINEAR

    def resize(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(Image.fromarray(np.pad(channel, pad)).resize((size, size), kernel, box=box))

    cover = crop[..., 3].astype(np.float32) / 255
    alpha = resize(cover)
    square = np.zeros((size, size, 4), np.uint8)
    for c in range(3):
        premultiplied = resize(crop[..., c] * cover)
        straight = premultiplied / np.maximum(alpha, 1e-6)
        square[..., c] = np.clip(straight + 0.5, 0, 255) * (alpha * 255 >= 0.5)
    square[..., 3] = np.clip(alpha * 255 + 0.5, 0, 255)
    return square
