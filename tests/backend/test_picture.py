import contextlib
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from backend.preparation.picture import PictureWarning, check_picture, read_picture, reduce_picture
from protocol.errors import TurnaroundError


@pytest.fixture
def colours() -> np.ndarray:
    """Four clearly different quadrants, 32 high and 48 wide."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:] = (200, 40, 30), (30, 180, 60)
    picture[16:, :24], picture[16:, 24:] = (40, 60, 210), (240, 230, 220)
    return picture


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.bmp", "a.tga", "a.jpg", "a.gif", "a.jp2"])
def test_formats_give_the_same_pixels(tmp_path, colours, name):
    options = {"lossless": True} if name == "a.webp" else {"quality": 95} if name == "a.jpg" else {}
    Image.fromarray(colours).save(tmp_path / name, **options)
    picture = read_picture(tmp_path / name)
    assert picture.dtype == np.uint8
    assert picture.shape == (32, 48, 4)
    assert (picture[..., 3] == 255).all()
    centres = picture[8::16, 12::24, :3].astype(int)
    assert np.abs(centres - colours[8::16, 12::24]).max() <= (6 if name == "a.jpg" else 0)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr"])
def test_modes_become_rgba(tmp_path, mode):
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (20, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    elif mode == "LAB":
        rgb = Image.fromarray(grey).convert("RGB")
        image = ImageCms.profileToProfile(
            rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        image = Image.fromarray(grey).convert("RGB")
        image = image.quantize(256) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")
    assert picture.shape == (20, 32, 4)
    assert (picture[..., 3] == 255).all()
    tolerance = {"1": 255, "P": 8, "LAB": 4, "YCbCr": 2}.get(mode, 1)
    assert np.abs(picture[..., :3].astype(int) - grey[..., None]).max() <= tolerance
    assert np.ptp(picture[..., 0]) >= 250


def test_palette_transparency_and_straight_alpha(tmp_path, colours):
    rgba = np.dstack([colours, np.full((32, 48), 255, np.uint8)])
    rgba[:8] = (10, 200, 90, 0)
    rgba[8:12, :, 3] = 100
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), rgba)
    palette = Image.fromarray(colours).quantize(8)
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    palette.save(tmp_path / "p.png")
    alpha = read_picture(tmp_path / "p.png")[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[-1, -1] == 255


def test_orientation_and_profile(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    Image.fromarray(colours).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png")[..., :3], np.rot90(colours, -1))

    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(colours).save(tmp_path / "srgb.png", icc_profile=same)
    assert np.abs(read_picture(tmp_path / "srgb.png")[..., :3].astype(int) - colours).max() <= 1
    Image.fromarray(colours).save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    assert np.array_equal(read_picture(tmp_path / "broken.png")[..., :3], colours)

    linear = bytearray(same)
    for tag in (b"rTRC", b"gTRC", b"bTRC"):  # make the tone curves straight: the profile of linear light
        at = linear.index(tag)
        offset = struct.unpack(">I", linear[at + 4 : at + 8])[0]
        linear[offset : offset + 12] = b"curv" + bytes(8)
    Image.fromarray(colours).save(tmp_path / "linear.png", icc_profile=bytes(linear))
    expected = np.where(colours / 255 <= 0.0031308, colours / 255 * 12.92, 1.055 * (colours / 255) ** (1 / 2.4) - 0.055)
    assert np.abs(read_picture(tmp_path / "linear.png")[..., :3] - expected * 255).max() <= 3


def test_animation_gives_its_first_frame_and_says_so(tmp_path, colours):
    frames = [Image.fromarray(colours), Image.fromarray(255 - colours)]
    for name in ("a.gif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        with pytest.warns(PictureWarning, match="several frames"):
            picture = read_picture(tmp_path / name)
        assert np.abs(picture[..., :3].astype(int) - colours).max() <= 2
    frames[0].save(tmp_path / "still.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_picture(tmp_path / "still.png")


def _png_without_pixels(width: int, height: int) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_bad_files_say_what_is_wrong(tmp_path, colours):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    noise.save(tmp_path / "whole.jpg")
    noise.save(tmp_path / "whole.png")
    jpeg, png = (tmp_path / "whole.jpg").read_bytes(), (tmp_path / "whole.png").read_bytes()
    (tmp_path / "folder.png").mkdir()
    for name, content, code in [
        ("absent.png", None, "picture.missing"),
        ("folder.png", None, "picture.unreadable"),
        ("text.png", b"dear diary", "picture.unreadable"),
        ("empty.png", b"", "picture.unreadable"),
        ("program.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "picture.unreadable"),
        ("cut.jpg", jpeg[: len(jpeg) // 2], "picture.damaged"),
        ("cut.png", png[: len(png) // 2], "picture.damaged"),
        ("wide.png", _png_without_pixels(20_000, 10), "picture.too_large"),
        ("bomb.png", _png_without_pixels(20_000, 20_000), "picture.too_large"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TurnaroundError) as caught:
            read_picture(tmp_path / name)
        assert caught.value.code == code, name
        assert caught.value.field == "picture"
        assert caught.value.hint
        assert str(tmp_path) not in caught.value.sentence


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_escape_as_another_error(tmp_path, colours, data):
    name = data.draw(st.sampled_from(["a.png", "a.jpg", "a.tif", "a.gif", "a.webp"]))
    Image.fromarray(colours).save(tmp_path / name)
    content = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(TurnaroundError):
            picture = read_picture(tmp_path / name)
            assert picture.dtype == np.uint8
            assert picture.shape[2] == 4


def test_check_picture():
    good = np.zeros((16, 16, 4), np.uint8)
    good[4:12, 4:12] = 255
    check_picture(good)  # one colour, but its alpha shows a square
    opaque = np.full((64, 64, 4), 255, np.uint8)
    check_picture(opaque, has_matte=True)
    clear = np.zeros((64, 64, 4), np.uint8)
    for picture, code in [
        (opaque, "picture.uniform"),
        (clear, "picture.transparent"),
        (opaque[:1, :1], "picture.too_small"),
        (opaque[:, :15], "picture.too_small"),
        (np.broadcast_to(opaque[:16, :1], (16, 20_000, 4)), "picture.too_large"),
        (opaque[..., :3], "picture.format"),
        (opaque.astype(np.float32), "picture.format"),
    ]:
        with pytest.raises(TurnaroundError) as caught:
            check_picture(picture)
        assert caught.value.code == code
        assert caught.value.hint


@pytest.mark.parametrize("shape", [(300, 900), (900, 301), (512, 512)])
def test_reducing_keeps_place_and_colour(shape):
    picture = np.zeros((*shape, 4), np.uint8)
    picture[..., :3] = (0, 255, 0)  # hidden: it must not bleed in
    top, left, bottom, right = shape[0] // 5, shape[1] // 3, shape[0] // 2, shape[1] // 3 * 2
    picture[top:bottom, left:right] = (200, 100, 50, 255)
    small, factor = reduce_picture(picture, 100)
    assert max(small.shape[:2]) == 100
    assert factor == max(shape) / 100
    visible = small[..., 3] > 0
    assert (small[visible][:, :3] == (200, 100, 50)).all()
    rows, columns = np.flatnonzero(small[..., 3].max(axis=1) > 127), np.flatnonzero(small[..., 3].max(axis=0) > 127)
    found = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) * factor
    assert np.abs(found - (top, left, bottom, right)).max() <= factor
    same, one = reduce_picture(picture, 900)
    assert same is picture
    assert one == 1.0
