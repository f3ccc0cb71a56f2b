"""The picture prepared as One-2-3-45's published code does it, for its numbers rather than the finer framing."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.preparation.framing import FILL, bounding_box
from protocol.messages import Framing

SIZE = 256
"""Pixels of the published square."""

CONTRAST = 0.8
"""What the published code's option "reduce image contrast" leaves of every value."""

OPAQUE = 200
"""A lowered alpha above this is made opaque again."""


def lower_contrast(cutout: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A cutout [H, W, 4] with darker colours, which keeps the drawn backs free of shadows; its subject stays opaque."""
    lowered = np.asarray(cv2.convertScaleAbs(cutout, alpha=CONTRAST), np.uint8)
    alpha = lowered[..., 3]
    alpha[alpha > OPAQUE] = 255
    return lowered


def frame_as_published(cutout: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Framing]:
    """The square about the subject to whole pixels, at the published size.

    The box holds every pixel that is not wholly transparent. Square and centre are rounded down, and the filter is
    Lanczos's, which rings at edges: `framing.frame` does neither.

    Args:
        cutout: uint8 [H, W, 4], straight alpha; the subject alone.

    Returns:
        uint8 [256, 256, 4], straight alpha; and where the square lies in the picture.

    Raises:
        TurnaroundError: `picture.transparent`.
    """
    left, top, right, bottom = bounding_box(cutout[..., 3] > 0)
    width, height = right - left, bottom - top
    side = int(max(width, height) / FILL)
    x, y = side // 2 - width // 2, side // 2 - height // 2
    square = np.zeros((side, side, 4), np.uint8)
    square[y : y + height, x : x + width] = cutout[top:bottom, left:right]
    picture = Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.array(picture), Framing(center_x=left - x + side / 2, center_y=top - y + side / 2, side=float(side))
