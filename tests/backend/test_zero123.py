"""Zero123 beside a plain re-statement of what its published pipeline computes, one view at a time."""

from __future__ import annotations

import json
import math

import kornia
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection
from zero123_fixture import make_zero123

from backend.generators.noise import noise_source
from backend.generators.zero123 import published
from backend.generators.zero123.components import NoiseConfig
from backend.generators.zero123.generator import (
    PUBLISHED_GUIDANCE,
    ViewRequest,
    Zero123Generator,
    _latent_colors,
    _preview,
)
from backend.generators.zero123.pose import pose_vector, radius
from backend.generators.zero123.preprocessing import clip_pixels, on_white, signed, snap_white
from backend.generators.zero123.sampling import DEFAULT_STEPS, make_scheduler
from backend.geometry.cameras import Camera
from backend.pipelines.stage import CancelledError, Progress
from backend.preparation.framing import framed_camera

FRONT = framed_camera(10.0)
AROUND = [FRONT.moved(azimuth_deg=a, elevation_deg=e) for a, e in ((0, 0), (90, 0), (30, -30), (0, 10), (-10, 0))]


def picture(seed, size=256):
    """A smooth random picture, transparent in places."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_zero123(tmp_path_factory.mktemp("zero123"))


@pytest.fixture(scope="module")
def generator(folder):
    return Zero123Generator(folder, dtype=torch.float32)


@pytest.fixture
def unet_rows(generator, monkeypatch):
    """The batch size of every call of the U-Net."""
    rows = []
    forward = generator.components.unet.forward

    def recorded(sample, *args, **kwargs):
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(generator.components.unet, "forward", recorded)
    return rows


def differ(a, b):
    """The greatest difference of two sets of pictures, in grey levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# ------------------------------------------------------------------------------------------------------------- pose


def test_pose_is_what_zero123_calls_it():
    camera = Camera(20.0, 35.0, 1.5, 40.0)
    np.testing.assert_array_equal(pose_vector(camera, camera), [0, 0, 1, 0])
    higher = pose_vector(camera, camera.moved(elevation_deg=30))
    np.testing.assert_allclose(higher, [-math.pi / 6, 0, 1, 0], atol=1e-7)  # polar angles fall as cameras rise
    left = pose_vector(camera, camera.moved(azimuth_deg=90))  # counter-clockwise from above
    np.testing.assert_allclose(left, [0, 1, 0, 0], atol=1e-7)
    around = pose_vector(camera, camera.moved(azimuth_deg=270))
    np.testing.assert_allclose(around, [0, -1, 0, 0], atol=1e-7)
    assert pose_vector(camera, Camera(20.0, 35.0, 1.8, 40.0))[3] > 0
    assert higher.dtype == np.float32


def test_stable_zero123_is_told_the_pictures_own_polar_angle():
    camera = Camera(20.0, 0.0, 1.5, 40.0)
    for target in (camera, camera.moved(elevation_deg=-30), Camera(5.0, 3.0, 9.0, 40.0)):
        assert pose_vector(camera, target, "absolute_polar")[3] == pytest.approx(math.radians(70))


@given(elevation=st.floats(-90, 90), azimuth=st.floats(-720, 720), fov=st.floats(5, 100))
def test_there_and_back_cancels(elevation, azimuth, fov):
    here, there = framed_camera(10.0, 20.0, fov), framed_camera(elevation, azimuth, fov)
    forth, back = pose_vector(here, there), pose_vector(there, here)
    np.testing.assert_allclose(forth, back * [-1, -1, 1, -1], atol=1e-6)
    assert forth[3] == 0
    assert np.hypot(forth[1], forth[2]) == pytest.approx(1, abs=1e-6)


def test_a_framed_picture_is_about_as_near_as_the_training_pictures():
    assert radius(framed_camera(0.0, fov_deg=20.0)) == pytest.approx(radius(framed_camera(0.0, fov_deg=60.0)))
    assert 1.4 < radius(FRONT) < 2.2


