"""Views that networks draw on white, cut out again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FAINT, SOLID = 6, 48
"""Darker than white by less is background, by more is the object, and between is the object's soft edge."""


def cut_from_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Opaque views on white with the white that reaches the border taken away.

    White within the object stays; a white object's edge is lost with the background, as nothing tells them apart.

    Args:
        images: uint8 [V, S, S, 4], opaque.

    Returns:
        The same, straight alpha; colours as they are without the white.
    """
    colors = images[..., :3].astype(np.float32)
    darkness = 255 - colors.min(axis=-1)
    alpha = np.ones(darkness.shape, np.float32)
    border = np.zeros(darkness.shape[1:], bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    for mask, dark in zip(alpha, darkness, strict=True):
        light = dark < SOLID
        outside = ndimage.binary_propagation(border & light, mask=light)
        mask[outside] = np.clip((dark[outside] - FAINT) / (SOLID - FAINT), 0, 1)
    share = np.maximum(alpha, 1 / 255)[..., None]
    unmixed = np.where(alpha[..., None] > 0, 255 - (255 - colors) / share, 255)
    return np.concatenate([np.clip(unmixed, 0, 255), 255 * alpha[..., None]], axis=-1).round().astype(np.uint8)
