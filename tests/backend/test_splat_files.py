import re

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.gaussians.gaussians import WIDTHS, Gaussians
from backend.geometry.gaussians.ply import MOST_GAUSSIANS, read_splats, write_splats
from protocol.errors import TurnaroundError


def some(count: int) -> Gaussians:
    random = torch.Generator().manual_seed(count)
    quaternions = torch.nn.functional.normalize(torch.randn(count, 4, generator=random), dim=-1)
    return Gaussians(
        torch.randn(count, 3, generator=random),
        quaternions,
        torch.rand(count, 3, generator=random) + 1e-3,
        0.01 + 0.98 * torch.rand(count, generator=random),
        torch.rand(count, 3, generator=random),
    )


def test_what_is_written_is_read(tmp_path):
    gaussians = some(50)
    gaussians.opacities[[3, 9]] = torch.tensor([0.004, 0.0])
    again = read_splats(write_splats(gaussians, tmp_path / "new" / "splats.ply"))
    kept = gaussians.select(gaussians.opacities >= 0.005)
    assert len(again) == 48
    for name in WIDTHS:
        torch.testing.assert_close(getattr(again, name), getattr(kept, name), rtol=1e-5, atol=1e-6)


def test_other_readers_find_the_standard_layout(tmp_path):
    gaussians = some(7)
    path = write_splats(gaussians, tmp_path / "splats.ply")
    vertices = trimesh.load(path).metadata["_ply_raw"]["vertex"]["data"]
    names = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    names += ["rot_0", "rot_1", "rot_2", "rot_3"]
    assert list(vertices.dtype.names) == names
    assert all(vertices.dtype[name] == np.dtype("<f4") for name in names)
    columns = {name: vertices[name].reshape(-1) for name in names}
    np.testing.assert_allclose(columns["z"], gaussians.means[:, 2])  # Z is up, as in the other files for Blender
    np.testing.assert_allclose(1 / (1 + np.exp(-columns["opacity"])), gaussians.opacities, rtol=1e-5)
    np.testing.assert_allclose(np.exp(columns["scale_1"]), gaussians.scales[:, 1], rtol=1e-5)
    np.testing.assert_allclose(0.5 + columns["f_dc_2"] / (2 * np.sqrt(np.pi)), gaussians.colors[:, 2], atol=1e-6)
    np.testing.assert_allclose(columns["rot_0"], gaussians.quaternions[:, 0], rtol=1e-5)


def test_nothing_to_write(tmp_path):
    for gaussians in (some(0), Gaussians(*(0 * getattr(some(4), name) for name in WIDTHS))):
        with pytest.raises(TurnaroundError, match="transparent") as caught:
            write_splats(gaussians, tmp_path / "splats.ply")
        assert caught.value.code == "export.empty"
    with pytest.raises(TurnaroundError) as caught:
        write_splats(some(3), tmp_path / "splats.splat")
    assert caught.value.code == "export.format"
    assert not list(tmp_path.iterdir())


def code(path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(TurnaroundError) as caught:
        read_splats(path)
    return caught.value.code


def test_files_that_are_not_to_be_trusted(tmp_path):
    path = tmp_path / "splats.ply"
    good = write_splats(some(5), path).read_bytes()
    assert code(path, b"") == "splats.format"
    assert code(path, b"\n" * 10_000) == "splats.format"
    assert code(path, b"ply\n" + b"comment x\n" * 100_000) == "splats.format"
    assert code(path, good[:-1]) == "splats.format"
    assert code(path, good.replace(b"vertex 5", b"vertex 6")) == "splats.format"
    assert code(path, good.replace(b"vertex 5", b"vertex -5")) == "splats.format"
    assert code(path, good.replace(b"vertex 5", b"vertex %d" % (MOST_GAUSSIANS + 1))) == "splats.too_many"
    assert code(path, good.replace(b"vertex 5", b"vertex 1" + b"0" * 5_000)) == "splats.format"
    assert code(path, good.replace(b"binary_little_endian", b"ascii")) == "splats.format"
    assert code(path, good.replace(b"float opacity", b"float capacity")) == "splats.format"
    assert code(path, good.replace(b"property float nx", b"property list uchar int nx")) == "splats.format"
    assert code(path, good.replace(b"property float nx", b"property float x")) == "splats.format"
    start = good.index(b"end_header\n") + 11
    for column, value in ((0, np.nan), (2, np.inf), (9, np.nan), (11, 100.0), (7, np.inf), (13, np.nan)):
        vertices = np.frombuffer(good[start:], "<f4").reshape(5, 17).copy()
        vertices[2, column] = value
        assert code(path, good[:start] + vertices.tobytes()) == "splats.values", column
    vertices[2, 13:] = 0
    assert code(path, good[:start] + vertices.tobytes()) == "splats.values"
    with pytest.raises(TurnaroundError) as caught:
        read_splats(tmp_path)
    assert caught.value.code == "splats.unreadable"


def test_other_writers_files(tmp_path):
    path = tmp_path / "splats.ply"
    gaussians = some(5)
    good = write_splats(gaussians, path).read_bytes()
    start = good.index(b"end_header\n") + 11
    vertices = np.frombuffer(good[start:], "<f4").reshape(5, 17)
    header = good[:start].replace(b"little", b"big").replace(b"float", b"double")
    header = re.sub(rb"property double n[xyz]\n", b"", header)  # LGM writes no normals
    header = header.replace(
        b"end_header", b"property uchar f_rest_0\nelement face 1\nproperty list uchar int i\nend_header"
    )
    kind = np.dtype([("numbers", ">f8", 14), ("rest", "u1")])
    other = np.zeros(5, kind)
    other["numbers"] = np.delete(vertices, [3, 4, 5], axis=1)
    path.write_bytes(header + other.tobytes() + b"\x03\0\0\0\0\0\0\0\0\0\0\0\0")
    again = read_splats(path)
    for name in WIDTHS:
        torch.testing.assert_close(getattr(again, name), getattr(gaussians, name), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_splats(some(2), tmp_path_factory.mktemp("splats") / "whole.ply")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(whole, data):
    content, path = bytearray(whole.read_bytes()), whole.with_name("damaged.ply")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        gaussians = read_splats(path)
    except TurnaroundError:
        pass
    else:
        assert all(getattr(gaussians, name).isfinite().all() for name in WIDTHS)