# ---------------------------------------------------------------------------------------------------- preprocessing


def test_pictures_lie_on_white():
    image = np.zeros((256, 256, 4), np.uint8)
    image[:128] = (200, 100, 0, 255)
    image[128:192] = (200, 100, 0, 51)
    white = on_white(image)
    np.testing.assert_array_equal(white[0, 0], (200, 100, 0))
    np.testing.assert_array_equal(white[150, 0], (244, 224, 204))
    np.testing.assert_array_equal(white[255, 0], (255, 255, 255))
    assert on_white(picture(0, 300)).shape == (256, 256, 3)
    with pytest.raises(ValueError, match="uint8"):
        on_white(white)


def test_nearly_white_snaps_to_white_for_the_second_stage():
    image = np.array([[[252, 253, 254, 253]]], np.uint8)
    np.testing.assert_array_equal(snap_white(image), [[[252, 255, 255, 253]]])  # alpha is no colour
    assert image[0, 0, 1] == 253


def test_clip_sees_what_kornia_would_show_it():
    x = signed(np.stack([on_white(picture(0)), on_white(picture(1))]))
    resized = kornia.geometry.resize(x, (224, 224), interpolation="bicubic", align_corners=True, antialias=False)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(clip_pixels(x), kornia.enhance.normalize((resized + 1) / 2, mean, std))


# --------------------------------------------------------------------------------------------- the published pipeline


