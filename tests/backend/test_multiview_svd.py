"""The multi-view generator: cameras, conditions, steps, feedback and the loss it learns from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import nn

from backend.generators.multiview_svd.cameras import network_cameras, network_frame, orbit
from backend.generators.multiview_svd.conditioning import clip_pixels, make_condition
from backend.generators.multiview_svd.config import OUROBOROS3D, TINY, ImageEncoderConfig
from backend.generators.multiview_svd.generator import MultiviewGenerator
from backend.generators.multiview_svd.loading import load_stored
from backend.generators.multiview_svd.model import MultiviewModel
from backend.generators.multiview_svd.network import Maps
from backend.generators.multiview_svd.pixels import PixelVAE
from backend.generators.multiview_svd.sampling import denoise, no_feedback
from backend.geometry.cameras import Camera, project
from backend.preparation.framing import framed_camera
from backend.training.multiview_svd import NoiseLevels, Orbits, add_noise, denoising_loss
from backend.weights.store import save_weights
from protocol.errors import TurnaroundError

SMALL = dataclasses.replace(
    TINY,
    prediction="v_prediction",
    size=32,
    channels=(32, 32),
    heads=(2, 2),
    context=16,
    time_id_width=8,
    octaves=2,
    image_encoder=ImageEncoderConfig(size=32, patch=16, width=16, hidden=16, layers=1, heads=2),
    azimuths_deg=(0.0, 90.0, 180.0),
    guidance=(1.0, 3.0),
    steps=4,
)


@pytest.fixture(scope="module", params=["v_prediction", "sample"])
def model(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = MultiviewModel(dataclasses.replace(SMALL, prediction=request.param))
        for adapter in built.network.cond_encoder:
            for block in adapter.body:
                nn.init.normal_(block.block2.weight, std=0.1)
    return built.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def orbits():
    views = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return Orbits(views, network_cameras(SMALL, [10.0, 25.0]))


def condition_of(model, orbits):
    picture = orbits.views[:, 0]
    return make_condition(model, picture, orbits.cameras, torch.zeros_like(picture))


class Oracle(nn.Module):
    """In the network's place: sees through the noise, with `views` for a condition and `blind` without one."""

    def __init__(self, model, views, blind=None):
        super().__init__()
        self.unet, self.seen = model.network.unet, []
        self.views, self.blind, self.model = views, blind, [model]

    def forward(self, latents, timestep, context, added_time_ids, cameras, feedback):
        self.seen.append((feedback, added_time_ids))
        sigma = (4 * timestep)[:, None, None, None, None].exp()
        noisy = latents[:, :, : SMALL.latent_channels] * (sigma**2 + 1).sqrt()
        clean = self.model[0].latents(self.views)
        if len(latents) == 2 * len(clean):
            clean = torch.cat([self.model[0].latents(self.blind), clean])
        blind = (context == 0).all(-1).all(-1)
        assert torch.equal(blind, (latents[:, :, SMALL.latent_channels :] == 0).flatten(1).all(1))
        assert len(clean) == len(self.views) or blind.tolist() == [True] * len(self.views) + [False] * len(self.views)
        if self.model[0].config.prediction == "sample":
            return clean
        return (noisy / (sigma**2 + 1) - clean) * (sigma**2 + 1).sqrt() / sigma


def with_network(model, network):
    """The model with another network."""
    other = MultiviewModel(model.config, network=model.network, image_encoder=model.image_encoder, vae=model.vae)
    other.network = network
    return other


# --------------------------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize("config", [OUROBOROS3D, TINY])
def test_a_point_is_seen_at_the_same_place_in_both_frames(config):
    camera = Camera(25.0, 40.0, 3.0, 30.0)
    points = np.array([[0.4, 0, 0], [-0.3, 0, 0], [0, -0.4, 0], [0, 0.2, 0], [0, 0, 0.4], [0.1, 0.2, -0.3]])
    frame, cameras = network_frame(config, camera), network_cameras(config, [camera.elevation_deg])
    local = torch.from_numpy(frame.scale * points @ frame.rotation.T).float()
    views = orbit(config, camera)
    beside = 0.5 * camera.world_from_camera()[:3, :2].T  # in the plane that the picture is framed in
    np.testing.assert_allclose(project(views[0], beside, 1)[0], project(camera, beside, 1)[0], atol=1e-12)
    for view, pose, intrinsics in zip(views, *(matrix[0] for matrix in cameras), strict=True):
        uvw = (local - pose[:3, 3]) @ pose[:3, :3] @ intrinsics.T
        np.testing.assert_allclose(uvw[:, :2] / uvw[:, 2:], project(view, points, 1)[0], atol=1e-5)
    assert [view.azimuth_deg - 40 for view in views] == [0, 45, 90, 135, 180, 225, 270, 337.5]
    assert {view.elevation_deg for view in views} == {25.0}


