"""Who finds the subject: the choice of engine, what the artist points at, and Segment Anything at a tiny size."""

import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SamConfig, SamModel

from backend.pipelines.preparing import prepare
from backend.pipelines.registry import Request
from backend.pipelines.stage import Progress, StageCache, Stages
from backend.preparation import engines
from backend.preparation.engines import GrabCut, Rembg, choose, installed_sam
from backend.preparation.matting import cut_out
from backend.preparation.picture import read_picture
from backend.preparation.sam import Sam, _pixels, _prompts
from backend.preparation.segmentation import Prompt, segment
from protocol.errors import TurnaroundError
from protocol.messages import Settings, SubjectPoint

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def no_engines(monkeypatch, tmp_path):
    """What is installed on the machine of the test does not count."""
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "u2net"))
    monkeypatch.setattr(engines, "_has_rembg", lambda: False)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    config = SamConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8,
            "mlp_dim": 64,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam")
    model = SamModel(config)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string())
    return folder


def two_boxes(height=180, width=300) -> np.ndarray:
    """A red box at the left and a blue one at the right of a pale ground, uint8 RGB."""
    picture = np.full((height, width, 3), 225, np.uint8)
    picture[50:140, 30:110] = (200, 40, 40)
    picture[40:150, 180:270] = (40, 60, 200)
    return picture


def overlap(mask: np.ndarray, left: int, top: int, right: int, bottom: int) -> float:
    truth = np.zeros(mask.shape, bool)
    truth[top:bottom, left:right] = True
    return float((mask & truth).sum() / (mask | truth).sum())


RED, BLUE = (30, 50, 110, 140), (180, 40, 270, 150)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(box=(20.0, 42.0, 118.5, 147.0)),
        Prompt(points=((70.5, 90.5, True),)),
        Prompt(points=((225.5, 90.5, False),)),
        Prompt(box=(0.0, 0.0, 300.0, 180.0), points=((70.5, 90.5, True), (225.5, 90.5, False))),
    ],
)
def test_grabcut_takes_what_the_artist_points_at(prompt):
    picture = two_boxes()
    assert overlap(segment(picture, prompt), *RED) > 0.94  # a pixel about it is 0.95
    everything = segment(picture)
    assert everything[90, 70]
    assert everything[90, 225]
    large = cv2.resize(picture, (900, 540), interpolation=cv2.INTER_NEAREST)  # worked on at less than half its size
    mask = segment(large, prompt.scaled(3.0))
    assert overlap(mask, *(round(v * 3 * 384 / 900) for v in RED)) > 0.95


def test_a_box_is_enough_where_the_ground_is_not_plain():
    """Blotches of many colours up to the border: without a box there is no telling."""
    draw = np.random.default_rng(0)
    ground = cv2.resize(draw.integers(0, 255, (9, 15, 3)).astype(np.uint8), (300, 180), interpolation=cv2.INTER_NEAREST)
    ground[..., 2] //= 4  # no blues
    ground[40:150, 180:270] = (30, 60, 250)
    mask = segment(ground, Prompt(box=(172.0, 32.0, 278.0, 158.0)))
    assert overlap(mask, *BLUE) > 0.95


def test_a_point_in_a_hole_fills_it():
    """A white spot on a white ground is a hole, and so is a real one, until somebody says which is which."""
    picture = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(picture, (100, 100), 70, (190, 30, 30), -1, cv2.LINE_AA)
    for x in (70, 130):
        cv2.circle(picture, (x, 100), 15, (255, 255, 255), -1, cv2.LINE_AA)
    mask = segment(picture)
    assert not mask[100, 70]
    assert not mask[100, 130]
    mask = segment(picture, Prompt(points=((70.5, 100.5, True),)))
    assert mask[90:111, 60:81].all()
    assert not mask[100, 130]