def plain_ddim(predict, shape, source, schedule, steps):
    """DDIM of one view as the published pipelines compute it: the latent [1, ...], and how many steps were taken."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1 - betas)
    stride = 1000 // steps
    timesteps = [t + 1 for t in (range(0, 1000, stride) if schedule == "ldm" else range(0, stride * steps, stride))]
    eta = 1.0 if schedule == "ldm" else 0.0
    z = torch.randn(shape[1:], generator=source)[None]
    for i in reversed(range(len(timesteps))):
        e = predict(z, timesteps[i])
        a, a_prev = signal[timesteps[i]], signal[timesteps[i - 1]] if i else signal[0]
        sigma = eta * math.sqrt((1 - a_prev) / (1 - a)) * math.sqrt(1 - a / a_prev)
        x0 = (z - math.sqrt(1 - a) * e) / math.sqrt(a)
        z = math.sqrt(a_prev) * x0 + math.sqrt(1 - a_prev - sigma**2) * e
        if eta:
            z = z + sigma * torch.randn(shape[1:], generator=source)[None]
    return z, len(timesteps)


@torch.no_grad()
def plain_view(folder, image, T, source, *, schedule, steps, scale):
    """One view as the published pipelines compute it; every step written out, nothing shared with the backend.

    Args:
        image: uint8 [256, 256, 4], straight alpha.
        T: the four numbers of the pose.
        source: generator of all noise.
        schedule: "ldm" or "ddim".
        scale: guidance scale.
    """
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    clip = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    projection = load_file(folder / "cc_projection" / "model.safetensors")

    alpha = image[..., 3:] / 255.0
    x = torch.from_numpy(np.round(image[..., :3] * alpha + 255 * (1 - alpha))).float().permute(2, 0, 1)[None]
    x = x / 255 * 2 - 1
    seen = kornia.geometry.resize(x, (224, 224), interpolation="bicubic", align_corners=True, antialias=False)
    seen = (seen + 1) / 2
    seen = (seen - torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    ).view(1, 3, 1, 1)
    embedding = torch.cat([clip(seen).image_embeds, torch.tensor([T], dtype=torch.float32)], dim=1)
    context = embedding @ projection["cc_projection.weight"].T + projection["cc_projection.bias"]
    latent = vae.encode(x).latent_dist.mode()  # not times the scaling factor

    def predict(z, t):
        conditional = unet(torch.cat([z, latent], 1), t, context[:, None]).sample
        unconditional = unet(torch.cat([z, 0 * latent], 1), t, 0 * context[:, None]).sample
        return unconditional + scale * (conditional - unconditional)

    z, count = plain_ddim(predict, latent.shape, source, schedule, steps)
    drawn = (vae.decode(z / 0.18215).sample[0] / 2 + 0.5).clamp(0, 1)
    return (drawn * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), count


@pytest.mark.parametrize(
    ("schedule", "steps", "count", "pose"),
    [("ldm", 75, 77, "relative"), ("ldm", 50, 50, "absolute_polar"), ("ddim", 75, 75, "relative")],
)
def test_views_are_those_of_the_published_pipeline(tmp_path, schedule, steps, count, pose):
    folder = make_zero123(tmp_path / "weights", pose)
    targets = [FRONT.moved(azimuth_deg=90), FRONT.moved(azimuth_deg=30, elevation_deg=-30)]
    last = 0.0 if pose == "relative" else math.radians(80)
    poses = [(0.0, 1.0, 0.0, last), (math.radians(30), math.sin(math.radians(30)), math.cos(math.radians(30)), last)]
    images = [picture(1), picture(2)]
    requests = [
        ViewRequest(image, FRONT, target, i) for i, (image, target) in enumerate(zip(images, targets, strict=True))
    ]
    drawn = Zero123Generator(folder, dtype=torch.float32).draw(
        requests, seed=5, steps=steps, guidance=PUBLISHED_GUIDANCE, progress=Progress(), schedule=schedule
    )
    for i, (image, T) in enumerate(zip(images, poses, strict=True)):
        plain, taken = plain_view(folder, image, T, noise_source(5, i), schedule=schedule, steps=steps, scale=3.0)
        assert taken == count
        assert plain.std() > 30  # a picture in which a mistake would show
        assert differ(drawn.images[i, ..., :3], plain) <= 1
    assert (drawn.images[..., 3] == 255).all()
    assert drawn.cameras == tuple(targets)


def test_no_guidance_is_a_scale_of_one(folder, generator, unet_rows):
    drawn = generator.generate(
        picture(1), FRONT, AROUND[1:2], seed=5, steps=10, guidance=0.0, progress=Progress(), schedule="ddim"
    )
    source = ViewRequest(picture(1), FRONT, AROUND[1]).noise(5)
    assert set(unet_rows) == {1}
    plain, _ = plain_view(folder, picture(1), (0.0, 1.0, 0.0, 0.0), source, schedule="ddim", steps=10, scale=1.0)
    assert differ(drawn.images[0, ..., :3], plain) <= 1


# -------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(("schedule", "steps"), [("ldm", 75), ("ldm", 50), ("ddim", 75), ("ddim", 50)])
def test_ddim_is_the_plain_formula(schedule, steps):
    def predict(z, t):
        return torch.tanh(3 * z) + 1e-4 * t

    noise = NoiseConfig(1000, 0.00085, 0.012, "scaled_linear")
    plain, _ = plain_ddim(predict, (1, 4, 8, 8), noise_source(1), schedule, steps)
    scheduler, options = make_scheduler(noise, schedule, steps)
    source = noise_source(1)
    z = torch.randn(1, 4, 8, 8, generator=source)
    for t in scheduler.timesteps:
        z = scheduler.step(predict(z, t), t, z, **options, generator=[source]).prev_sample
    torch.testing.assert_close(z, plain, rtol=1e-4, atol=1e-4)


def test_few_steps_end_where_many_do():
    """On data whose noise can be told exactly: two clusters in each of many coordinates of all sizes."""
    noise = NoiseConfig(1000, 0.00085, 0.012, "scaled_linear")
    size = torch.logspace(-1.5, 0.2, 4096, dtype=torch.float64)

    def end(scheduler):
        z = torch.randn(1, len(size), generator=noise_source(0), dtype=torch.float64)
        for t in scheduler.timesteps:
            signal = scheduler.alphas_cumprod[int(t)].double()
            center, variance = signal.sqrt() * 0.8 * size, signal * (0.35 * size) ** 2 + 1 - signal
            e = (1 - signal).sqrt() * (z - torch.tanh(z * center / variance) * center) / variance
            z = scheduler.step(e, t, z).prev_sample.double()
        return z

    def psnr(scheduler):
        return 10 * math.log10((2 * size.max()) ** 2 / ((end(scheduler) - exact) ** 2).mean())

    many = DDIMScheduler(**published.SCHEDULER)
    many.set_timesteps(1000)
    many.timesteps = many.timesteps.clamp(max=999)
    exact = end(many)
    assert psnr(make_scheduler(noise, "dpmsolver++", DEFAULT_STEPS)[0]) > 45
    assert psnr(make_scheduler(noise, "ddim", DEFAULT_STEPS)[0]) < 45  # so the default is worth having


@pytest.mark.parametrize("schedule", ["dpmsolver++", "ddim", "ldm"])
def test_every_number_of_steps_can_be_taken(schedule):
    noise = NoiseConfig(1000, 0.00085, 0.012, "scaled_linear")
    for steps in (1, 2, 3, 14, 27, 75, 999, 1000):
        timesteps = make_scheduler(noise, schedule, steps)[0].timesteps
        assert timesteps.min() >= 0
        assert timesteps.max() <= 999
        assert len(timesteps) >= min(steps, 999)
    for steps in (0, -1, 1001):
        with pytest.raises(ValueError, match="steps"):
            make_scheduler(noise, schedule, steps)


def test_default_stages_cost_as_many_evaluations_as_promised(generator, unet_rows):
    generator.generate(
        picture(1), FRONT, AROUND[:2], seed=0, steps=DEFAULT_STEPS, guidance=PUBLISHED_GUIDANCE, progress=Progress()
    )
    assert unet_rows == [4] * DEFAULT_STEPS
    assert (8 + 32) * 2 * DEFAULT_STEPS == 1120


# ---------------------------------------------------------------------------------------------------------- batches

SETTINGS = {"seed": 3, "steps": 4, "guidance": 2.0}


def second_stage():
    """Two views around each of two pictures."""
    sides = [(FRONT, picture(1)), (FRONT.moved(azimuth_deg=90), picture(2))]
    return [ViewRequest(p, c, c.moved(azimuth_deg=turn)) for c, p in sides for turn in (-10, 10)]


@pytest.mark.parametrize("schedule", ["dpmsolver++", "ldm"])
def test_a_view_does_not_depend_on_those_beside_it(generator, folder, schedule):
    requests = second_stage()
    together = generator.draw(requests, **SETTINGS, progress=Progress(), schedule=schedule)
    backwards = generator.draw(requests[::-1], **SETTINGS, progress=Progress(), schedule=schedule)
    assert differ(together.images, backwards.images[::-1]) <= 1
    alone = Zero123Generator(folder, dtype=torch.float32, batch=1)
    assert differ(together.images, alone.draw(requests, **SETTINGS, progress=Progress(), schedule=schedule).images) <= 1
    assert all(differ(together.images[i], together.images[j]) > 10 for i in range(4) for j in range(i))


def test_the_seed_and_the_turn_choose_the_noise():
    here = ViewRequest(picture(1), FRONT, AROUND[1])
    raised = ViewRequest(picture(1), FRONT.moved(elevation_deg=5), AROUND[1].moved(elevation_deg=5))

    def first(request, seed):
        return torch.randn(4, generator=request.noise(seed))

    assert torch.equal(first(here, 0), first(raised, 0))  # the same turn: only the elevation is known better
    assert not torch.equal(first(here, 0), first(here, 1))
    assert not torch.equal(first(here, 0), first(ViewRequest(picture(1), FRONT, AROUND[2]), 0))
    indexed = [first(ViewRequest(picture(1), FRONT, AROUND[1], index), 0) for index in (0, 1)]
    assert not torch.equal(*indexed)


def test_each_picture_is_encoded_once(generator, monkeypatch):
    generator.forget()
    counts = {}
    for name in ("image_encoder", "vae"):
        network = getattr(generator.components, name)
        method = "forward" if name == "image_encoder" else "encode"

        def counted(x, *args, name=name, original=getattr(network, method), **kwargs):
            counts[name] = counts.get(name, 0) + len(x)
            return original(x, *args, **kwargs)

        monkeypatch.setattr(network, method, counted)
    drawn = generator.draw(second_stage(), **SETTINGS, progress=Progress())
    assert counts == {"image_encoder": 2, "vae": 2}
    again = generator.draw(second_stage()[::-1], **SETTINGS, progress=Progress())  # the second call of a job
    assert counts == {"image_encoder": 2, "vae": 2}
    assert differ(drawn.images, again.images[::-1]) <= 1
    generator.draw([*second_stage()[:1], ViewRequest(picture(3), FRONT, FRONT)], **SETTINGS, progress=Progress())
    assert counts == {"image_encoder": 3, "vae": 3}
    generator.forget()
    generator.draw(second_stage(), **SETTINGS, progress=Progress())
    assert counts == {"image_encoder": 5, "vae": 5}


def test_of_many_pictures_the_last_encodings_are_kept(folder, monkeypatch):
    monkeypatch.setattr("backend.generators.zero123.generator.ENCODINGS_KEPT", 2)
    generator, encoded = Zero123Generator(folder, dtype=torch.float32), []
    encode = generator.components.vae.encode
    monkeypatch.setattr(generator.components.vae, "encode", lambda x: (encoded.append(len(x)), encode(x))[1])
    for seeds in ((1, 2, 3), (2, 3), (1,), (3,), (2,)):
        requests = [ViewRequest(picture(seed), FRONT, AROUND[1]) for seed in seeds]
        assert len(generator.draw(requests, **SETTINGS, progress=Progress())) == len(seeds)
    assert encoded == [3, 1, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_batches_shrink_when_memory_runs_out(generator, monkeypatch, error):
    requests = second_stage()
    plenty = generator.draw(requests, **SETTINGS, progress=Progress())
    generator.forget()
    rows = []

    def short(original, most):
        def call(x, *args, **kwargs):
            if len(x) > most:
                raise error
            rows.append(len(x))
            return original(x, *args, **kwargs)

        return call

    components = generator.components
    monkeypatch.setattr(components.unet, "forward", short(components.unet.forward, 5))  # two views with guidance
    monkeypatch.setattr(components.vae, "encode", short(components.vae.encode, 1))
    monkeypatch.setattr(components.vae, "decode", short(components.vae.decode, 1))
    scarce = generator.draw(requests, **SETTINGS, progress=Progress())
    assert differ(plenty.images, scarce.images) <= 1
    assert rows == [1, 1] + [4, 4] * SETTINGS["steps"] + [1, 1, 1, 1]

    monkeypatch.setattr(components.vae, "decode", short(components.vae.decode, 0))
    with pytest.raises(type(error)):
        generator.draw(requests, **SETTINGS, progress=Progress())


def test_other_errors_are_not_taken_for_short_memory(generator, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(generator.components.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        generator.draw(second_stage(), **SETTINGS, progress=Progress())


def test_low_memory_has_one_network_on_the_device_at_a_time(folder, generator, monkeypatch):
    """The device is called cpu:0 here, which torch knows as another name of the one where the networks wait."""
    requests = second_stage()
    expected = generator.draw(requests, **SETTINGS, progress=Progress())
    lean = Zero123Generator(folder, "cpu:0", dtype=torch.float32, low_memory=True)
    on_device, seen = set(), []
    for name in ("unet", "vae", "image_encoder"):
        network = getattr(lean.components, name)

        def moved(device, name=name, network=network):
            (on_device.add if str(device) == "cpu:0" else on_device.discard)(name)
            seen.append(sorted(on_device))
            return network

        monkeypatch.setattr(network, "to", moved)
    assert differ(lean.draw(requests, **SETTINGS, progress=Progress()).images, expected.images) <= 1
    assert seen == [["image_encoder"], [], ["vae"], [], ["unet"], [], ["vae"], []]


def test_the_unet_can_be_compiled(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    Zero123Generator(folder, dtype=torch.float32, compiled=True)
    assert compiled == ["UNet2DConditionModel"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_the_same(folder, generator, dtype):
    exact = generator.draw(second_stage(), **SETTINGS, progress=Progress())
    half = Zero123Generator(folder, dtype=dtype)
    assert half.components.unet.dtype == dtype
    assert half.components.vae.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    drawn = half.draw(second_stage(), **SETTINGS, progress=Progress())
    assert np.abs(drawn.images.astype(float) - exact.images).mean() < 4


# ------------------------------------------------------------------------------------------- progress, cancel, bounds


def test_every_step_is_told_and_some_are_shown(generator):
    updates = []
    progress = Progress(report=updates.append)
    generator.generate(picture(1), FRONT, AROUND[:2], seed=0, steps=10, guidance=2.0, progress=progress)
    assert [(u.step, u.total) for u in updates] == [(step, 10) for step in range(11)]
    shown = [u.step for u in updates if u.preview is not None]
    assert shown == [4, 8]
    views = updates[4].preview.views
    assert views.shape == (2, 32, 32, 4)
    assert views.dtype == np.uint8


def test_previews_look_like_what_is_drawn():
    """A latent that is the picture in other colours is shown in the picture's."""
    pictures = signed(np.stack([on_white(picture(1)), on_white(picture(2))]))
    small = torch.nn.functional.interpolate(pictures, (32, 32), mode="area")
    mix = torch.tensor([[1.0, 2, 0], [0, 1, -1], [1, 0, 1], [0, 0, 3]])
    latents = torch.einsum("lc,nchw->nlhw", mix, small) + 0.5
    shown = _preview(latents, _latent_colors(latents, pictures))
    assert differ(shown[..., :3], ((small / 2 + 0.5) * 255).round().permute(0, 2, 3, 1).numpy()) <= 1