def test_the_frame_is_level_without_elevation_and_right_is_right():
    frame = network_frame(OUROBOROS3D, framed_camera(0.0))
    np.testing.assert_allclose(frame.rotation @ [1, 0, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(frame.rotation @ [0, -1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(frame.rotation @ [0, 0, 1], [0, 1, 0], atol=1e-12)
    poses = network_cameras(OUROBOROS3D, [0.0, 30.0]).world_from_camera
    torch.testing.assert_close(poses[1, 0], poses[0, 0], atol=1e-6, rtol=0)  # however high the picture was taken from
    assert poses[1, 4, 1, 3] > 1  # the view from behind then stands above it


# ------------------------------------------------------------------------------------------------------- conditions


def test_clip_is_shown_what_stable_video_diffusion_shows_it():
    picture = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    expected = (_resize_with_antialiasing(picture, (224, 224)) + 1) / 2
    torch.testing.assert_close(clip_pixels(picture, 224), (expected - mean) / std, atol=1e-5, rtol=0)


def test_pixels_folded_into_channels_come_back_unchanged():
    vae, images = PixelVAE(4), torch.rand(2, 3, 3, 64, 64)
    latents = vae.encode(images.flatten(0, 1))
    assert latents.shape == (6, 48, 16, 16)
    assert torch.equal(vae.decode(latents.unflatten(0, (2, 3))), images)
    assert torch.equal(vae.encode(images[0])[0, ::16, 0, 0], images[0, 0, :, 0, 0])


# --------------------------------------------------------------------------------------------------------- sampling


def test_steps_lead_from_noise_to_what_the_network_sees(model, orbits):
    oracle = with_network(model, Oracle(model, orbits.views))
    sources = [torch.Generator().manual_seed(i) for i in range(2)]
    given = [Maps(torch.full((2, 3, 3, 32, 32), 0.1 * i), torch.full((2, 3, 3, 32, 32), 0.5)) for i in range(5)]

    def feedback(step):
        assert torch.allclose(step.timestep, torch.full((2,), 0.25) * np.log(step.sigma))
        return given[step.number] if step.number != 2 else None

    steps = list(denoise(oracle, condition_of(model, orbits), sources, guidance=(1.0, 1.0), feedback=feedback))
    assert [(step.number, step.total) for step in steps] == [(i, 4) for i in (1, 2, 3, 4)]
    rho = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 4) ** 7
    assert [step.sigma for step in steps] == pytest.approx(rho, rel=1e-4)
    for step in steps[1:]:
        torch.testing.assert_close(step.images, orbits.views, atol=1e-3, rtol=0)
    shown = [maps for maps, _ in oracle.network.seen]
    assert [float(maps.colors.mean()) for maps in shown] == pytest.approx([0, 0.1, 0, 0.3])
    assert [float(maps.coordinates.mean()) for maps in shown] == pytest.approx([0, 0.5, 0, 0.5])
    assert torch.allclose(oracle.network.seen[0][1], torch.tensor([6.0, 127.0, 0.02]))


def test_guidance_grows_from_the_first_view_to_the_last(model, orbits):
    blind = orbits.views.flip(0) * 0.5
    oracle = with_network(model, Oracle(model, orbits.views, blind))
    sources = [torch.Generator().manual_seed(i) for i in range(2)]
    *_, last = denoise(oracle, condition_of(model, orbits), sources, guidance=(1.0, 3.0))
    weight = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    torch.testing.assert_close(last.images, blind + weight * (orbits.views - blind), atol=1e-3, rtol=0)


def test_feedback_and_cameras_change_what_is_drawn(model):
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 4), np.uint8)
    generator = MultiviewGenerator(model)

    def draw(elevation=10.0, **options):
        camera = framed_camera(elevation)
        *_, last = generator.draw(image, camera, seed=options.pop("seed", 1), **options)
        return generator.views(last, camera)

    views = draw()
    assert views.images.shape == (3, 32, 32, 4)
    assert views.images.dtype == np.uint8
    assert (views.images[..., 3] == 255).all()
    assert [camera.azimuth_deg for camera in views.cameras] == [0, 90, 180]
    assert np.array_equal(draw().images, views.images)
    maps = Maps(torch.rand(1, 3, 3, 32, 32), torch.rand(1, 3, 3, 32, 32))
    for other in (draw(seed=2), draw(elevation=30.0), draw(feedback=lambda step: maps), draw(guidance=(1.0, 1.0))):
        assert not np.array_equal(other.images, views.images)
    assert np.array_equal(draw(feedback=lambda step: no_feedback(SMALL, 1, model.device)).images, views.images)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e6])