def test_the_spots_of_the_mushroom_come_back_with_a_click_each():
    subject = read_picture(EXAMPLES / "mushroom.png").astype(float)
    alpha = subject[..., 3:] / 255
    picture = np.round(subject[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    truth = cv2.resize(subject[..., 3], (384, 384), interpolation=cv2.INTER_AREA) > 127

    def quality(prompt: Prompt) -> float:
        mask = segment(picture, prompt)
        return float((mask & truth).sum() / (mask | truth).sum())

    clicks = Prompt(points=tuple((x, y, True) for x, y in ((184.0, 168.0), (331.0, 122.0), (115.0, 235.0))))
    assert quality(Prompt()) < 0.93
    assert quality(clicks) > 0.97


def test_nothing_under_the_prompt_is_told():
    for prompt in (Prompt(box=(115.0, 2.0, 175.0, 30.0)), Prompt(points=((70.5, 90.5, False), (225.5, 90.5, False)))):
        with pytest.raises(TurnaroundError) as caught:
            segment(two_boxes(), prompt)
        assert caught.value.code == "picture.no_subject"


# ---------------------------------------------------------------------------------------------------------- the choice


def test_the_best_engine_that_is_there_is_chosen(sam_folder, monkeypatch, tmp_path):
    assert isinstance(choose(), GrabCut)
    for name, code in (("sam", "weights.matting"), ("rembg", "matting.missing")):
        with pytest.raises(TurnaroundError) as caught:
            choose(name)
        assert (caught.value.code, caught.value.field) == (code, "matting")
        assert "install" in caught.value.hint.lower()
    assert isinstance(choose("auto", sam=sam_folder), Sam)
    assert isinstance(choose("sam", sam=sam_folder), Sam)
    assert isinstance(choose("grabcut", sam=sam_folder), GrabCut)
    monkeypatch.setattr(engines, "_has_rembg", lambda: True)
    assert isinstance(choose("rembg"), Rembg)
    assert isinstance(choose(), GrabCut)  # it would download its weights, which nobody has asked for
    (tmp_path / "u2net").mkdir()
    (tmp_path / "u2net" / "u2net.onnx").write_bytes(b"weights")
    assert isinstance(choose(), Rembg)


def test_the_installed_sam_is_found(sam_folder, tmp_path):
    assert installed_sam() is None
    folder = tmp_path / "weights" / "sam-vit-huge"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((sam_folder / name).read_bytes())
    (folder / "preprocessor_config.json").write_text("{}")
    assert installed_sam() == folder


def test_rembg_sees_the_box_alone_and_its_parts_are_chosen(monkeypatch):
    """A stand-in for the package: everything that is far from the ground's grey is the subject."""
    shown = []

    def remove(image: Image.Image, *, session: str, only_mask: bool) -> Image.Image:
        assert (session, only_mask) == ("u2net", True)
        shown.append(image.size)
        pixels = np.asarray(image).astype(int)
        return Image.fromarray(np.where(np.ptp(pixels, axis=-1) > 50, 255, 0).astype(np.uint8))

    package = ModuleType("rembg")
    package.new_session, package.remove = lambda name: name, remove
    monkeypatch.setitem(sys.modules, "rembg", package)
    assert overlap(Rembg()(two_boxes(), Prompt(box=(10.0, 20.0, 150.0, 170.0))), *RED) == 1
    assert overlap(Rembg()(two_boxes(), Prompt(points=((225.0, 90.0, True),))), *BLUE) == 1
    assert shown == [(140, 150), (300, 180)]
    with pytest.raises(TurnaroundError) as caught:
        Rembg()(two_boxes(), Prompt(box=(115.0, 2.0, 175.0, 30.0)))
    assert caught.value.code == "picture.no_subject"


def fails(error: BaseException) -> ModuleType:
    def new_session(name: str) -> None:
        raise error

    package = ModuleType("rembg")
    package.new_session, package.remove = new_session, None
    return package


@pytest.mark.parametrize("error", [ConnectionError("no network"), RuntimeError("a cut model"), SystemExit(1)])
def test_a_rembg_that_does_not_work_is_told_or_replaced(error, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rembg", fails(error))
    monkeypatch.setattr(engines, "_has_rembg", lambda: True)
    monkeypatch.setattr(engines, "version", lambda name: "2")
    with pytest.raises(TurnaroundError, match="rembg does not work") as caught:
        choose("rembg")(two_boxes(), Prompt())
    assert (caught.value.code, caught.value.field) == ("matting.failed", "matting")
    assert repr(error) in caught.value.details
    file = tmp_path / "u2net" / "u2net.onnx"
    file.parent.mkdir()
    file.write_bytes(b"damaged")
    auto, prompt = choose(), Prompt(box=(10.0, 20.0, 150.0, 170.0))
    with pytest.warns(UserWarning, match="Something else finds the subject"):
        mask = auto(two_boxes(), prompt)
    assert overlap(mask, *RED) > 0.94
    before = auto.key
    file.write_bytes(b"mended now")
    assert auto.key != before, "what GrabCut has found is not taken for rembg's"


# ----------------------------------------------------------------------------------------------------- Segment Anything


def test_sam_sees_the_picture_as_it_was_trained():
    """Longest side to the network's, ImageNet's mean and deviation, padding with zeros; prompts on the same pixels."""
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, 30:] = (124, 116, 104)
    pixels, scale = _pixels(picture, 64)
    assert pixels.shape == (1, 3, 64, 64)
    assert scale == 64 / 60
    assert (pixels[..., 32:, :] == 0).all()
    assert torch.allclose(pixels[0, :, 5, 5], torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-3)
    assert (pixels[0, :, :32, 40:].abs() < 0.02).all()
    given = _prompts(Prompt((0.0, 0.0, 60.0, 30.0), ((30.0, 15.0, True), (3.0, 3.0, False))), scale, "cpu")
    assert given["input_boxes"].tolist() == [[[-0.5, -0.5, 63.5, 31.5]]]  # SAM adds half a pixel to all of these
    assert given["input_points"][0, 0, 0].tolist() == [31.5, 15.5]
    assert given["input_labels"].tolist() == [[[1, 0]]]


class Answers:
    """Stands in for the network: a part, a larger one and the whole, as low-resolution logits."""

    def __init__(self) -> None:
        self.config = SamConfig(vision_config={"image_size": 64})
        self.asked: dict[str, torch.Tensor] = {}

    def __call__(self, **asked: torch.Tensor) -> object:
        self.asked = asked
        masks = torch.full((1, 1, 3, 32, 32), -4.0)
        for k in range(3):  # the picture fills the upper 38.4 of 64 rows
            masks[0, 0, k, 5 : 7 + 4 * k, 3:12] = 4.0
        return type("Output", (), {"pred_masks": masks})()


def test_the_whole_object_is_taken_and_lies_where_the_picture_has_it(sam_folder, monkeypatch):
    answers = Answers()
    monkeypatch.setattr(Sam, "_load", lambda self: answers)
    mask = Sam(sam_folder)(two_boxes(), Prompt())
    assert mask.shape == (180, 300)
    scale = 300 / 32
    assert overlap(mask, *(round(v * scale) for v in (3, 5, 12, 15))) > 0.93
    # with no word from the artist, the box is about what GrabCut finds: both boxes
    expected = np.array([30, 40, 270, 150]) * 64 / 300 - 0.5
    assert np.abs(answers.asked["input_boxes"][0, 0].numpy() - expected).max() < 1
    assert "input_points" not in answers.asked
    Sam(sam_folder)(two_boxes(), Prompt(points=((60.0, 90.0, True),)))
    assert "input_boxes" not in answers.asked  # a click is enough
    noise = np.random.default_rng(0).integers(0, 255, (180, 300, 3)).astype(np.uint8)
    Sam(sam_folder)(noise, Prompt())  # nothing stands out: the middle of the picture
    assert answers.asked["input_boxes"][0, 0, 2] - answers.asked["input_boxes"][0, 0, 0] > 50


def test_sam_runs_from_its_folder(sam_folder):
    """Random weights: the network's own answer, brought to the picture by hand, is what comes out."""
    picture, prompt = two_boxes(128, 128 * 2), Prompt(box=(20.0, 20.0, 200.0, 110.0))
    sam = Sam(sam_folder)
    assert sam.key.startswith("sam ")
    network = SamModel(SamConfig.from_json_file(sam_folder / "config.json")).eval()
    network.load_state_dict(load_file(sam_folder / "model.safetensors"))
    pixels, scale = _pixels(picture, 64)
    with torch.inference_mode():
        logits = network(pixel_values=pixels, **_prompts(prompt, scale, "cpu")).pred_masks[0, 0, -1]
    mask = sam._ask(sam._load(), picture, prompt)
    assert mask.shape == (128, 256)
    whole = torch.nn.functional.interpolate(logits[None, None], (256, 256), mode="bilinear")[0, 0, :128] > 0
    assert (mask == whole.numpy()).mean() > 0.95


def test_bad_sam_weights_are_told(sam_folder, tmp_path):
    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in sam_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    absent, part, cut, foreign = tmp_path / "absent", copy("part"), copy("cut"), copy("foreign")
    state = load_file(part / "model.safetensors")
    state.pop("mask_decoder.iou_token.weight")
    save_file(state, part / "model.safetensors")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    (foreign / "config.json").write_text(json.dumps({"vision_config": {"hidden_size": "wide"}}))
    for folder, code in [
        (absent, "weights.missing"), (part, "weights.mismatch"), (cut, "weights.damaged"), (foreign, "weights.damaged"),
    ]:  # fmt: skip
        with pytest.raises(TurnaroundError) as caught:
            Sam(folder)(two_boxes(), Prompt(points=((60.0, 90.0, True),)))
        assert caught.value.code == code


# ------------------------------------------------------------------------------------------------- in the pipeline


def prepared(picture: np.ndarray, cache: StageCache, matte: np.ndarray | None = None, **settings):
    progress = Progress()
    framed, framing, notes = prepare(Request(picture, Settings(**settings), matte), Stages(cache, progress))
    return framed, framing, notes, progress.cached


def test_what_the_artist_says_reaches_the_cutout_and_the_cache_knows():
    """At more than the working size, so that the prompt has to be brought to it."""
    picture = np.dstack([two_boxes(), np.full((180, 300), 255, np.uint8)])
    picture = cv2.resize(picture, (2100, 1260), interpolation=cv2.INTER_NEAREST)
    cache = StageCache()
    _, both, notes, _ = prepared(picture, cache)
    assert notes == ("Shows 2 separate objects: they become one shape.",)
    point = SubjectPoint(x=490.0, y=630.0)
    for wish in ({"subject_box": (140.0, 294.0, 829.0, 1029.0)}, {"subject_points": (point,)}):
        framed, framing, notes, cached = prepared(picture, cache, **wish)
        assert (notes, cached) == ((), [])
        assert (framing.center_x, framing.center_y) == pytest.approx((490, 665), abs=9)
        assert framing.side < both.side
        assert framed[256, 256].tolist() == pytest.approx([200, 40, 40, 255], abs=3)
        assert prepared(picture, cache, **wish)[3] == ["matting"]
    assert prepared(picture, cache)[3] == ["matting"]


def test_painted_alpha_wins_at_the_next_run(sam_folder, monkeypatch):
    """The artist erases the blue box of the picture, or sends a matte: no engine is asked."""

    def fail(*_: object) -> None:
        raise AssertionError("alpha is there")

    cache = StageCache()
    picture = np.dstack([two_boxes(), np.full((180, 300), 255, np.uint8)])
    first = prepared(picture, cache)[1]
    painted = picture.copy()
    painted[:, 150:, 3] = 0
    painted[:30, :, 3] = 0
    monkeypatch.setattr("backend.preparation.segmentation.cv2.grabCut", fail)
    monkeypatch.setattr(engines, "installed_sam", lambda: sam_folder)
    framed, framing, _, cached = prepared(painted, cache)
    assert cached == []
    assert framing != first
    assert framing.center_x == pytest.approx(75, abs=1)  # the left half as painted, its ground included
    matte = np.zeros((180, 300), np.uint8)
    matte[40:150, 180:270] = 255
    framed, framing, _, cached = prepared(painted, cache, matte)
    assert cached == []
    assert (framing.center_x, framing.center_y) == (225, 95)
    assert framed[256, 256].tolist() == [40, 60, 200, 255]


def test_cut_out_hands_the_prompt_to_the_engine():
    asked = []

    class Half:
        key = "half"

        def __call__(self, rgb: np.ndarray, prompt: Prompt) -> np.ndarray:
            asked.append((rgb.shape, prompt))
            return np.arange(60)[None] < 30 * np.ones((60, 1))

    prompt = Prompt(points=((3.0, 4.0, True),))
    picture = np.dstack([two_boxes(60, 60), np.full((60, 60), 255, np.uint8)])
    picture[..., 0] = np.arange(60)
    alpha = cut_out(picture, segmenter=Half(), prompt=prompt)[..., 3]
    assert asked == [((60, 60, 3), prompt)]
    assert (alpha[:, :27] == 255).all()
    assert (alpha[:, 33:] == 0).all()
