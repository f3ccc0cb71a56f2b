"""A sheet that shows what came of a picture: `python -m backend.evaluation.sheet PICTURE MESH VIEWS -o SHEET.png`.

From top to bottom: the picture, the views that were drawn from it, and the mesh from four sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from backend.geometry.mesh import Mesh
from backend.geometry.render import Light, prepare, render
from backend.preparation.framing import framed_camera
from backend.preparation.picture import read_picture
from backend.training.data.meshes import load_mesh

Picture = NDArray[np.uint8]

BACKGROUND = (250, 250, 248)
INK = (70, 70, 70)
MARGIN = 12
CAPTION = 22
SIDES = (("Front", 0.0), ("Right", 90.0), ("Back", 180.0), ("Left", 270.0))
"""Caption and azimuth; the input picture's camera stands at azimuth 0."""


def four_sides(mesh: Mesh, size: int, elevation_deg: float = 20.0) -> list[tuple[str, Picture]]:
    """The mesh from its front, right, back and left, lit softly: caption and uint8 [size, size, 4] each."""
    scene, light = prepare(mesh), Light(ambient=0.75)
    return [(name, render(scene, framed_camera(elevation_deg, azimuth), size, light).rgba) for name, azimuth in SIDES]


def sheet(rows: Sequence[Sequence[tuple[str, Picture]]], cell: int = 256) -> Image.Image:
    """Captioned pictures in rows, each fitted into a square of `cell` pixels.

    Args:
        rows: of (caption, uint8 [H, W, 3 or 4] straight-alpha sRGB); rows may differ in length.
        cell: side of a square in pixels.
    """
    columns = max(len(row) for row in rows)
    width = columns * (cell + MARGIN) + MARGIN
    page = Image.new("RGB", (width, len(rows) * (cell + CAPTION + MARGIN) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(page)
    for r, row in enumerate(rows):
        for c, (caption, pixels) in enumerate(row):
            x, y = MARGIN + c * (cell + MARGIN), MARGIN + r * (cell + CAPTION + MARGIN)
            picture = ImageOps.contain(Image.fromarray(pixels).convert("RGBA"), (cell, cell), Image.Resampling.LANCZOS)
            corner = (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2)
            page.paste(picture, corner, picture)
            draw.text((x + cell // 2, y + cell + CAPTION // 2), caption, INK, anchor="mm", font_size=13)
    return page


def write_sheet(
    picture: Annotated[Path, typer.Argument(help="The input picture.")],
    mesh: Annotated[Path, typer.Argument(help="The mesh that came of it.")],
    views: Annotated[Path, typer.Argument(help="What `turnaround generate --views-out` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The sheet to write.")],
) -> None:
    """Shows a picture, its views and its mesh from four sides on one sheet."""
    given = [("Picture", read_picture(picture)), ("Cut out", read_picture(views / "cutout.png"))]
    paths = sorted(views.glob("view_*.png"))
    drawn = [(f"View {number}", read_picture(path)) for number, path in enumerate(paths, start=1)]
    sides = [(f"Mesh, {name.lower()}", pixels) for name, pixels in four_sides(load_mesh(mesh), 512)]
    sheet([given, *(drawn[i : i + 4] for i in range(0, len(drawn), 4)), sides]).save(output)


if __name__ == "__main__":
    typer.run(write_sheet)
