"""Stable Diffusion as a painter: tiny random checkpoints through the code that runs published ones."""

import json
import shutil

import msgspec
import numpy as np
import pytest
import tiny_stable_diffusion
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from backend.cli import app
from backend.generators.text import registry
from backend.pipelines.stage import CancelledError, Progress, StageCache
from protocol.errors import TurnaroundError
from protocol.messages import SINGLE_OBJECT, Imagine

NAME = "tiny-letters"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_stable_diffusion.save(tmp_path_factory.mktemp("made") / NAME)


@pytest.fixture
def folder(checkpoint, tmp_path, monkeypatch):
    """The checkpoint installed: a copy of it, to be damaged."""
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path))
    return shutil.copytree(checkpoint, tmp_path / NAME)


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return tiny_stable_diffusion.save_xl(tmp_path_factory.mktemp("larger") / NAME)


def asked(**wanted):
    return Imagine(**{"request": "r", "prompt": "a mug", "single_object": False, "steps": 3} | wanted)


def paint(cache=None, progress=None, device="cpu", **wanted):
    painter = registry.painters()[NAME]
    cache, progress = cache or StageCache(), progress or Progress()
    return painter.paint(asked(**wanted), device=device, cache=cache, progress=progress)


def test_it_paints_what_diffusers_paints(folder):
    assert registry.painters()[NAME].info().ready
    painting = paint(negative_prompt="red", guidance=5.0, seed=7)
    assert painting.picture.shape == (tiny_stable_diffusion.SIDE, tiny_stable_diffusion.SIDE, 4)
    assert (painting.picture[..., 3] == 255).all()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    generator = torch.Generator("cpu").manual_seed(7)
    expected = pipeline(
        "a mug", negative_prompt="red", num_inference_steps=3, guidance_scale=5.0, generator=generator, output_type="np"
    ).images[0]
    np.testing.assert_allclose(painting.picture[..., :3], expected * 255.0, atol=0.51)
    report = painting.report
    assert (report.prompt, report.negative_prompt, report.seed, report.steps) == ("a mug", "red", 7, 3)
    assert (report.painter, report.licence, report.commercial) == (NAME, "", "unknown")


def test_stable_diffusion_xl_paints_too(larger, monkeypatch):
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(larger.parent))
    picture = paint(seed=7, guidance=5.0).picture
    generator = torch.Generator("cpu").manual_seed(7)
    pipeline = StableDiffusionXLPipeline.from_pretrained(larger)
    expected = pipeline("a mug", num_inference_steps=3, guidance_scale=5.0, generator=generator, output_type="np")
    np.testing.assert_allclose(picture[..., :3], expected.images[0] * 255.0, atol=0.51)


@pytest.mark.parametrize(
    ("name", "made", "label"),
    [("stable-diffusion-1-5", "checkpoint", "Stable Diffusion 1.5"), ("sdxl-turbo", "larger", "SDXL-Turbo")],
)
def test_a_checkpoint_that_was_imported_paints_under_its_licence(name, made, label, request, tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path))
    painter = registry.painters()[name]
    assert not painter.info().ready
    done = CliRunner().invoke(app, ["models", "import", name, str(request.getfixturevalue(made))])
    assert done.exit_code == 0, done.output
    assert painter.info().ready
    report = painter.paint(asked(), device="cpu", cache=StageCache(), progress=Progress()).report
    assert (report.painter, report.label, report.commercial) == (name, label, "conditions")
    assert report.licence


def test_everything_that_is_asked_counts_and_nothing_else(folder):
    first = paint().picture
    np.testing.assert_array_equal(paint().picture, first)
    for change in ({"prompt": "a jug"}, {"seed": 1}, {"steps": 4}, {"guidance": 2.0}, {"negative_prompt": "red"}):
        assert (paint(**change).picture != first).any(), change
    whole = asked(prompt=" a mug. ", single_object=True)
    assert whole.text == f"a mug, {SINGLE_OBJECT}"
    assert (paint(single_object=True).picture != first).any()


def test_the_same_request_again_comes_from_the_cache_until_the_weights_change(folder):
    cache = StageCache()
    first = paint(cache)
    again = Progress()
    np.testing.assert_array_equal(paint(cache, again).picture, first.picture)
    assert again.cached == ["painting"]
    tiny_stable_diffusion.save(folder, seed=1)
    other = Progress()
    assert (paint(cache, other).picture != first.picture).any()
    assert not other.cached


