"""Pictures at the command line: read, written, and told from where they look."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from protocol.errors import TurnaroundError
from protocol.messages import Direction

from .console import warn

Also = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PICTURE@AZIMUTH[,ELEVATION]",
        help="A further picture and from where it was taken, in degrees: BACK.png@180. For engines that take several; "
        "may be repeated.",
    ),
]


def read(path: Path) -> NDArray[np.uint8]:
    """A picture from a file, uint8 [H, W, 4], with what is to be known of it said; raises like `read_picture`."""
    from backend.preparation.picture import PictureWarning, read_picture

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = read_picture(path)
    for warning in caught:
        if issubclass(warning.category, PictureWarning):
            warn(str(warning.message))
    return picture


def write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Writes uint8 [H, W, 4]."""
    from PIL import Image

    from backend.geometry.export import write_file

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    write_file(path, content.getvalue())


def parse_direction(text: str, field: str) -> Direction:
    """AZIMUTH[,ELEVATION] in degrees; `check_settings` looks at the bounds.

    Raises:
        TurnaroundError: `settings.invalid`, with the field.
    """
    try:
        azimuth, *elevation = (float(part) for part in text.split(","))
        if len(elevation) > 1:
            raise ValueError(text)
    except ValueError:
        raise TurnaroundError(
            "settings.invalid",
            f'"{text}" is no direction.',
            "Write it in degrees as AZIMUTH, or AZIMUTH,ELEVATION: 180 is from behind, 90,30 from the right and above.",
            field=field,
        ) from None
    return Direction(azimuth_deg=azimuth, elevation_deg=elevation[0] if elevation else None)


def parse_also(texts: list[str] | None) -> list[tuple[Path, Direction]]:
    """What `--also` says; raises like `parse_direction`."""
    parsed = []
    for text in texts or []:
        path, _, direction = text.rpartition("@")
        parsed.append((Path(path or direction), parse_direction(direction if path else "", "extra_pictures")))
    return parsed
