"""The sheet shows the sides of a mesh where its captions say they are."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
import typer
from PIL import Image
from typer.testing import CliRunner

from backend.evaluation.sheet import CAPTION, MARGIN, four_sides, sheet, write_sheet
from backend.geometry.export import FORMATS, write_mesh
from backend.geometry.mesh import Mesh

SIDES = {
    "Front": ((0, -1, 0), (220, 30, 30)),
    "Right": ((1, 0, 0), (30, 200, 30)),
    "Back": ((0, 1, 0), (40, 40, 220)),
    "Left": ((-1, 0, 0), (220, 200, 30)),
}


@pytest.fixture
def coloured_box():
    """A box whose four sides have a colour each."""
    box = trimesh.creation.box((0.5, 0.5, 0.5))
    colors = np.full((len(box.faces), 4), 255, np.uint8)
    for normal, color in SIDES.values():
        colors[box.face_normals @ np.array(normal) > 0.9, :3] = color
    vertices = box.triangles.reshape(-1, 3).astype(np.float32)
    return Mesh(vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3), colors.repeat(3, axis=0))


def hue(pixel) -> int:
    """Index of the side whose colour a pixel has, whatever the light."""
    wanted = np.array([color for _, color in SIDES.values()], float)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    return int(np.argmax(wanted @ np.asarray(pixel[:3], float)))


def test_each_side_is_seen_under_its_name(coloured_box):
    seen = four_sides(coloured_box, 64, elevation_deg=0.0)
    assert [name for name, _ in seen] == list(SIDES)
    assert [hue(pixels[32, 32]) for _, pixels in seen] == [0, 1, 2, 3]
    assert all(pixels[0, 0, 3] == 0 for _, pixels in seen)


def test_pictures_keep_their_shape_and_their_place():
    wide = np.zeros((10, 40, 4), np.uint8)
    wide[..., 0], wide[..., 3] = 255, 255
    page = np.asarray(sheet([[("one", wide)], [("two", wide), ("three", wide[..., :3])]], cell=40))
    assert page.shape == (2 * (40 + CAPTION + MARGIN) + MARGIN, 2 * (40 + MARGIN) + MARGIN, 3)
    red = (page[..., 0] == 255) & (page[..., 1] == 0)
    assert red.sum() == 3 * 10 * 40
    assert red[MARGIN + 15 : MARGIN + 25, MARGIN : MARGIN + 40].all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_command_writes_the_sheet(coloured_box, tmp_path, suffix):
    write_mesh(coloured_box, tmp_path / f"mesh{suffix}")
    (tmp_path / "views").mkdir()
    for name in ("cutout", "view_01", "view_02", "view_03", "view_04", "view_05"):
        Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "views" / f"{name}.png")
    Image.new("RGB", (80, 60), "white").save(tmp_path / "picture.png")
    app = typer.Typer()
    app.command()(write_sheet)
    paths = [str(tmp_path / name) for name in ("picture.png", f"mesh{suffix}", "views")]
    result = CliRunner().invoke(app, [*paths, "-o", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0, result.output
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    cell = 256
    assert page.shape[0] == 4 * (cell + CAPTION + MARGIN) + MARGIN
    row = page[3 * (cell + CAPTION + MARGIN) + MARGIN + cell * 2 // 3]
    assert [hue(row[MARGIN + c * (cell + MARGIN) + cell // 2]) for c in range(4)] == [0, 1, 2, 3]
