from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.preparation.matting import cut_out, warnings
from backend.preparation.picture import read_picture
from protocol.errors import TurnaroundError

SIZE = 240
EXAMPLES = Path(__file__).parents[2] / "examples"


def toy(size=SIZE, *, shift=(0.0, 0.0), scale=1.0) -> np.ndarray:
    """A red ring with a yellow ball on top, antialiased: float RGBA [size, size, 4] in 0..255, straight alpha."""
    n = 4 * size
    ys, xs = (np.mgrid[0:n, 0:n] + 0.5) / n - 0.5
    xs, ys = (xs - shift[0]) / scale, (ys - shift[1]) / scale
    ring = np.abs(np.hypot(xs, ys - 0.1) - 0.19) < 0.07
    ball = np.hypot(xs, ys + 0.24) < 0.1
    colour = np.where(ball[..., None], (235, 200, 40), (190, 35, 45)) + 40 * (0.3 - ys)[..., None]
    alpha = (ring | ball).astype(float)
    blocks = np.dstack([colour * alpha[..., None], alpha * 255]).reshape(size, 4, size, 4, 4).mean(axis=(1, 3))
    return np.dstack([blocks[..., :3] / np.maximum(blocks[..., 3:] / 255, 1e-6), blocks[..., 3]])


def on(background, subject) -> np.ndarray:
    alpha = subject[..., 3:] / 255
    colours = subject[..., :3] * alpha + background * (1 - alpha)
    return np.dstack([np.clip(colours, 0, 255), np.full(subject.shape[:2], 255)]).astype(np.uint8)


def backgrounds(size=SIZE) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 1, (size, size, 3))
    ys, xs = np.mgrid[0:size, 0:size][..., None] / size
    tiles = ((xs * 9).astype(int) + (ys * 9).astype(int)) % 2
    table = np.where(ys > 0.6, (120.0, 110.0, 100.0), (190.0, 200.0, 215.0))
    shadow = 1 - 0.35 * np.exp(-(((xs - 0.5) / 0.3) ** 2) - ((ys - 0.86) / 0.05) ** 2)
    return {
        "white": np.full((size, size, 3), 255.0),
        "gradient": np.concatenate([60 + 100 * ys, 100 + 90 * xs, 150 + 60 * ys], axis=-1),
        "noisy gradient": np.concatenate([60 + 100 * ys, 100 + 90 * xs, 150 + 60 * ys], axis=-1) + 10 * noise,
        "tiles": np.where(tiles, 200.0, 235.0) * np.ones(3),
        "table and wall": table + 4 * noise,
        "shadow": 235 * shadow * np.ones(3),
    }


@pytest.mark.parametrize("name", backgrounds())
@pytest.mark.parametrize("place", [(0.0, 0.0), (-0.17, 0.06)])
def test_subject_is_found_on_any_plain_background(name, place):
    subject = toy(shift=place)
    picture = on(backgrounds()[name], subject)
    cutout = cut_out(picture)
    truth, found = subject[..., 3] / 255, cutout[..., 3] / 255
    assert cutout.shape == picture.shape
    assert cutout.dtype == np.uint8
    overlap = ((truth > 0.5) & (found > 0.5)).sum() / ((truth > 0.5) | (found > 0.5)).sum()
    assert overlap > 0.97
    assert np.abs(truth - found).mean() < 0.01
    middle = round(SIZE * (0.6 + place[1])), round(SIZE * (0.5 + place[0]))
    assert found[middle] == 0  # one looks through the ring
    assert (cutout[found == 0] == 0).all()  # nothing of the background stays
    # Along the edge the colours are nearer to the subject's own than the picture's are, for these hold background.
    edge = (truth > 0.05) & (truth < 0.95) & (found > 0.3)
    error = [np.abs(c[..., :3].astype(float) - subject[..., :3])[edge].mean() for c in (cutout, picture)]
    assert error[0] < 0.6 * error[1]
    assert np.array_equal(cut_out(picture), cutout)


def test_the_result_scales_with_the_picture():
    small, large = (cut_out(on(np.full(3, 210.0), toy(size)))[..., 3] for size in (64, 500))
    reduced = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - reduced).mean() < 5