def test_a_cancelled_job_stops_at_its_step(generator, unet_rows):
    progress = Progress()

    def report(update):
        if update.step == 3:
            progress.cancel.set()

    progress.report = report
    with pytest.raises(CancelledError):
        generator.generate(picture(1), FRONT, AROUND[:1], seed=0, steps=50, guidance=2.0, progress=progress)
    assert len(unet_rows) <= 4


def test_a_cancelled_job_stops_within_a_step_of_several_parts(folder, monkeypatch):
    generator = Zero123Generator(folder, dtype=torch.float32, batch=1)
    progress, calls = Progress(), []
    forward = generator.components.unet.forward

    def cancelling(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            progress.cancel.set()
        return forward(*args, **kwargs)

    monkeypatch.setattr(generator.components.unet, "forward", cancelling)
    with pytest.raises(CancelledError):
        generator.generate(picture(1), FRONT, AROUND, seed=0, steps=10, guidance=2.0, progress=progress)
    assert len(calls) == 2


def test_no_views_are_no_work(generator, unet_rows):
    assert len(generator.generate(picture(1), FRONT, [], **SETTINGS, progress=Progress())) == 0
    assert unet_rows == []


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_steps_are_refused(generator, steps):
    with pytest.raises(ValueError, match="steps"):
        generator.generate(picture(1), FRONT, AROUND, seed=0, steps=steps, guidance=2.0, progress=Progress())


def test_manifest_of_the_published_unet(request):
    """The published sizes, through diffusers' own renaming of the original checkpoint's keys."""
    manifest = json.loads((request.config.rootpath / "tests" / "data" / "zero123_manifest.json").read_text())
    original = {key: torch.empty(shape, device="meta") for key, shape in manifest.items()}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**published.UNET)
        AutoencoderKL(**published.VAE)
    renamed = convert_ldm_unet_checkpoint(original, {**published.UNET, "class_embed_type": None})
    own = {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in renamed.items()} == own
    embedding, context = published.IMAGE_ENCODER["projection_dim"], published.UNET["cross_attention_dim"]
    assert manifest["cc_projection.weight"] == [context, embedding + 4]
