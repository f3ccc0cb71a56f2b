"""The sRGB transfer curve (IEC 61966-2-1): Blender computes with light, pictures hold display values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def srgb_from_linear(linear: Floats) -> Floats:
    """Display values 0..1 of linear light; what lies outside 0..1 is clipped."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def linear_from_srgb(srgb: Floats) -> Floats:
    """Linear light of display values 0..1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


LINEAR_OF_BYTE = linear_from_srgb(np.arange(256, dtype=np.float32) / 255.0)
"""Linear light of each 8-bit sRGB value."""
