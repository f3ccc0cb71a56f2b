from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import weights_samples as samples
from torch import Tensor

from backend.generators.zero123 import published
from backend.generators.zero123.components import load_components
from backend.weights import store
from backend.weights.install import import_from, verify
from backend.weights.layouts import ldm, ouroboros3d, zero123
from backend.weights.lazy import LazyTensor, check_shapes, read_safetensors
from protocol.errors import TurnaroundError

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def _weights_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))


def imported(name: str, path: Path) -> Path:
    entry = store.find_entry(name)
    import_from(entry, path)
    verify(entry)
    assert store.is_present(entry)
    return store.weights_folder(entry)


def stored(path: Path) -> dict[str, Tensor]:
    return {name: tensor.read() for name, tensor in read_safetensors(path).items()}


# --------------------------------------------------------------------------------------------------------- Zero123


def test_the_samples_have_the_published_names_and_shapes() -> None:
    listed = json.dumps({name: list(shape) for name, shape in samples.ldm_unet().items()}, sort_keys=True)
    assert zlib.crc32(listed.encode()) == 3351400405, "the published U-Net's 686 keys and shapes"


def test_published_shapes_give_the_published_networks() -> None:
    parts = {
        "model.diffusion_model.": samples.ldm_unet(),
        "first_stage_model.": samples.ldm_vae(),
        "cond_stage_model.model.visual.": samples.openai_visual(),
        "cc_projection.": {"weight": (768, 772), "bias": (768,)},
    }
    names = {f"{prefix}{name}": shape for prefix, part in parts.items() for name, shape in part.items()}
    state = {name: LazyTensor(name, shape, torch.float32, torch.Tensor) for name, shape in names.items()}
    components = zero123._checkpoint(state)
    configs = {name: dict(component.config) for name, component in components.items()}
    assert configs["unet"].items() >= json_like(published.UNET).items()
    assert configs["vae"].items() >= json_like(published.VAE).items()
    assert configs["image_encoder"].items() >= json_like(published.IMAGE_ENCODER).items()
    expected = zero123._expected(configs, Path("zero123"))
    for name, component in components.items():
        check_shapes(name, component.tensors, expected[name], component.unused)


def json_like(config: dict) -> dict:
    return {key: list(value) if key == "block_out_channels" else value for key, value in config.items()}


@pytest.mark.parametrize(("name", "pose"), [("zero123-xl-original", "relative"), ("stable-zero123", "absolute_polar")])
def test_a_training_checkpoint_becomes_components(tmp_path: Path, name: str, pose: str) -> None:
    samples.save_zero123(tmp_path / "some.ckpt")
    folder = imported(name, tmp_path / "some.ckpt")
    unet = stored(folder / "unet" / "diffusion_pytorch_model.safetensors")
    average = "model_ema.diffusion_modelinput_blocks00weight"
    assert torch.equal(unet["conv_in.weight"], samples.fill(average, (32, 8, 3, 3)).half())
    assert {tensor.dtype for tensor in unet.values()} == {torch.float16}
    vae = stored(folder / "vae" / "diffusion_pytorch_model.safetensors")
    query = samples.fill("first_stage_model.encoder.mid.attn_1.q.weight", (128, 128, 1, 1))
    assert torch.equal(vae["encoder.mid_block.attentions.0.to_q.weight"], query[:, :, 0, 0].half())
    components = load_components(folder)
    assert components.pose == pose
    assert components.cc_projection.in_features == 36
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    assert size < 0.3 * (tmp_path / "some.ckpt").stat().st_size, "half precision; no optimizer, no second U-Net"


def test_without_an_average_the_weights_themselves_are_taken(tmp_path: Path) -> None:
    samples.save_zero123(tmp_path / "some.ckpt", average=False)
    folder = imported("zero123-xl-original", tmp_path / "some.ckpt")
    unet = stored(folder / "unet" / "diffusion_pytorch_model.safetensors")
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(unet["conv_in.weight"], samples.fill(name, (32, 8, 3, 3)).half())


