"""Files of every format, read back by another program's eyes: nothing mirrored, nothing moved, colours kept."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from backend.geometry.export import FORMATS, write_mesh
from backend.geometry.mesh import Mesh
from backend.training.data.meshes import load_mesh
from protocol.errors import TurnaroundError

RIGHT, TOP, FRONT, REST = [(200, 30, 30, 255), (30, 200, 30, 255), (10, 12, 200, 255), (90, 90, 90, 255)]


@pytest.fixture
def signpost() -> Mesh:
    """A box whose corner towards right, front and top is cut off, with a colour for each direction."""
    corners = np.array([[x, y, z] for x in (-0.2, 0.4) for y in (-0.3, 0.2) for z in (-0.1, 0.5)], np.float32)
    colors = np.array([REST] * 8, np.uint8)
    colors[7], colors[1], colors[4] = RIGHT, TOP, FRONT
    hull = trimesh.convex.convex_hull(corners)
    order = [int(np.argmin(np.linalg.norm(corners - v, axis=1))) for v in hull.vertices]
    return Mesh(np.asarray(hull.vertices, np.float32), np.asarray(hull.faces, np.int32), colors[order])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_mesh_comes_back_upright_and_unmirrored(signpost: Mesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"signpost{suffix}"
    write_mesh(signpost, path)
    assert list(path.parent.iterdir()) == [path]
    read = trimesh.load(path, force="mesh", process=False)
    vertices = np.asarray(read.vertices)
    if suffix != ".ply":  # x right, y up, z towards the viewer, by the formats' own words
        vertices = np.column_stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]])
    np.testing.assert_allclose(vertices, signpost.vertices, atol=1e-6)
    np.testing.assert_array_equal(read.faces, signpost.faces)
    assert read.volume > 0, "faces look outside"
    np.testing.assert_array_equal(load_mesh(path).colors, signpost.colors)


def test_dark_colours_stay_apart_in_glb(tmp_path: Path) -> None:
    shades = np.arange(256, dtype=np.uint8)
    colors = np.stack([shades, shades, shades, np.full(256, 255, np.uint8)], axis=1)
    faces = np.array([[0, 1, 2]], np.int32)
    write_mesh(Mesh(np.random.default_rng(0).random((256, 3)).astype(np.float32), faces, colors), tmp_path / "a.glb")
    content = (tmp_path / "a.glb").read_bytes()
    start = 20 + struct.unpack_from("<I", content, 12)[0] + 8 + 256 * 12
    stored = np.frombuffer(content, "<u2", 256 * 4, start).reshape(256, 4)
    assert len(np.unique(stored[:, 0])) == 256
    assert (stored[:, 3] == 65_535).all()


def test_another_ending_and_a_full_disk_are_said_in_words(
    signpost: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TurnaroundError, match=r"\.glb, \.ply, \.obj") as failure:
        write_mesh(signpost, tmp_path / "mesh.fbx")
    assert failure.value.code == "export.format"

    path = tmp_path / "mesh.ply"
    path.write_text("before")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TurnaroundError, match="No space left") as failure:
        write_mesh(signpost, path)
    assert failure.value.code == "export.failed"
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