def test_a_drawing_that_comes_apart_is_stopped(model, orbits, factor):
    oracle = with_network(model, Oracle(model, orbits.views * factor))
    with pytest.raises(TurnaroundError) as caught:
        list(denoise(oracle, condition_of(model, orbits), [torch.Generator()] * 2, guidance=(1.0, 1.0)))
    assert caught.value.code == "views.diverged"
    assert caught.value.hint


# --------------------------------------------------------------------------------------------------------- training


def test_who_sees_through_the_noise_has_no_loss(model, orbits):
    oracle = with_network(model, Oracle(model, orbits.views))
    noised = add_noise(oracle, orbits, torch.Generator().manual_seed(0), NoiseLevels(dropout=0.0))
    loss, images = denoising_loss(oracle, noised, no_feedback(SMALL, 2, model.device))
    torch.testing.assert_close(images, orbits.views, atol=1e-4, rtol=0)
    assert loss.max() < 1e-6
    assert torch.equal(oracle.network.seen[0][1][:, :2], torch.tensor([[6.0, 127.0]] * 2))


def test_the_loss_is_the_velocitys_and_reaches_every_part(orbits):
    torch.manual_seed(0)
    model = MultiviewModel(SMALL)
    noised = add_noise(model, orbits, torch.Generator().manual_seed(0), NoiseLevels(dropout=0.0))
    maps = Maps(torch.rand(2, 3, 3, 32, 32), torch.rand(2, 3, 3, 32, 32))
    loss, images = denoising_loss(model, noised, maps)
    sigma = noised.sigma[:, None, None, None, None]
    estimate = model.latents(images)
    velocity, wanted = (
        (noised.noisy / (sigma**2 + 1) - x) * (sigma**2 + 1).sqrt() / sigma for x in (estimate, noised.clean)
    )
    torch.testing.assert_close(loss, (velocity - wanted).square().mean(dim=(1, 2, 3, 4)), rtol=1e-3, atol=1e-4)
    loss.mean().backward()
    # with a context of one token there is nothing to choose, and the untrained adapters end in zeros
    idle = ("attn2.to_q", "attn2.to_k", "attn2.norm", "norm2", "block1", "post_layernorm")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None or any(part in name for part in idle), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for part in (model.network.cond_encoder, model.network.mid_plucker, model.image_encoder.visual_projection):
        assert any(parameter.grad.abs().max() > 0 for parameter in part.parameters())


def test_computing_blocks_twice_gives_the_same_gradients(orbits):
    torch.manual_seed(0)
    model = MultiviewModel(SMALL)
    noised = add_noise(model, orbits, torch.Generator().manual_seed(0))
    noised = dataclasses.replace(noised, condition=condition_of(model.requires_grad_(False), orbits))
    network = model.network.requires_grad_(True)

    def gradients():
        network.zero_grad()
        denoising_loss(model, noised, no_feedback(SMALL, 2, model.device))[0].mean().backward()
        return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}

    plain = gradients()
    calls = []
    network.unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    network.enable_gradient_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)
    assert len(calls) == 2


def test_noise_and_dropped_conditions_are_spread_as_published(model, orbits):
    many = Orbits(orbits.views[:1].expand(1000, -1, -1, -1, -1), network_cameras(SMALL, [0.0]))
    noised = add_noise(model, many, torch.Generator().manual_seed(0))
    levels = noised.sigma.log()
    assert float(levels.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(levels.std()) == pytest.approx(1.6, abs=0.1)
    strength = noised.condition.added_time_ids[:, 2].log()
    assert float(strength.mean()) == pytest.approx(-3.0, abs=0.1)
    assert float(strength.std()) == pytest.approx(0.5, abs=0.05)
    no_context = (noised.condition.context == 0).flatten(1).all(1)
    no_latents = (noised.condition.latents == 0).flatten(1).all(1)
    for dropped in (no_context & ~no_latents, no_context & no_latents, ~no_context & no_latents):
        assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.03)


def test_what_was_trained_is_stored_and_loaded_as_one(model, tmp_path):
    path = tmp_path / "multiview.safetensors"
    save_weights(path, model.state_dict(), dataclasses.asdict(SMALL))
    loaded = load_stored(path)
    assert loaded.config == SMALL
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    save_weights(path, model.state_dict(), {"size": "large"})
    with pytest.raises(TurnaroundError, match="not a multi-view generator's"):
        load_stored(path)