def test_own_alpha_is_taken_as_it_is():
    subject = toy().round().astype(np.uint8)
    subject[2, 3] = (9, 9, 9, 200)  # a speck of dust
    cutout = cut_out(subject)
    assert cutout[2, 3].tolist() == [0, 0, 0, 0]
    subject[2, 3] = 0
    assert np.array_equal(cutout[subject[..., 3] >= 26], subject[subject[..., 3] >= 26])
    barely = on(np.full(3, 250.0), toy())
    barely[0, 0, 3] = 0  # one clear pixel is no cut-out
    assert (cut_out(barely)[..., 3] == 0).mean() > 0.5


def test_a_matte_replaces_all_else():
    picture = on(backgrounds()["tiles"], toy())
    matte = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(matte, (120, 70), 25, 255, -1, cv2.LINE_AA)
    cutout = cut_out(picture, matte)
    assert np.array_equal(cutout[..., 3], matte)
    inside = cv2.erode(matte, np.ones((5, 5), np.uint8)) == 255
    assert np.array_equal(cutout[inside][:, :3], picture[inside][:, :3])
    for wrong, code in [(matte[:-1], "matte.format"), (matte / 255, "matte.format"), (matte * 0, "matte.empty")]:
        with pytest.raises(TurnaroundError) as caught:
            cut_out(picture, wrong)
        assert (caught.value.code, caught.value.field) == (code, "matte")


def test_nothing_to_find_says_so():
    noise = np.random.default_rng(1).normal(128, 3, (SIZE, SIZE, 3))
    gradient = backgrounds()["gradient"]
    clear = np.zeros((SIZE, SIZE, 4))
    for picture, code in [
        (on(gradient, clear), "picture.no_subject"),
        (on(noise, clear), "picture.no_subject"),
        (on(np.full(3, 90.0), clear), "picture.uniform"),
        (clear.astype(np.uint8), "picture.transparent"),
        (on(np.full(3, 90.0), toy())[:8, :8], "picture.too_small"),
    ]:
        with pytest.raises(TurnaroundError) as caught:
            cut_out(picture)
        assert caught.value.code == code
        assert caught.value.hint


def test_warnings_name_what_is_wrong():
    good = toy().round().astype(np.uint8)
    assert warnings(good) == []
    assert warnings(good[:, :150]) == ["Touches the right border: the shape will be cut."]
    assert (
        warnings(good[60:150, 90:150])[0] == "Touches the left, right, top and bottom borders: the shape will be cut."
    )
    two = np.hstack([good, good])
    assert warnings(two) == ["Shows 2 separate objects: they become one shape."]
    small = toy(scale=0.25).round().astype(np.uint8)
    assert warnings(small) == ["The subject is only 42 pixels large: details will be missing."]
    assert warnings(0 * good) == []


def test_warnings_of_pictures_without_alpha():
    """The same said of what matting has cut out of an opaque picture."""

    def said(subject: np.ndarray) -> list[str]:
        picture = on(np.full(3, 225.0), subject)
        return warnings(cut_out(picture), picture)

    assert said(toy()) == []
    assert said(toy(shift=(-0.35, 0.0))) == ["Touches the left border: the shape will be cut."]
    assert said(toy(shift=(0.0, 0.3))) == ["Touches the bottom border: the shape will be cut."]
    pair = np.hstack([toy(scale=0.8), toy(scale=0.5)])
    assert said(pair) == ["Shows 2 separate objects: they become one shape."]
    assert said(toy(scale=0.3)) == ["The subject is only 51 pixels large: details will be missing."]


@pytest.mark.parametrize("size", [256, 420])
def test_blur_is_noticed_on_the_picture_and_on_alpha(size):
    sharp = on(np.full(3, 230.0), toy(size))
    own = np.float32(toy(size))
    own[..., :3] *= own[..., 3:] / 255
    for sigma, words in [(0.5, []), (7.0, ["The picture is blurred: details will be missing."])]:
        picture = cv2.GaussianBlur(sharp, (0, 0), sigma * size / 256)
        assert warnings(cut_out(picture), picture) == words
        soft = cv2.GaussianBlur(own, (0, 0), sigma * size / 256)
        soft[..., :3] /= np.maximum(soft[..., 3:] / 255, 1e-3)
        assert warnings(np.clip(soft, 0, 255).astype(np.uint8)) == words


