import errno
import json
import os
import struct

import numpy as np
import pytest
import trimesh

from backend.geometry.export import FORMATS, Y_UP_FROM_Z_UP, linear_colors, vertex_normals, write_mesh
from backend.geometry.mesh import Mesh
from protocol.errors import TurnaroundError

RED, GREEN, BLUE, DARK = (250, 20, 30, 255), (40, 230, 60, 255), (20, 60, 240, 255), (12, 10, 9, 255)


@pytest.fixture(scope="module")
def chiral() -> Mesh:
    """A body with a green nose to the front (-Y), a red arm to its left (+X) and a blue hat on top (+Z).

    Seen from the front the red arm is to the right; no rotation makes a mirror image of it the same.
    """
    vertices, faces, colors = [], [], []
    for center, extents, color in [
        ((0, 0, 0), (0.3, 0.2, 0.4), DARK),
        ((0, -0.2, 0.05), (0.1, 0.1, 0.1), GREEN),
        ((0.3, 0, 0.1), (0.2, 0.08, 0.08), RED),
        ((0, 0.05, 0.3), (0.14, 0.14, 0.1), BLUE),
    ]:
        part = trimesh.creation.box(extents)
        faces.append(part.faces + 8 * len(vertices))
        vertices.append(part.vertices + center)
        colors.append(np.tile(color, (8, 1)))
    return Mesh(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(colors).astype(np.uint8),
    )


def _read(path) -> trimesh.Trimesh:
    return trimesh.load(path, process=False, force="mesh")


def _as_blender_imports(path, vertices):
    """What Blender's importers do by default: PLY as it is; OBJ and glTF from Y up, (x, y, z) -> (x, -z, y)."""
    return vertices if path.suffix == ".ply" else vertices[:, [0, 2, 1]] * [1, -1, 1]


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_nothing_is_mirrored_and_it_stands_upright(tmp_path, chiral, suffix):
    path = write_mesh(chiral, tmp_path / f"chiral{suffix}")
    read = _read(path)
    assert read.is_watertight
    assert read.volume > 0  # faces outward, with no flip to hide a mirror image
    vertices = _as_blender_imports(path, np.asarray(read.vertices))
    assert np.allclose(vertices, chiral.vertices, atol=1e-6)
    assert np.array_equal(read.faces, chiral.faces)
    blocks = vertices.reshape(4, 8, 3).mean(axis=1)
    assert blocks[1, 1] < -0.1  # nose to -Y
    assert blocks[2, 0] > 0.2  # arm to +X
    assert blocks[3, 2] > 0.2  # hat to +Z


def test_axes_are_a_rotation():
    assert np.linalg.det(Y_UP_FROM_Z_UP) == pytest.approx(1)
    assert np.allclose(Y_UP_FROM_Z_UP @ Y_UP_FROM_Z_UP.T, np.eye(3))
    assert (Y_UP_FROM_Z_UP @ [0, -1, 0]).tolist() == [0, 0, 1]  # the front is glTF's front
    assert (Y_UP_FROM_Z_UP @ [0, 0, 1]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_colours_come_back(tmp_path, chiral, suffix):
    read = _read(write_mesh(chiral, tmp_path / f"a{suffix}"))
    assert np.array_equal(np.asarray(read.visual.vertex_colors)[:, :3], chiral.colors[:, :3])


def _glb_parts(path):
    data = path.read_bytes()
    magic, version, length, json_length = struct.unpack("<4sIII", data[:16])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    document = json.loads(data[20 : 20 + json_length])
    body = data[28 + json_length :]

    def array(index):
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        dtype = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        assert view["byteOffset"] % 4 == 0
        return np.frombuffer(body, dtype, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)

    return document, array


def test_glb_keeps_the_standard(tmp_path, chiral):
    document, array = _glb_parts(write_mesh(chiral, tmp_path / "a.glb"))
    primitive = document["meshes"][0]["primitives"][0]
    positions = array(primitive["attributes"]["POSITION"])
    bounds = document["accessors"][primitive["attributes"]["POSITION"]]
    assert np.allclose([bounds["min"], bounds["max"]], [positions.min(axis=0), positions.max(axis=0)])
    normals = array(primitive["attributes"]["NORMAL"])
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert (np.sum(normals[:8] * positions[:8], axis=1) > 0).all()  # the body is about the origin
    linear = array(primitive["attributes"]["COLOR_0"]) / 65_535
    assert document["accessors"][primitive["attributes"]["COLOR_0"]]["normalized"] is True
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.array_equal(np.round(srgb[:, :3] * 255), chiral.colors[:, :3])
    assert (linear[:, 3] == 1).all()
    assert document["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0


def test_every_srgb_level_survives_linear_light():
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    linear = linear_colors(levels)
    assert len(np.unique(linear[:, 0])) == 256
    assert linear[255].tolist() == [65_535] * 4
    assert linear[128].tolist() == [14_146, 14_146, 14_146, 128 * 257]


def test_a_vertex_without_faces_has_a_unit_normal():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]], np.float32)
    normals = vertex_normals(vertices, np.array([[0, 1, 2]], np.int32))
    assert np.allclose(normals, [0, 0, 1])


@pytest.mark.parametrize("suffix", sorted(FORMATS))
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, chiral, suffix, reason, monkeypatch):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"what was there")

    def full(descriptor):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TurnaroundError) as caught:
        write_mesh(chiral, path)
    assert caught.value.code == ("export.disk_full" if reason == errno.ENOSPC else "export.failed")
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"what was there"


def test_other_failures_have_words(tmp_path, chiral):
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 4), np.uint8))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.ply").mkdir()
    for mesh, path, code in [
        (chiral, tmp_path / "a.fbx", "export.format"),
        (chiral, tmp_path / "a", "export.format"),
        (empty, tmp_path / "a.ply", "export.empty"),
        (chiral, tmp_path / "file" / "a.ply", "export.failed"),
        (chiral, tmp_path / "folder.ply", "export.failed"),
    ]:
        with pytest.raises(TurnaroundError) as caught:
            write_mesh(mesh, path)
        assert caught.value.code == code
        assert caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.ply"]
    assert write_mesh(chiral, tmp_path / "new" / "deep" / "A.PLY").stat().st_size > 0
