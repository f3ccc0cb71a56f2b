"""Pictures and maps as the X-UNet's channels, and back.

RGBA pictures (`image_channels` 4) are premultiplied in signed values: channel = alpha * (2 rgb - 1), so that nothing
is 0, and alpha itself becomes 2 alpha - 1. The background's colour is then no part of the picture and cannot bleed
into it. RGB pictures (`image_channels` 3, published) stand on white, at 2 rgb - 1.

Maps are renders of a shape that is already known, seen from the frame's camera: straight RGB and alpha in 0..1, and the
seen points' object-frame coordinates. Their colours are premultiplied in the same way, coordinates are doubled to fill
-1..1, and the background is 0.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def encode_images(images: Tensor, channels: int) -> Tensor:
    """Straight-alpha uint8 [..., H, W, 4] to float32 [..., channels, H, W] in -1..1."""
    rgba = images.float().movedim(-1, -3) / 255
    rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    if channels == 3:
        return 2 * (rgb * alpha + 1 - alpha) - 1
    return torch.cat([alpha * (2 * rgb - 1), 2 * alpha - 1], dim=-3)


def decode_images(encoded: Tensor) -> NDArray[np.uint8]:
    """[..., C, H, W] to straight-alpha uint8 [..., H, W, 4]; RGB pictures come out opaque."""
    encoded = encoded.float().clamp(-1, 1)
    if encoded.shape[-3] == 3:
        rgb, alpha = encoded, torch.ones_like(encoded[..., :1, :, :])
    else:
        alpha = (encoded[..., 3:, :, :] + 1) / 2
        rgb = (encoded[..., :3, :, :] / alpha.clamp(min=1 / 255)).clamp(-1, 1)
    rgba = torch.cat([(rgb + 1) / 2, alpha], dim=-3)
    return (rgba * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def encode_maps(maps: Tensor) -> Tensor:
    """[..., H, W, 7] (rgb, alpha, object-frame xyz) to float32 [..., 7, H, W] in about -1..1."""
    maps = maps.float().movedim(-1, -3)
    rgb, alpha, coordinates = maps.split([3, 1, 3], dim=-3)
    return torch.cat([alpha * (2 * rgb - 1), 2 * alpha - 1, 2 * alpha * coordinates], dim=-3)