def visual(state: dict[str, Tensor], picture: Tensor, heads: int) -> Tensor:
    """OpenAI CLIP's image encoder (Radford et al. 2021), from its checkpoint's names."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    patches = F.conv2d(picture, state["conv1.weight"], stride=state["conv1.weight"].shape[-1]).flatten(2).mT
    x = torch.cat([state["class_embedding"].expand(len(picture), 1, -1), patches], 1) + state["positional_embedding"]
    x = norm(x, "ln_pre")
    for index in range(sum(name.endswith("attn.in_proj_weight") for name in state)):
        block = f"transformer.resblocks.{index}"
        y = norm(x, f"{block}.ln_1").transpose(0, 1)
        y, _ = F.multi_head_attention_forward(
            y, y, y, y.shape[-1], heads, state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"],
            None, None, False, 0.0, state[f"{block}.attn.out_proj.weight"], state[f"{block}.attn.out_proj.bias"],
        )  # fmt: skip
        x = x + y.transpose(0, 1)
        y = F.linear(norm(x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ state["proj"]


def test_the_image_encoder_gives_the_numbers_of_openais(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    state = samples.filled(samples.openai_visual(128, 2, 8, 4, 48))
    lazy = {name: LazyTensor(name, tuple(t.shape), t.dtype, lambda t=t: t) for name, t in state.items()}
    tensors = ldm.image_encoder(lazy)
    network = CLIPVisionModelWithProjection(CLIPVisionConfig(**ldm.vision_config(tensors))).eval()
    network.load_state_dict({name: tensor.read() for name, tensor in tensors.items()}, strict=True)
    picture = samples.fill("picture", (2, 3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(network(picture).image_embeds, visual(state, picture, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "suffix"), [("projection", "bin"), ("cc_projection", "safetensors"), ("proj", "safetensors")]
)
def test_diffusers_folders_are_kept_component_by_component(tmp_path: Path, names: str, suffix: str) -> None:
    published_folder = tmp_path / "published"
    components = samples.save_zero123_folders(published_folder, names=names, suffix=suffix)
    folder = imported("zero123-xl", published_folder)
    for name, module in components.items():
        tensors = stored(folder / zero123.WEIGHTS[name])
        prefix = "projection." if name == "cc_projection" else ""
        assert {key.removeprefix(prefix) for key in tensors} == set(module.state_dict())
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(tensors[f"{prefix}{key}"], tensor.half(), rtol=0, atol=0)
    assert load_components(folder).pose == "relative"
    assert not list(folder.rglob("*.bin"))


# ------------------------------------------------------------------------------------------------ what does not fit

UNET = "model.diffusion_model."


def edited(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    return lambda path: samples.save_zero123(path, change=change)


def cut(path: Path) -> None:
    samples.save_zero123(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


def flip(path: Path) -> None:
    """One bit of the average, which no check of names and shapes would find."""
    marker = samples.fill("model_ema.diffusion_modelinput_blocks00weight", (32, 8, 3, 3)).numpy().tobytes()
    samples.save_zero123(path)
    content = bytearray(path.read_bytes())
    content[content.index(marker) + 5] ^= 1
    path.write_bytes(content)


def web_page(path: Path) -> None:
    path.write_text("<!doctype html><title>Sign in</title>" * 40)


def stable_diffusion(path: Path) -> None:
    state = {f"{UNET}{name}": shape for name, shape in samples.ldm_unet(32, 32, 4).items()}
    state |= {f"first_stage_model.{name}": shape for name, shape in samples.ldm_vae(32).items()}
    torch.save({"state_dict": samples.filled(state)}, path)


def in_state(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    return edited(lambda state: state.update({name: change(state[name])}))


class Attack:
    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch attacked",)


def attack(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "callbacks": Attack()}, path)


def old_attack(path: Path) -> None:
    torch.save({"state_dict": {"a": Attack()}}, path, _use_new_zipfile_serialization=False)


AVERAGE = "model_ema.diffusion_modelmiddle_block0out_layers3weight"

VAE = "first_stage_model."
LAST = "decoder.up.3.upsample.conv.bias"
POSES = {f"cc_projection.zzz.{name}": torch.zeros(1) for name in ("weight", "bias")}

BROKEN = {
    "key missing": (
        edited(lambda s: s.pop("cond_stage_model.model.visual.ln_post.bias")),
        "mismatch",
        "post_layernorm.bias",
    ),
    "average incomplete": (edited(lambda s: s.pop(AVERAGE)), "mismatch", AVERAGE),
    "pose layer missing": (edited(lambda s: s.pop("cc_projection.weight")), "mismatch", "projection.weight"),
    "other shape": (in_state("cc_projection.weight", lambda t: t[:, :35]), "mismatch", "cc_projection.weight"),
    "unexpected": (edited(lambda s: s.update({f"{UNET}label_emb.weight": torch.ones(1)})), "mismatch", ""),
    "extra in the average": (edited(lambda s: s.update({f"{UNET}extra.weight": torch.ones(1)})), "mismatch", "extra"),
    "extra in the VAE": (edited(lambda s: s.update({f"{VAE}extra.weight": torch.ones(1)})), "mismatch", f"{VAE}extra"),
    "extra in the pose layer": (edited(lambda s: s.update(POSES)), "mismatch", r"cc_projection\.zzz\.weight"),
    "VAE key without a place": (edited(lambda s: s.pop(f"{VAE}{LAST}")), "mismatch", LAST),
    "stable diffusion": (stable_diffusion, "mismatch", "cond_stage|patch_embedding"),
    "not a number": (in_state(AVERAGE, lambda t: t * torch.nan), "damaged", AVERAGE),
    "too large for half": (in_state(AVERAGE, lambda t: t * 1e8), "damaged", AVERAGE),
    "integers": (
        in_state("cc_projection.bias", lambda t: (100 * t).to(torch.int8)),
        "mismatch",
        r"dtype of .*cc_projection\.bias",
    ),
    "complex": (in_state("cc_projection.bias", lambda t: t + 1j), "damaged", "cc_projection.bias"),
    "cut off": (cut, "damaged", ""),
    "bit flipped": (flip, "damaged", "CRC"),
    "a web page": (web_page, "damaged", ""),
    "empty": (lambda path: path.write_bytes(b""), "damaged", ""),
    "a list": (lambda path: torch.save([torch.ones(3)], path), "damaged", "list"),
    "code": (attack, "unsafe", "system"),
    "code, old format": (old_attack, "unsafe", "system"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_named_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    make, code, word = BROKEN[case]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some.ckpt"
    make(path)
    entry = store.find_entry("zero123-xl-original")
    with pytest.raises(TurnaroundError) as failure:
        import_from(entry, path)
    assert failure.value.code == f"weights.{code}", failure.value
    assert re.search(word, f"{failure.value.sentence}\n{failure.value.details}"), failure.value.details
    assert failure.value.hint
    assert not store.is_present(entry)
    left = [path.name for path in (tmp_path / "weights").iterdir()]
    assert left == [".zero123-xl-original.lock"], left
    assert not (tmp_path / "attacked").exists()


def test_a_failed_import_leaves_the_installed_weights_alone(tmp_path: Path) -> None:
    samples.save_zero123(tmp_path / "good.ckpt")
    folder = imported("zero123-xl-original", tmp_path / "good.ckpt")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    samples.save_zero123(tmp_path / "bad.ckpt", change=lambda state: state.pop("cc_projection.weight"))
    with pytest.raises(TurnaroundError, match=r"projection\.weight"):
        import_from(store.find_entry("zero123-xl-original"), tmp_path / "bad.ckpt")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_diffusers_folder_that_lacks_a_part(tmp_path: Path) -> None:
    samples.save_zero123_folders(tmp_path / "published")
    (tmp_path / "published" / "vae" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(TurnaroundError, match="The VAE is missing"):
        import_from(store.find_entry("zero123-xl"), tmp_path / "published")
    (tmp_path / "published" / "vae" / "config.json").write_text('{"layers_per_block": 1000000000}')
    (tmp_path / "published" / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TurnaroundError) as failure:
        import_from(store.find_entry("zero123-xl"), tmp_path / "published")
    assert failure.value.code == "weights.damaged"


def lazy(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    return {name: LazyTensor(name, shape, torch.float32, torch.Tensor) for name, shape in shapes.items()}


def fit(part: str, convert: Callable, state: dict[str, LazyTensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    tensors, unused = convert(state)
    check_shapes(part, tensors, shapes, unused)


def test_each_key_that_a_converter_misses_is_named() -> None:
    """diffusers' own take their keys for granted, and fail in other ways at some of them."""
    unet, vae = lazy(samples.ldm_unet(32)), lazy(samples.ldm_vae(32))
    whole, _ = ldm.vae(vae)
    configs = {
        "unet": {**ldm.unet_config(ldm.unet(unet)[0]), "in_channels": 8},
        "vae": ldm.vae_config(whole),
        "image_encoder": json_like(published.IMAGE_ENCODER),
    }
    shapes = zero123._expected(configs, Path("zero123"))
    for part, convert, state in (("unet", ldm.unet, unet), ("vae", ldm.vae, vae)):
        assert len(state) > 200
        names = {tensor.name: name for name, tensor in convert(state)[0].items()}
        for key in state:
            with pytest.raises(TurnaroundError) as failure:
                fit(part, convert, {name: tensor for name, tensor in state.items() if name != key}, shapes[part])
            error = failure.value
            assert error.code == "weights.mismatch"
            assert f"missing: {names[key]}" in error.details or key in error.details, (key, error.details)


