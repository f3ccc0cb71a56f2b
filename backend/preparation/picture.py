"""Pictures from files, and the checks that every picture has to pass."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from protocol.errors import TurnaroundError
from protocol.messages import MAX_PICTURE_SIDE

MIN_PICTURE_SIDE = 16
"""Shorter side below which nothing can be recognised, in pixels."""

WORK_SIDE = 2048
"""Longest side that the pipeline needs; larger pictures are reduced to it."""

UNIFORM_LEVELS = 6
"""A picture whose colours span no more levels than this has nothing on it (compression noise stays below)."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "TGA", "PPM", "JPEG2000", "AVIF", "PSD")
"""Decoders that a picture may reach: raster formats alone, none that starts another program (as EPS does)."""


class PictureWarning(UserWarning):
    """Something about a picture that its owner should know, though it could be read."""


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """Reads a picture file as the project has pictures: upright, 8 bits, straight alpha, sRGB.

    An embedded colour profile is converted to sRGB, the orientation that a phone has noted is applied, and 16-bit,
    grey, palette and CMYK pictures become RGBA. Of an animation the first frame is taken, with a `PictureWarning`.

    Args:
        path: a file in one of `FORMATS`, told by its content and not by its name.

    Returns:
        uint8 [H, W, 4], top row first.

    Raises:
        TurnaroundError: `picture.missing`, `picture.unreadable`, `picture.damaged`, `picture.too_large`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound decides
            image = _open(file, path.name)
            if max(image.size) > MAX_PICTURE_SIDE:
                raise _too_large(*image.size)
            animated = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
            pixels = _decode(image, path.name)
    except FileNotFoundError:
        raise _error("missing", f'There is no file "{path.name}".', "Check the path.") from None
    except OSError as error:
        raise _error(
            "unreadable",
            f'"{path.name}" cannot be opened.',
            "Check that it is a file and that you may read it.",
            details=str(error),
        ) from error
    if animated:
        warnings.warn(PictureWarning(f'"{path.name}" has several frames: the first is used.'), stacklevel=2)
    return pixels


def check_picture(picture: NDArray[np.uint8], *, has_matte: bool = False) -> None:
    """Makes sure that there can be a subject on a picture.

    Args:
        picture: uint8 [H, W, 4], straight alpha.
        has_matte: the subject's outline comes separately, so that the picture's own content need not show it.

    Raises:
        TurnaroundError: `picture.format`, `picture.too_small`, `picture.too_large`, `picture.transparent`,
            `picture.uniform`.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 4:
        raise _error(
            "format",
            "The picture is not in a form that can be used.",
            "Send 8-bit RGBA pixels.",
            details=f"{picture.dtype} {picture.shape}",
        )
    height, width = picture.shape[:2]
    if min(height, width) < MIN_PICTURE_SIDE:
        raise _error(
            "too_small",
            f"The picture has only {width} x {height} pixels.",
            f"Use one with at least {MIN_PICTURE_SIDE} pixels to each side; 256 or more give a good shape.",
        )
    if max(height, width) > MAX_PICTURE_SIDE:
        raise _too_large(width, height)
    if has_matte:
        return
    alpha = picture[..., 3]
    if alpha.max() < 8:
        raise _error(
            "transparent",
            "The picture is transparent everywhere.",
            "Use a picture that shows an object, or check its alpha channel.",
        )
    if alpha.min() == alpha.max() and np.ptp(picture[..., :3], axis=(0, 1)).max() <= UNIFORM_LEVELS:
        raise _error(
            "uniform", "There is nothing on the picture: it has one colour.", "Use a picture that shows an object."
        )


def reduce_picture(picture: NDArray[np.uint8], side: int = WORK_SIDE) -> tuple[NDArray[np.uint8], float]:
    """A picture small enough to work on, so that a photograph of 200 megapixels costs neither time nor memory.

    Args:
        picture: uint8 [H, W, 4], straight alpha.
        side: the longest side that the result may have.

    Returns:
        The picture, itself if it is small enough; and the number of the old pixels that one of the new ones covers
        (to half a new pixel at the far border, where the shorter side had to be rounded).
    """
    height, width = picture.shape[:2]
    factor = max(height, width) / side
    if factor <= 1:
        return picture, 1.0
    size = max(1, round(width / factor)), max(1, round(height / factor))

    def shrink(values: NDArray[np.integer]) -> NDArray[np.float32]:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)

    alpha = picture[..., 3].astype(np.uint16)
    cover = shrink(alpha * np.uint16(255))
    small = np.empty((size[1], size[0], 4), np.uint8)
    small[..., 3] = cover / 255 + 0.5
    for c in range(3):  # premultiplied, one channel at a time
        straight = 255 * shrink(picture[..., c] * alpha) / np.maximum(cover, 1)
        small[..., c] = np.clip(straight + 0.5, 0, 255)
    return small, factor


def _error(code: str, sentence: str, hint: str, *, details: str = "") -> TurnaroundError:
    return TurnaroundError(f"picture.{code}", sentence, hint, field="picture", details=details)


def _too_large(width: int, height: int) -> TurnaroundError:
    return _error(
        "too_large",
        f"The picture has {width:,} x {height:,} pixels, more than can be worked on.",
        f"Make it smaller: at most {MAX_PICTURE_SIDE:,} to a side; 1,024 lose nothing.",
    )


def _open(file: BinaryIO, name: str) -> Image.Image:
    Image.init()
    try:
        return Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN])
    except UnidentifiedImageError:
        raise _error(
            "unreadable", f'"{name}" is not a picture that can be read.', "Save it as PNG or JPEG and use that."
        ) from None
    except Image.DecompressionBombError as error:
        raise _error(
            "too_large",
            "The picture has more pixels than can be worked on.",
            "Make it smaller; 1,024 pixels to a side lose nothing.",
            details=str(error),
        ) from error
    except Exception as error:  # decoders raise all sorts on damaged headers
        raise _damaged(name, error) from error


def _decode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    try:
        image.seek(0)
        image.load()
        return np.array(_srgb(ImageOps.exif_transpose(image)))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all sorts on damaged data
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> TurnaroundError:
    return _error(
        "damaged",
        f'"{name}" is damaged or incomplete.',
        "Get or save it again; PNG and JPEG are safest.",
        details=f"{type(error).__name__}: {error}",
    )


def _srgb(image: Image.Image) -> Image.Image:
    """RGBA in sRGB from a loaded image of any mode."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if "A" in image.getbands() and image.mode != "LAB" else None
    colours = image.convert({"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode))
    if profile or colours.mode == "LAB":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
            converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            colours = converted or colours
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # an unusable profile is as good as none
    result = colours.convert("RGBA")
    if alpha is not None:
        result.putalpha(alpha)
    return result


def _eight_bits(image: Image.Image) -> Image.Image:
    """Mode L from 16-bit, 32-bit and floating-point grey, whose white is the nearest usual one above its values."""
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        white = 65_535.0
    else:
        highest = max(float(values.max()), 0.0)
        white = next((w for w in (1.0, 255.0, 65_535.0) if highest <= w and (w > 1 or image.mode == "F")), highest)
    return Image.fromarray(np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))