@pytest.mark.parametrize("at", [0, 1, 2])
def test_cancel_ends_it_at_any_step_and_the_painter_can_paint_again(folder, at):
    steps = []

    def report(update):
        if update.stage == "Painting":
            steps.append(update.step)
            if update.step == at:
                progress.cancel.set()

    progress = Progress(report=report)
    with pytest.raises(CancelledError):
        paint(progress=progress, steps=50)
    assert steps[-1] == at
    assert paint().picture.any()


def test_steps_and_guidance_are_those_that_the_checkpoint_was_made_for(folder):
    report = paint(steps=None).report
    assert (report.steps, report.guidance) == (25, 7.5)
    turbo = folder.rename(folder.with_name("tiny-turbo"))
    painter = registry.painters()[turbo.name]
    progress = Progress()
    report = painter.paint(
        asked(steps=None, negative_prompt="red"), device="cpu", cache=StageCache(), progress=progress
    ).report
    assert (report.steps, report.guidance) == (4, 0.0)
    assert "avoided" in report.warnings[0]


def test_what_the_painter_could_not_read_is_said(folder):
    assert not paint(prompt="a mug").report.warnings
    (warning,) = paint(prompt="a mug with a handle in the form of a fish").report.warnings
    assert 'rm of a fish"' in warning
    assert "a mug" not in warning


def fails(**wanted):
    with pytest.raises(TurnaroundError) as caught:
        paint(**wanted)
    return caught.value


def test_a_part_that_is_missing_or_of_another_shape_is_named_and_never_random(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    tensors["conv_out.weight"] = torch.zeros(4, 8, 1, 1)
    save_file(tensors, path, metadata={"format": "pt"})
    error = fails()
    assert error.code == "weights.mismatch"
    missing, shape = error.details.splitlines()
    assert missing == "missing: unet.conv_in.bias"
    assert shape.startswith("shape of unet.conv_out.weight: ")
    assert error.sentence.endswith("its unet (2 parts differ, first missing: unet.conv_in.bias).")


def test_half_precision_files_by_their_own_name_are_read(folder):
    expected = paint().picture
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    np.testing.assert_array_equal(paint().picture, expected)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut"), "weights.damaged"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "weights.damaged"),
        (lambda f: (f / "tokenizer" / "vocab.json").write_text("{"), "weights.damaged"),
        (lambda f: (f / "text_encoder" / "model.safetensors").rename(f / "text_encoder" / "x.bin"), "weights.missing"),
        (lambda f: shutil.rmtree(f), "painter.missing"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(folder, damage, code):
    painter = registry.painters()[NAME]
    damage(folder)
    for path in folder.glob("tokenizer/tokenizer.json") if code == "weights.damaged" else ():
        path.unlink()
    with pytest.raises(TurnaroundError) as caught:
        painter.paint(asked(), device="cpu", cache=StageCache(), progress=Progress())
    assert caught.value.code == code
    assert caught.value.hint


def test_only_checkpoints_that_paint_are_offered(folder):
    root = folder.parent
    shutil.copytree(folder, root / ".half-installed")
    shutil.copytree(folder, root / "with spaces in it")
    (root / "other").mkdir()
    (root / "other" / "model_index.json").write_text(json.dumps({"_class_name": "StableVideoDiffusionPipeline"}))
    (root / "broken").mkdir()
    (root / "broken" / "model_index.json").write_text("[")
    (root / "a-file").write_text("")
    offered = registry.painters()
    infos = [painter.info() for painter in offered.values()]
    assert [info.name for info in infos if info.ready] == [NAME]
    for info in infos:  # all of them can cross the wire
        assert msgspec.convert(msgspec.to_builtins(info), type(info)) == info
        assert info.ready or "turnaround models install" in info.hint
    assert registry.painters()[NAME] is offered[NAME], "what is loaded stays loaded"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_is_close_to_full_and_fits_where_memory_is_short(folder, monkeypatch):
    expected = paint().picture.astype(float)
    assert np.abs(paint(device="cuda:0").picture - expected).mean() < 4.0
    registry.painters()[NAME].free()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 20, 1 << 30))
    assert np.abs(paint(device="cuda:0").picture - expected).mean() < 4.0
    assert registry.painters()[NAME]._loaded[2].unet.device.type == "cpu"