CHOICES = {
    "its own among several": ("zero123-xl-original", ["105000.ckpt", "sub/zero123-xl.ckpt"], "zero123-xl.ckpt", ""),
    "its own by licence": (
        "stable-zero123-c-original",
        ["stable_zero123.ckpt", "stable_zero123_c.ckpt"],
        "stable_zero123_c.ckpt",
        "",
    ),
    "the only one": ("zero123-xl-original", ["mine.safetensors"], "mine.safetensors", ""),
    "folders": ("zero123-xl", ["unet/config.json", "a.ckpt"], "published", ""),
    "another's": ("zero123-xl-original", ["105000.ckpt"], "", "is the file of zero123-105000-original"),
    "another's, named": ("zero123-xl", "stable_zero123.ckpt", "", "is the file of stable-zero123-original"),
    "several": (
        "zero123-xl-original",
        ["a.ckpt", "b/c.safetensors"],
        "",
        r"several files .*: a\.ckpt, b/c\.safetensors",
    ),
    "none": ("zero123-xl-original", ["a.txt"], "", r"There is no zero123-xl\.ckpt or \*\.ckpt"),
    "a checkpoint for folders": ("zero123-xl", ["a.ckpt"], "", "it has no folder unet"),
    "one level too high": ("zero123-xl", ["snapshots/1/unet/config.json"], "", "it has no folder unet"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_which_file_of_a_folder_is_meant(case: str, tmp_path: Path) -> None:
    name, files, chosen, words = CHOICES[case]
    source = tmp_path / "published"
    for file in [files] if isinstance(files, str) else files:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).touch()
    source = source / files if isinstance(files, str) else source
    if chosen:
        assert zero123._published(source, store.find_entry(name)).name == chosen
        return
    with pytest.raises(TurnaroundError, match=words) as failure:
        import_from(store.find_entry(name), source)
    assert failure.value.code in ("weights.missing", "weights.mismatch")
    assert failure.value.hint


def test_diffusers_folders_in_files_of_half_precision_and_with_what_does_not_belong(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = tmp_path / "published"
    samples.save_zero123_folders(source, suffix="safetensors")
    for path in source.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    imported("zero123-xl", source)
    config = source / "image_encoder" / "config.json"
    good = config.read_text()
    for size in (None, "48"):
        config.write_text(json.dumps({**json.loads(good), "projection_dim": size}))
        with pytest.raises(TurnaroundError, match="cannot be read") as failure:
            import_from(store.find_entry("zero123-xl"), source)
        assert failure.value.details.endswith(f"projection_dim is {size}")
    config.write_text(good)
    (layer,) = (source / "cc_projection").glob("*.safetensors")
    tensors = load_file(layer)
    save_file(tensors | {f"zzz.{name.split('.')[-1]}": tensor * 0 for name, tensor in tensors.items()}, layer)
    with pytest.raises(TurnaroundError, match=r"unexpected: zzz\."):
        import_from(store.find_entry("zero123-xl"), source)


def test_a_configuration_of_an_endless_network_is_left(tmp_path: Path) -> None:
    source = tmp_path / "published"
    samples.save_zero123_folders(source)
    config = json.loads((source / "unet" / "config.json").read_text())
    many = {
        "down_block_types": ["DownBlock2D"] * 250,
        "up_block_types": ["UpBlock2D"] * 250,
        "block_out_channels": [32] * 250,
        "layers_per_block": 256,
    }
    (source / "unet" / "config.json").write_text(json.dumps(config | many))
    with pytest.raises(TurnaroundError) as failure:
        import_from(store.find_entry("zero123-xl"), source)
    assert failure.value.code == "weights.damaged"
    assert "parts" in failure.value.details
    assert torch.is_grad_enabled(), "what was stopped has left nothing switched off"


def test_objects_of_training_programs_are_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    kept = module.ModelCheckpoint()
    kept.path = "a.ckpt"
    content = {"callbacks": {module.ModelCheckpoint: {"best": kept}}, "state_dict": samples.zero123_state()}
    torch.save(content, tmp_path / "some.ckpt")
    monkeypatch.undo()
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    assert load_components(imported("zero123-xl-original", tmp_path / "some.ckpt"))


MEASURE = """
import re, sys
from pathlib import Path
import diffusers, transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPVisionModelWithProjection
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from backend.weights import store
from backend.weights.install import import_from
from backend.weights.layouts import zero123
import kornia

def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = kilobytes("VmRSS")
import_from(store.find_entry("zero123-xl-original"), Path(sys.argv[1]))
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a part of a process")
def test_a_large_checkpoint_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    samples.save_zero123(path, base=64)
    samples._zero123_state.cache_clear()
    size = path.stat().st_size
    assert size > 250e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    path.unlink()
    assert int(done.stdout.split()[-1]) * 1024 < 0.25 * size


# ---------------------------------------------------------------------------------------------------------- others


def test_the_published_reconstructor_is_stored_with_its_config(tmp_path: Path) -> None:
    import msgspec

    from backend.reconstructors.sparseneus.config import PUBLISHED, SparseNeuSConfig
    from backend.reconstructors.sparseneus.network import SparseNeuS

    manifest = json.loads((DATA / "one2345_recon_checkpoint.json").read_text())
    tensors = samples.save_sparseneus(tmp_path / "ckpt_215000.pth", manifest)
    folder = imported("one2345-sparseneus", tmp_path / "ckpt_215000.pth")
    path = folder / "sparseneus.safetensors"
    assert msgspec.convert(store.read_config(path), SparseNeuSConfig) == PUBLISHED
    network = SparseNeuS(PUBLISHED)
    store.load_into(network, path)
    assert network.state_dict().keys() == tensors.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name

    content = torch.load(tmp_path / "ckpt_215000.pth")
    del content["rendering_network_lod0"]["rgb_fc.4.bias"]
    torch.save(content, tmp_path / "less.pth")
    with pytest.raises(TurnaroundError, match=r"missing: rendering_network_lod0\.rgb_fc\.4\.bias"):
        import_from(store.find_entry("one2345-sparseneus"), tmp_path / "less.pth")
    torch.save({**content, "sdf_network_lod0": torch.ones(3)}, tmp_path / "less.pth")
    with pytest.raises(TurnaroundError, match=r"missing: sdf_network_lod0"):
        import_from(store.find_entry("one2345-sparseneus"), tmp_path / "less.pth")


def test_loftr_in_either_form(tmp_path: Path) -> None:
    from kornia.feature import LoFTR

    state = samples.filled(samples.shapes(lambda: LoFTR(pretrained=None)))
    torch.save({"state_dict": {f"matcher.{name}": tensor for name, tensor in state.items()}}, tmp_path / "a.ckpt")
    torch.save(state, tmp_path / "b.ckpt", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "a.ckpt", tmp_path / "b.ckpt"):
        folder = imported("loftr-indoor", path)
        network = LoFTR(pretrained=None)
        store.load_into(network, folder / "loftr.safetensors")
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_segment_anything_in_either_form(tmp_path: Path) -> None:
    from transformers import SamConfig, SamModel, SamVisionConfig

    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, global_attn_indexes=[1], mlp_dim=96, image_size=512,
        window_size=7,
    )  # fmt: skip
    model = SamModel(SamConfig(vision_config=vision))
    torch.save(samples.sam_original(model.state_dict()), tmp_path / "sam.pth")
    model.save_pretrained(tmp_path / "published")
    for name, path in (("sam-vit-huge-original", tmp_path / "sam.pth"), ("sam-vit-huge", tmp_path / "published")):
        folder = imported(name, path)
        other, info = SamModel.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert other.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in other.state_dict().items())
        for key in ("num_attention_heads", "window_size", "global_attn_indexes", "image_size", "mlp_dim"):
            assert getattr(other.config.vision_config, key) == getattr(vision, key), key
        assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"longest_edge": 1024}
    for key in ("attn.rel_pos_h", "mlp.lin1.weight"):
        state = samples.sam_original(model.state_dict())
        state[f"image_encoder.blocks.0.{key}"] = torch.ones(())
        torch.save(state, tmp_path / "scalar.pth")
        with pytest.raises(TurnaroundError, match="These are not the weights of this model"):
            import_from(store.find_entry("sam-vit-huge-original"), tmp_path / "scalar.pth")
    with pytest.raises(TurnaroundError, match=r"it has no config\.json"):
        import_from(store.find_entry("sam-vit-huge"), tmp_path)


def test_an_xunet_keeps_the_conventions_of_its_training(tmp_path: Path) -> None:
    from dataclasses import replace

    import msgspec

    from backend.generators.xunet.config import SRN64, XUNetConfig
    from backend.generators.xunet.network import XUNet

    config = replace(SRN64, size=32, channels=32, res_blocks=1)
    state = samples.filled(samples.shapes(lambda: XUNet(config)))
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "optim": {}, "step": 7}, tmp_path / "latest.pt")
    folder = imported("xunet-srn64", tmp_path / "latest.pt")
    path = folder / "xunet.safetensors"
    read = msgspec.convert(store.read_config(path), XUNetConfig)
    assert read == config
    assert (read.noise_embedding, read.film_activation) == ("raw", False)
    network = XUNet(read)
    store.load_into(network, path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_ouroboros_keeps_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ouroboros3d.expected(tmp_path)
    assert {file: len(shapes) for file, shapes in real.items()} == {
        "mv_model_unet.safetensors": 1572,
        "recon_model.safetensors": 438,
    }
    small = {"mv_model_unet": {"unet.conv_in.weight": [4, 8, 3, 3]}, "recon_model": {"conv.bias": [14]}}
    manifests, source = tmp_path / "manifests", tmp_path / "published"
    manifests.mkdir()
    source.mkdir()
    for name, shapes in small.items():
        (manifests / f"ouroboros3d_{name}.json").write_text(json.dumps(shapes))
        torch.save(samples.filled({key: tuple(shape) for key, shape in shapes.items()}), source / f"{name}.pth")
    monkeypatch.setattr(ouroboros3d, "MANIFESTS", manifests)
    folder = imported("ouroboros3d", source)
    kept = stored(folder / "recon_model.safetensors")
    assert torch.equal(kept["conv.bias"], samples.fill("conv.bias", (14,)).half())
    assert store.read_config(folder / "recon_model.safetensors")["rotation"] == "all"
    (source / "recon_model.pth").unlink()
    with pytest.raises(TurnaroundError, match=r"recon_model\.pth"):
        import_from(store.find_entry("ouroboros3d"), source)


def test_an_lgm_keeps_the_rotations_of_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from safetensors.torch import save_file

    from backend.reconstructors.lgm import config
    from backend.reconstructors.lgm.network import LGM
    from backend.reconstructors.lgm.reconstructor import LGMReconstructor
    from backend.weights.layouts import lgm

    assert len(lgm.expected(tmp_path)["lgm.safetensors"]) == 376
    widths = {"down_channels": (32, 32), "down_attention": (False, True), "up_channels": (32,), "up_attention": (True,)}
    small = replace(config.PUBLISHED_LGM_FIXED, input_size=16, **widths)
    monkeypatch.setattr(config, "PUBLISHED_LGM_FIXED", small)
    state = samples.filled(samples.shapes(lambda: LGM(small)))
    for name, file, rotation in (("lgm", "model_fp16_fixrot", "each"), ("lgm-first", "model_fp16", "all")):
        path = tmp_path / f"{file}.safetensors"
        save_file({key: tensor.half() for key, tensor in state.items()}, path)
        read = LGMReconstructor(imported(name, path) / "lgm.safetensors")
        assert read.config == replace(small, rotation=rotation)
        assert all(torch.equal(tensor, state[key].half().float()) for key, tensor in read.network.state_dict().items())
    with pytest.raises(TurnaroundError, match=r"model_fp16\.safetensors is the file of lgm-first, not of lgm\."):
        import_from(store.find_entry("lgm"), path)
    path = tmp_path / "mine.safetensors"
    save_file({key: tensor for key, tensor in state.items() if "qkv" not in key}, path)
    with pytest.raises(TurnaroundError, match="qkv"):
        import_from(store.find_entry("lgm"), path)


def test_a_text_to_image_pipeline_is_kept_in_half_precision(tmp_path: Path) -> None:
    import tiny_stable_diffusion
    from safetensors.torch import load_file

    from backend.generators.text.loading import load_pipeline

    source = tiny_stable_diffusion.save(tmp_path / "published")
    text = load_file(source / "text_encoder" / "model.safetensors")
    old = {f"text_model.{name}": tensor for name, tensor in text.items() if not name.startswith("text_model.")} or text
    torch.save(old | {"text_model.embeddings.position_ids": torch.arange(3)}, source / "text_encoder/pytorch_model.bin")
    (source / "text_encoder" / "model.safetensors").unlink()
    (source / "unet" / "run.py").write_text("raise SystemExit")
    folder = imported("sd-turbo", source)
    assert not {path.suffix for path in folder.rglob("*") if path.is_file()} - {".json", ".txt", ".safetensors"}
    pipeline = load_pipeline(folder, torch.float32)
    for name, tensor in pipeline.text_encoder.state_dict().items():
        assert torch.equal(tensor, old[f"text_model.{name.removeprefix('text_model.')}"].half().float()), name
    (folder / "tokenizer" / "merges.txt").write_text("other")
    with pytest.raises(TurnaroundError, match=r"merges\.txt"):
        verify(store.find_entry("sd-turbo"))
    with pytest.raises(TurnaroundError, match=r"model_index\.json"):
        import_from(store.find_entry("sd-turbo"), source / "unet")


def described(**changes: object) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        path = source / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


PIPELINES = {
    "another's": ("sdxl-turbo", described(), "it is a StableDiffusionPipeline, not a StableDiffusionXLPipeline"),
    "the larger kind": (
        "sd-turbo",
        described(_class_name="StableDiffusionXLPipeline"),
        "not a StableDiffusionPipeline",
    ),
    "a video model": (
        "sd-turbo",
        described(_class_name="StableVideoDiffusionPipeline"),
        "it is a StableVideoDiffusion",
    ),
    "no class": ("sd-turbo", described(_class_name=None), "it is a None"),
    "no VAE": ("sd-turbo", described(vae=[None, None]), "it lacks vae, which"),
    "no U-Net": ("sd-turbo", lambda source: shutil.rmtree(source / "unet"), r"it lacks unet/config\.json"),
    "no merges": (
        "sd-turbo",
        lambda source: (source / "tokenizer/merges.txt").unlink(),
        r"it lacks tokenizer/merges\.txt",
    ),
}


@pytest.mark.parametrize("case", PIPELINES)
def test_a_text_to_image_pipeline_is_of_the_kind_that_is_asked_for(case: str, tmp_path: Path) -> None:
    import tiny_stable_diffusion

    name, change, words = PIPELINES[case]
    source = tiny_stable_diffusion.save(tmp_path / "published")
    change(source)
    with pytest.raises(TurnaroundError, match=words) as failure:
        import_from(store.find_entry(name), source)
    assert failure.value.hint
    assert not store.is_present(store.find_entry(name))


def test_the_larger_kind_of_pipeline_is_kept_with_both_text_encoders(tmp_path: Path) -> None:
    import tiny_stable_diffusion

    folder = imported("sdxl-turbo", tiny_stable_diffusion.save_xl(tmp_path / "published"))
    assert (folder / "text_encoder_2" / "model.safetensors").is_file()
