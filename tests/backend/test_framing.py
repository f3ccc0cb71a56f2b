import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.cameras import project
from backend.pipelines.one2345.pipeline import TINY, chosen_framer
from backend.pipelines.preparing import frame_finely
from backend.preparation.framing import FILL, HALF_WIDTH, frame, framed_camera, subject_box
from protocol.errors import TurnaroundError
from protocol.messages import Settings


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    box=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    size=st.sampled_from([32, 64, 128, 256]),
    alpha=st.integers(200, 255),
    speckle=st.integers(0, 2**31),
)
def test_any_subject_is_centred_and_fills_its_share(height, width, box, size, alpha, speckle):
    y0, y1 = sorted((int(box[0] * height), int(box[1] * height)))
    x0, x1 = sorted((int(box[2] * width), int(box[3] * width)))
    picture = np.random.default_rng(speckle).integers(0, 256, (height, width, 4)).astype(np.uint8)
    picture[..., 3] = 0
    picture[y0 : y1 + 1, x0 : x1 + 1] = (250, 130, 60, alpha)
    square, framing = frame(picture, size)

    assert square.shape == (size, size, 4)
    assert square.dtype == np.uint8
    assert framing.side == pytest.approx(max(y1 + 1 - y0, x1 + 1 - x0) / FILL)
    # In the square's pixels the subject's box is the picture's box through the mapping that Framing documents.
    found = np.array(subject_box(square), float)
    in_picture = np.array([x0, y0, x1 + 1, y1 + 1], float)
    centre = np.array([framing.center_x, framing.center_y] * 2)
    expected = ((in_picture - centre) / framing.side + 0.5) * size
    thin = expected[2:] - expected[:2] < 2  # thinner than the filter: it is there, but its edges are blurred
    edge_errors = np.abs(found - expected).reshape(2, 2)
    assert (edge_errors[:, ~thin] <= 1).all()
    assert max(expected[2:] - expected[:2]) == pytest.approx(FILL * size)
    assert np.abs((found[:2] + found[2:]) / 2 - size / 2).max() <= 1
    # The hidden colours of transparent pixels must not show.
    visible = square[..., 3] > 0
    assert np.abs(square[visible][:, :3].astype(int) - (250, 130, 60)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(40, 40), (300, 220), (1500, 900)])
def test_mapping_is_exact_on_a_gradient(height, width):
    """Colours that are linear in x and y keep their place whatever the scale, to a fraction of a pixel."""
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    picture = np.dstack([xs * 255 / width, ys * 255 / height, 0 * xs, 255 + 0 * xs]).astype(np.uint8)
    size = 128
    square, framing = frame(picture, size)
    inside = np.argwhere(square[..., 3] == 255)
    inside = inside[((inside > size * 0.2) & (inside < size * 0.8)).all(axis=1)]
    for y, x in inside[::97]:
        u = framing.center_x + ((x + 0.5) / size - 0.5) * framing.side
        v = framing.center_y + ((y + 0.5) / size - 0.5) * framing.side
        if 3 < u < width - 3 and 3 < v < height - 3:
            assert square[y, x, 0] == pytest.approx(u * 255 / width - 0.5, abs=1.6)
            assert square[y, x, 1] == pytest.approx(v * 255 / height - 0.5, abs=1.6)


def test_faint_veil_does_not_move_the_box_and_nothing_is_an_error():
    picture = np.zeros((50, 60, 4), np.uint8)
    picture[..., 3] = 20
    picture[10:20, 30:45, 3] = 255
    assert subject_box(picture) == (30, 10, 45, 20)
    with pytest.raises(TurnaroundError) as caught:
        frame(np.zeros((50, 60, 4), np.uint8), 64)
    assert caught.value.code == "picture.transparent"


@pytest.mark.parametrize("fov", [10.0, 40.0, 90.0])
def test_camera_sees_half_width_to_each_side(fov):
    camera = framed_camera(20.0, 30.0, fov)
    right = camera.world_from_camera()[:3, 0]
    pixels, _ = project(camera, np.stack([right * HALF_WIDTH, -right * HALF_WIDTH]), 100)
    assert np.allclose(pixels, [[100, 50], [0, 50]])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    place=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    darker=st.booleans(),
)
def test_published_framing_is_the_fine_one_to_a_pixel_and_for_published_weights_alone(height, width, place, darker):
    top, left = place
    cutout = np.zeros((140, 150, 4), np.uint8)
    cutout[top : top + height, left : left + width] = (250, 130, 60, 255)
    asked = Settings(options={"paper_framing": True, "lower_contrast": darker})
    assert chosen_framer(TINY, asked) is frame_finely
    square, framing = chosen_framer("zero123-xl", asked)(cutout)
    assert square.shape == (256, 256, 4)
    assert 0 <= max(height, width) / FILL - framing.side < 1
    center = np.array([framing.center_x, framing.center_y])
    assert np.abs(center - (left + width / 2, top + height / 2)).max() <= 1
    u, v = ((np.array([left + width / 2, top + height / 2]) - center) / framing.side + 0.5) * 256
    expected = np.array([250, 130, 60]) * (0.8 if darker else 1)
    if min(height, width) > 6:  # else Lanczos, three pixels wide, rings across all of it
        assert square[int(v), int(u)] == pytest.approx([*expected, 255], abs=3)
