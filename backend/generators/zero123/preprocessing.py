"""Pictures as Zero123 takes them: on white, 256 pixels square, and as its CLIP was shown them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIZE = 256
"""Pixels of Zero123's pictures. It was trained at no other size."""

NEARLY_WHITE = 253

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def on_white(image: NDArray[np.uint8], size: int = SIZE) -> NDArray[np.uint8]:
    """A picture laid on white, at Zero123's size or another.

    Args:
        image: uint8 [S, S, 4], straight alpha.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 4 or image.dtype != np.uint8:
        raise ValueError(f"the picture must be uint8 [S, S, 4], not {image.dtype} {image.shape}")
    alpha = image[..., 3:].astype(np.float32) / 255
    white = (image[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    if len(white) == size:
        return white
    return np.asarray(Image.fromarray(white).resize((size, size), Image.Resampling.LANCZOS))


def snap_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Drawn pictures [..., 4] with colour values of 253 and more made 255, before others are drawn from them.

    One-2-3-45 does so because a drawn background is not quite white, which drawing again would amplify.
    """
    snapped = images.copy()
    colors = snapped[..., :3]
    colors[colors >= NEARLY_WHITE] = 255
    return snapped


def signed(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, H, W, 3] as float32 [N, 3, H, W] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def unsigned(pictures: Tensor) -> NDArray[np.uint8]:
    """[N, 3, H, W] in -1..1 as opaque uint8 [N, H, W, 4] on the CPU."""
    colors = ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return F.pad(colors, (0, 1), value=255).cpu().numpy()


def clip_pixels(pictures: Tensor, size: int = 224) -> Tensor:
    """What Zero123 shows its image encoder, [N, 3, size, size], of pictures [N, 3, H, W] in -1..1.

    A bicubic resize whose corners stay where they are, without a filter before it. CLIP's usual preprocessing gives
    other numbers, which Zero123 has never seen.
    """
    resized = F.interpolate(pictures, (size, size), mode="bicubic", align_corners=True, antialias=False)
    mean, std = (pictures.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std
