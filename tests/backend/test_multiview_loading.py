"""Loading Ouroboros3D's generator beside Stable Video Diffusion, and every way in which these can be wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from video_fixture import SIZE, make_multiview_unet, make_video_model

from backend.generators.multiview_svd.generator import MultiviewGenerator
from backend.generators.multiview_svd.loading import load_published, read_sizes
from backend.preparation.framing import framed_camera
from backend.weights import store
from backend.weights.install import import_from, verify
from protocol.errors import TurnaroundError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = make_video_model(tmp_path_factory.mktemp("video"))
    return folder, make_multiview_unet(folder / "mv_model_unet.safetensors", folder)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole[0], tmp_path / "video")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder):
    with pytest.raises(TurnaroundError) as caught:
        load_published(folder, folder / "mv_model_unet.safetensors", size=SIZE)
    assert caught.value.hint
    return caught.value


def test_the_published_generator_draws_through_its_autoencoder(whole):
    video, weights = whole
    model = load_published(video, weights, size=SIZE)
    for name, tensor in load_file(weights).items():
        assert torch.equal(model.network.state_dict()[name], tensor), name
    assert not list(model.network.buffers())  # nothing but what was loaded
    assert model.config.heads == (4, 2)
    assert (model.config.factor, model.config.latent_channels, model.config.scaling_factor) == (2, 4, 0.18215)
    assert (model.config.sigma_min, model.config.sigma_max) == (0.002, 700.0)

    image = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    camera = framed_camera(10.0)
    generator = MultiviewGenerator(model)
    condition = generator.condition(image, camera, seed=0)
    assert condition.latents.shape == (1, 4, 16, 16)
    (step,) = generator.draw(image, camera, seed=0, steps=1)
    assert generator.views(step, camera).images.shape == (8, SIZE, SIZE, 4)

    half = load_published(video, weights, torch.bfloat16, SIZE)
    assert half.network.dtype == torch.bfloat16
    assert {p.dtype for part in (half.vae, half.image_encoder) for p in part.parameters()} == {torch.float32}
    latents = model.latents(step.images)
    torch.testing.assert_close(latents[0, 3] / 0.18215, model.vae.vae.encode(step.images[0, 3:4]).latent_dist.mode()[0])
    torch.testing.assert_close(
        model.pictures(latents)[0], model.vae.vae.decode(latents[0] / 0.18215, num_frames=8).sample, rtol=0, atol=1e-5
    )


def test_heads_are_the_folders_and_not_a_default(whole, folder):
    edit(folder / "unet" / "config.json", num_attention_heads=[8, 2])
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)

    def draw(video):
        generator = MultiviewGenerator(load_published(video, whole[1], size=SIZE))
        (step,) = generator.draw(image, framed_camera(0.0), seed=0, steps=1)
        return step.images

    assert not torch.allclose(draw(folder), draw(whole[0]), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "mv_model_unet.safetensors",
    ],
)
def test_what_is_missing_is_named(folder, name):
    (folder / name).unlink()
    error = refusal(folder)
    assert error.code == "weights.missing"
    assert name.split("/")[0] in error.sentence or name in error.sentence


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("unet/config.json", {"in_channels": 4}),
        ("unet/config.json", {"num_attention_heads": [5]}),
        ("unet/config.json", {"num_attention_heads": "many"}),
        ("unet/config.json", {"cross_attention_dim": 40}),
        ("unet/config.json", {"block_out_channels": [64, 64]}),
        ("vae/config.json", {"block_out_channels": [32, 32, 32, 32, 32, 32, 32]}),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}),
        ("scheduler/scheduler_config.json", {"sigma_max": None}),
        ("scheduler/scheduler_config.json", {"sigma_min": 800.0}),
    ],
)
def test_another_model_is_refused(folder, file, values):
    edit(folder / file, **values)
    assert refusal(folder).code == "weights.mismatch"


def test_a_spoilt_file_is_refused(folder):
    path = folder / "mv_model_unet.safetensors"
    tensors = load_file(path)
    removed = tensors.pop("mid_plucker.embed.0.weight")
    save_file({**tensors, "mid_plucker.embed.1.weight": removed}, path)
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert "missing: mid_plucker.embed.0.weight" in error.details
    assert "unexpected: mid_plucker.embed.1.weight" in error.details
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(folder).code == "weights.damaged"
    (folder / "unet" / "config.json").write_text("[]")
    assert refusal(folder).code == "weights.damaged"
    with pytest.raises(TurnaroundError):
        read_sizes(folder / "nowhere")


# ------------------------------------------------------------------------------------------------- installing it


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_the_video_model_is_kept_without_its_own_unet(folder, variant, tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nine gigabytes")
    for name in ("vae/diffusion_pytorch_model", "image_encoder/model"):
        (folder / f"{name}.safetensors").rename(folder / f"{name}{variant}.safetensors")
    entry = store.find_entry("stable-video-diffusion")
    import_from(entry, folder)
    verify(entry)
    place = store.weights_folder(entry)
    assert store.is_present(entry)
    assert [path.name for path in (place / "unet").iterdir()] == ["config.json"]
    assert {str(t.dtype) for t in load_file(place / "vae" / "diffusion_pytorch_model.safetensors").values()} == {
        "torch.float16"
    }
    model = load_published(place, folder / "mv_model_unet.safetensors", size=SIZE)
    assert model.config == read_sizes(folder, SIZE)
    for name, tensor in load_file(folder / "vae" / f"diffusion_pytorch_model{variant}.safetensors").items():
        assert torch.equal(model.vae.vae.state_dict()[name], tensor.half().float()), name


def test_another_video_model_is_not_installed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    entry = store.find_entry("stable-video-diffusion")
    path = folder / "image_encoder" / "model.safetensors"
    path.rename(folder / "elsewhere.safetensors")
    with pytest.raises(TurnaroundError, match="no weights in image_encoder"):
        import_from(entry, folder)
    (folder / "elsewhere.safetensors").rename(path)
    edit(folder / "image_encoder" / "config.json", hidden_size=48)
    with pytest.raises(TurnaroundError, match="the image encoder does not fit"):
        import_from(entry, folder)
    edit(folder / "scheduler" / "scheduler_config.json", timestep_type="discrete")
    with pytest.raises(TurnaroundError, match="is not Stable Video Diffusion's"):
        import_from(entry, folder)
    assert not store.is_present(entry)
