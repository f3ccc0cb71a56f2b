"""Looking pictures up at many places at once."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def sampled(
    picture: NDArray[np.float32], pixels: NDArray[np.floating], border: int = cv2.BORDER_CONSTANT
) -> NDArray[np.float32]:
    """A picture [H, W, C] at places [N, 2] (x, y), linear between pixel centres, which lie at +0.5: [N, C].

    `border` is OpenCV's; by default there is nothing but zeros beyond the picture.
    """
    # OpenCV takes at most 32,767 rows or columns, and its pixel centres lie at integers
    count = len(pixels)
    side = int(np.ceil(np.sqrt(max(count, 1))))
    places = np.pad((pixels - 0.5).astype(np.float32), ((0, side * side - count), (0, 0))).reshape(side, side, 2)
    found = cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[call-overload]
    return np.asarray(found, np.float32).reshape(-1, picture.shape[-1])[:count]
