"""Loading a Zero123: every layout that is published, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from zero123_fixture import CONTEXT, EMBEDDING, make_zero123

from backend.generators.zero123.components import load_components
from protocol.errors import TurnaroundError

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "image_encoder": "model.safetensors",
    "cc_projection": "model.safetensors",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_zero123(tmp_path_factory.mktemp("zero123"))


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "weights")


def change(path, function):
    """Applies a function to the dict of tensors in a file."""
    tensors = load_file(path)
    function(tensors)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder):
    with pytest.raises(TurnaroundError) as caught:
        load_components(folder)
    assert caught.value.hint
    return caught.value


def test_the_whole_is_loaded_as_it_was_saved(whole):
    components = load_components(whole)
    for name, file in FILES.items():
        stored = load_file(whole / name / file)
        loaded = getattr(components, name).state_dict()
        if name == "cc_projection":
            stored = {key.removeprefix("cc_projection."): tensor for key, tensor in stored.items()}
        assert loaded.keys() == stored.keys()
        assert all(torch.equal(loaded[key], stored[key]) for key in stored)
        assert not getattr(components, name).weight.requires_grad if name == "cc_projection" else True
    assert not components.unet.training
    assert components.noise.num_train_timesteps == 1000
    assert components.pose == "relative"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_of_the_networks(whole, dtype):
    components = load_components(whole, dtype)
    pictures = torch.float32 if dtype == torch.bfloat16 else dtype
    assert {parameter.dtype for parameter in components.unet.parameters()} == {dtype}
    for network in (components.vae, components.image_encoder):
        assert {parameter.dtype for parameter in network.parameters()} == {pictures}
    assert components.cc_projection.weight.dtype == torch.float32


@pytest.mark.parametrize("place", ["cc_projection", "clip_camera_projection"])
@pytest.mark.parametrize("prefix", ["cc_projection", "projection", "proj"])
@pytest.mark.parametrize("pickled", [False, True])
def test_the_projection_is_found_under_every_name(folder, place, prefix, pickled):
    path = folder / "cc_projection" / FILES["cc_projection"]
    tensors = {f"{prefix}.{key.rpartition('.')[2]}": tensor for key, tensor in load_file(path).items()}
    shutil.rmtree(folder / "cc_projection")
    (folder / place).mkdir()
    if pickled:
        torch.save(tensors, folder / place / "pytorch_model.bin")
    else:
        save_file(tensors, folder / place / "diffusion_pytorch_model.safetensors")
    (folder / place / "config.json").write_text(json.dumps({"channel": 772, "pose": "absolute_polar"}))
    components = load_components(folder)
    assert torch.equal(components.cc_projection.weight, tensors[f"{prefix}.weight"])
    assert torch.equal(components.cc_projection.bias, tensors[f"{prefix}.bias"])
    assert components.pose == "absolute_polar"


@pytest.mark.parametrize("name", ["unet", "vae", "image_encoder"])
def test_pickled_networks_load_for_their_tensors_alone(folder, name, tmp_path):
    path = folder / name / FILES[name]
    pickle = path.with_name("pytorch_model.bin" if name == "image_encoder" else "diffusion_pytorch_model.bin")
    tensors = load_file(path)
    path.unlink()
    torch.save(tensors, pickle)
    loaded = getattr(load_components(folder), name).state_dict()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)

    torch.save({"weight": Burglar(tmp_path / "came")}, pickle)
    assert refusal(folder).code == "weights.damaged"
    assert not (tmp_path / "came").exists()


class Burglar:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return self.mark.touch, ()


def test_a_projection_that_runs_code_is_refused(folder, tmp_path):
    (folder / "cc_projection" / FILES["cc_projection"]).unlink()
    torch.save({"proj.weight": Burglar(tmp_path / "came")}, folder / "cc_projection" / "pytorch_model.bin")
    assert refusal(folder).code == "weights.damaged"
    assert not (tmp_path / "came").exists()


def test_an_old_vae_is_loaded_under_its_old_names(folder):
    """Early converters called the layers of the attention otherwise."""
    path = folder / "vae" / FILES["vae"]
    original = load_file(path)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(tensors):
        for key in list(tensors):
            for new, former in old.items():
                if new in key:
                    tensors[key.replace(new, former)] = tensors.pop(key)

    change(path, rename)
    assert any(".query." in key for key in load_file(path))
    loaded = load_components(folder).vae.state_dict()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


def test_a_whole_clip_will_do_for_its_image_half(folder):
    extra = {"text_model.embeddings.weight": torch.zeros(3), "logit_scale": torch.tensor(1.0)}
    change(folder / "image_encoder" / FILES["image_encoder"], lambda tensors: tensors.update(extra))
    load_components(folder)


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["unet", "vae", "image_encoder", "cc_projection"])
def test_a_missing_key_is_named(folder, name):
    path = folder / name / FILES[name]
    key = sorted(load_file(path))[0]
    change(path, lambda tensors: tensors.pop(key))
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert f"missing: {key}" in error.details
    assert name in error.sentence
    assert name == "cc_projection" or error.sentence.endswith(f"(1 part differs, missing: {key}).")


@pytest.mark.parametrize("name", ["unet", "vae", "image_encoder"])
def test_a_key_of_another_shape_is_named(folder, name):
    path = folder / name / FILES[name]
    key = sorted(load_file(path))[-1]
    change(path, lambda tensors: tensors.update({key: torch.zeros(3, 5)}))
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert key in error.details
    assert "(3, 5)" in error.details


@pytest.mark.parametrize("shapes", [((CONTEXT,), (CONTEXT,)), ((CONTEXT, EMBEDDING + 4), (3,))])
def test_a_projection_that_is_no_layer_is_refused(folder, shapes):
    weight, bias = (torch.zeros(shape) for shape in shapes)
    tensors = {"projection.weight": weight, "projection.bias": bias}
    save_file(tensors, folder / "cc_projection" / FILES["cc_projection"])
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert "projection" in error.details


def test_a_key_too_many_is_another_model(folder):
    change(folder / "unet" / FILES["unet"], lambda tensors: tensors.update({"adapter.weight": torch.zeros(2)}))
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert "unexpected: adapter.weight" in error.details


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(folder, name, share):
    path = folder / name / FILES[name]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    error = refusal(folder)
    assert error.code == "weights.damaged"
    assert name in error.sentence


@pytest.mark.parametrize("name", list(FILES))
def test_a_missing_file_is_named(folder, name):
    (folder / name / FILES[name]).unlink()
    error = refusal(folder)
    assert error.code == "weights.missing"
    assert name in error.sentence


@pytest.mark.parametrize("name", [*FILES, "scheduler"])
def test_a_missing_folder_is_named(folder, name):
    shutil.rmtree(folder / name)
    error = refusal(folder)
    assert error.code == "weights.missing"
    assert name in error.sentence


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("unet/config.json", "{"),
        ("unet/config.json", '{"block_out_channels": "many"}'),
        ("vae/config.json", "[]"),
        ("image_encoder/config.json", "nothing"),
        ("scheduler/scheduler_config.json", "{"),
        ("scheduler/scheduler_config.json", "\udc80"),
        ("cc_projection/config.json", "{"),
    ],
)
def test_a_damaged_config_is_refused(folder, path, text):
    (folder / path).write_text(text, errors="surrogateescape")
    error = refusal(folder)
    assert error.code == "weights.damaged"
    assert path.partition("/")[0] in error.sentence


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("scheduler/scheduler_config.json", {"beta_start": "small"}),
        ("cc_projection/config.json", {"pose": "of a dancer"}),
    ],
)
def test_a_config_of_another_model_is_refused(folder, path, values):
    (folder / path).touch()
    if not (folder / path).read_text():
        (folder / path).write_text("{}")
    edit(folder / path, **values)
    assert refusal(folder).code == "weights.mismatch"


def test_stable_diffusion_itself_is_another_model(folder):
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config(config, in_channels=4).save_pretrained(folder / "unet")
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert "another model" in error.sentence
    assert "channels into the U-Net is 4, not 8" in error.sentence


@pytest.mark.parametrize("shape", [(CONTEXT + 1, EMBEDDING + 4), (CONTEXT, EMBEDDING + 3)])
def test_a_projection_of_another_size_is_another_model(folder, shape):
    tensors = {"cc_projection.weight": torch.zeros(shape), "cc_projection.bias": torch.zeros(shape[0])}
    save_file(tensors, folder / "cc_projection" / FILES["cc_projection"])
    error = refusal(folder)
    assert error.code == "weights.mismatch"
    assert "another model" in error.sentence


def test_loading_is_quiet_and_leaves_the_libraries_as_they_were(whole, capfd):
    before = diffusers_logging.get_verbosity()
    load_components(whole)
    assert capfd.readouterr() == ("", "")
    assert diffusers_logging.get_verbosity() == before