def test_black_white_and_grey_parts_stay_and_their_soft_shadow_goes():
    """A coloured body with achromatic parts on its outline, above a shadow that leaves a quarter of the light."""
    n, k = 512, 2
    ys, xs = (np.mgrid[0 : k * n, 0 : k * n] + 0.5)[..., None] / k

    def box(left, top, right, bottom):
        return (xs > left) & (xs < right) & (ys > top) & (ys < bottom)

    def disc(x, y, radius):
        return np.hypot(xs - x, ys - y) < radius

    parts = [
        (box(120, 200, 400, 330), (40, 90, 200)),
        (box(180, 130, 330, 200), (40, 90, 200)),
        (box(60, 300, 135, 330), (245, 245, 247)),  # bumper
        (box(380, 230, 440, 262), (95, 96, 98)),  # exhaust
        (box(210, 150, 300, 190), (22, 22, 24)),  # window
        *((disc(x, 340, 45), (30, 31, 33)) for x in (190, 340)),
        *((disc(x, 340, 16), (235, 235, 236)) for x in (190, 340)),
    ]
    shadow = 1 - 0.45 * np.exp(-(((xs - 265) / 130) ** 2) - ((ys - 372) / 34) ** 2)
    background = (np.array([150, 153, 158]) + 0.06 * (ys - 256) + 0.04 * (xs - 256)) * shadow
    picture, subject = background, np.zeros_like(xs, bool)
    for where, colour in parts:
        picture, subject = np.where(where, colour, picture), subject | where
    picture, truth = (a.reshape(n, k, n, k, -1).mean(axis=(1, 3)) for a in (picture, subject.astype(float)))
    noise = np.random.default_rng(0).normal(0, 1.5, picture.shape)
    found = cut_out(on(picture + noise, np.zeros((n, n, 4))))[..., 3] / 255
    truth = truth[..., 0]
    assert ((truth > 0.5) & (found > 0.5)).sum() / ((truth > 0.5) | (found > 0.5)).sum() > 0.97
    for y, x in [(315, 75), (246, 430), (170, 250), (340, 190), (370, 190), (340, 340), (375, 345)]:
        assert found[y, x] == 1
    for y, x in [(410, 265), (395, 265), (365, 265), (380, 110), (380, 420)]:
        assert found[y, x] == 0


def example(name: str) -> np.ndarray:
    return read_picture(EXAMPLES / f"{name}.png")


def test_the_car_keeps_its_tyres_and_leaves_its_shadow():
    cutout = cut_out(example("car_on_table"))
    alpha = cutout[..., 3] / 255
    inside = {
        "bumper": (130, 385),
        "front tyre": (258, 400),
        "hub": (277, 394),
        "rear tyre": (375, 300),
        "grille": (125, 348),
        "bed": (375, 210),
        "lamp": (182, 370),
        "windscreen": (220, 220),
    }
    outside = {
        "shadow": (330, 370),
        "contact": (150, 420),
        "beside": (430, 280),
        "table": (470, 420),
        "wall": (60, 100),
    }
    assert {name: alpha[y, x] for name, (x, y) in inside.items()} == dict.fromkeys(inside, 1)
    assert {name: alpha[y, x] for name, (x, y) in outside.items()} == dict.fromkeys(outside, 0)
    assert len(np.unique(cutout[..., 3])) > 50  # the edge is soft
    # The white bumper's upper edge lies before the grey table: no dark fringe stays on it.
    fringe = cutout[330:400, 50:62][(alpha[330:400, 50:62] > 0.2) & (alpha[330:400, 50:62] < 0.9)][:, :3]
    assert len(fringe) > 5
    assert np.median(fringe) > 200


@pytest.mark.parametrize("name", ["armchair", "house", "mushroom"])
@pytest.mark.parametrize("place", ["white", "grey", "wood"])
def test_examples_are_found_again_on_another_background(name, place):
    subject = example(name).astype(float)
    size = subject.shape[0]
    ys = np.linspace(0, 1, size)[:, None, None]
    draw = np.random.default_rng(0)
    noise = sum(
        cv2.resize(draw.normal(0, s, (size // k, size // k)), (size, size), interpolation=cv2.INTER_CUBIC)
        for k, s in [(1, 4), (4, 5), (16, 6)]
    )
    background = {
        # The mushroom's spots are pure white: on pure white they could as well be holes.
        "white": np.full((size, size, 3), 245.0 if name == "mushroom" else 255.0),
        "grey": 120 + 70 * ys + np.zeros((size, size, 3)),
        "wood": np.array([150, 110, 80]) + 30 * ys + noise[..., None] * np.array([1.0, 0.8, 0.7]),
    }[place]
    found, truth = cut_out(on(background, subject))[..., 3] > 127, subject[..., 3] > 127
    assert (found & truth).sum() / (found | truth).sum() > 0.95
