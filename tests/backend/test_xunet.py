"""The X-UNet against numbers of the published network, and what our use of it promises."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference_weights import xunet

from backend.generators.xunet.conditioning import rays, turn_to_input
from backend.generators.xunet.config import SRN64, TINY, XUNetConfig
from backend.generators.xunet.diffusion import (
    alpha_sigma,
    logsnr_table,
    make_sampler,
    target,
)
from backend.generators.xunet.encoding import decode_images, encode_images, encode_maps
from backend.generators.xunet.generator import XUNetGenerator, load_xunet
from backend.generators.xunet.network import XUNet
from backend.generators.xunet.sampling import denoise, make_condition
from backend.geometry import batched
from backend.geometry import cameras as geometry
from backend.geometry.cameras import Camera
from backend.pipelines.stage import CancelledError, Progress
from backend.training.batches import EpisodeTensors
from backend.training.data.episodes import Dataset
from backend.training.data.feedback import Feedback
from backend.training.xunet import XUNetObjective, XUNetStep, output_weight
from backend.weights.store import save_weights
from protocol.errors import TurnaroundError

SMALL = dataclasses.replace(SRN64, size=32, channels=32, res_blocks=2, dropout=0.0)
"""The reduced network that the reference numbers were computed with."""

MINIATURE = dataclasses.replace(TINY, size=16, channels=16, emb_channels=32, res_blocks=1, groups=8, map_variance=0.0)
FRONT = Camera(elevation_deg=20, azimuth_deg=0, distance=1.6, fov_deg=40)


def save(network: XUNet, path: Path) -> Path:
    save_weights(path, network.state_dict(), dataclasses.asdict(network.config))
    return path


def matrices(cameras: list[Camera], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    tensor = batched.camera_tensor(cameras)
    return batched.world_from_camera(tensor), batched.intrinsics(tensor, size)


# --------------------------------------------------------------------------------------------- the published network


@pytest.mark.parametrize(("name", "config"), [("small", SMALL), ("srn64", SRN64)])
def test_parameters_are_those_of_the_published_checkpoints(name: str, config: XUNetConfig) -> None:
    with np.load(Path(__file__).parents[1] / "data" / "xunet.npz") as file:
        expected = set(file[f"manifest_{name}"].tolist())
    with torch.device("meta"):
        state = XUNet(config).state_dict()
    assert {f"{key} {'x'.join(map(str, value.shape))}" for key, value in state.items()} == expected


@pytest.mark.parametrize("attention_levels", [(0, 1, 2, 3), (1,), (2, 3), (3,)])
def test_input_picture_reaches_the_output_wherever_attention_stands(attention_levels: tuple[int, ...]) -> None:
    config = dataclasses.replace(MINIATURE, attention_levels=attention_levels, map_channels=0)
    network = xunet(config)
    noisy, encoded = torch.randn(2, 4, 16, 16), torch.randn(2, 2, config.ray_channels, 8, 8)
    with torch.inference_mode():
        one, other = (network(torch.full_like(noisy, v), noisy, torch.zeros(2, 2), encoded) for v in (-1.0, 1.0))
    assert one.shape == noisy.shape
    assert (one - other).abs().mean() > 1e-3


@pytest.mark.parametrize(
    "fault", [{"size": 30}, {"attention_levels": (7,)}, {"channels": 20}, {"logsnr_min": 3.0, "logsnr_max": -3.0}]
)
def test_config_rejects_what_cannot_be_built(fault: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"size|attention|channels|log-SNR"):
        dataclasses.replace(TINY, **fault)


# ---------------------------------------------------------------------------------------------- diffusion and coding


@pytest.mark.parametrize("sampler_name", ["ancestral", "ddim", "dpmsolver++"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("base", [SRN64, MINIATURE])
@pytest.mark.filterwarnings("error")
def test_samplers_arrive_at_what_a_perfect_network_knows(base: XUNetConfig, prediction, sampler_name) -> None:
    config = dataclasses.replace(base, prediction=prediction)
    sampler, table = make_sampler(config, sampler_name), logsnr_table(config)
    sampler.set_timesteps(7)
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    z = torch.randn_like(x)
    for timestep in sampler.timesteps:
        logsnr = torch.tensor(table[int(timestep)], dtype=torch.float32)
        alpha, sigma = alpha_sigma(logsnr)
        z = sampler.step(target(prediction, x, (z - alpha * x) / sigma, logsnr), timestep, z).prev_sample
    torch.testing.assert_close(z, x, atol=1 / 255, rtol=0)  # half a level of 8 bits


def test_every_kind_of_output_weighs_a_clean_pictures_error_alike() -> None:
    logsnr = torch.linspace(-8, 8, 33, dtype=torch.float64)
    snr = logsnr.exp()
    expected = snr.clamp(1, 5)
    torch.testing.assert_close(output_weight("sample", logsnr, 1, 5), expected)
    torch.testing.assert_close(output_weight("epsilon", logsnr, 1, 5) * snr, expected)
    torch.testing.assert_close(output_weight("v_prediction", logsnr, 1, 5) * (snr + 1), expected)
    torch.testing.assert_close(output_weight("epsilon", logsnr, 0, math.inf), torch.ones_like(snr))


@given(arrays(np.uint8, (3, 3, 4), elements=st.integers(0, 255)))
def test_rgba_survives_encoding_as_far_as_it_shows(image: np.ndarray) -> None:
    back = decode_images(encode_images(torch.from_numpy(image), 4)).astype(int)
    assert (back[..., 3] == image[..., 3]).all()
    seen = image[..., 3] > 0
    assert (np.abs(back - image)[seen] <= 1).all()


def test_rgb_stands_on_white_and_comes_back_opaque() -> None:
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0] = (200, 10, 60, 255)
    back = decode_images(encode_images(torch.from_numpy(image), 3))
    assert back[0, 0].tolist() == [200, 10, 60, 255]
    assert back[1, 1].tolist() == [255, 255, 255, 255]


def test_rays_are_those_of_the_projects_cameras() -> None:
    camera = Camera(elevation_deg=-35, azimuth_deg=130, distance=1.9, fov_deg=50)
    pose, intrinsics = matrices([camera], 12)
    origins, directions = rays(pose, intrinsics, 12)
    expected_origin, expected_directions = geometry.rays(camera, 12)
    np.testing.assert_allclose(origins[0, 3, 5], expected_origin, atol=1e-6)
    np.testing.assert_allclose(directions[0], expected_directions, atol=1e-6)


@pytest.mark.parametrize("elevation", [0.0, 30.0, 90.0])
def test_turning_the_scene_leaves_what_the_network_sees(elevation: float) -> None:
    """Objects, cameras and maps that turn together about the vertical are one and the same to the network."""
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 4, 4, 3))
    seen = []
    for turn in (0.0, 110.0):
        a = math.radians(turn)
        rotation = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
        pair = [Camera(elevation, turn, 1.6, 40), Camera(10, 75 + turn, 1.6, 40)]
        maps = np.concatenate([np.full((2, 4, 4, 4), 0.5), points @ rotation.T], axis=-1)
        poses, turned_maps = turn_to_input(matrices(pair, 4)[0][None], torch.from_numpy(maps[None]).float())
        seen.append((poses, turned_maps))
    torch.testing.assert_close(seen[0][0], seen[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][1], seen[1][1], atol=1e-5, rtol=0)
    upright = matrices([Camera(elevation, 0, 1.6, 40)], 4)[0]
    torch.testing.assert_close(seen[1][0][:, 0], upright, atol=1e-5, rtol=0)


def test_empty_maps_are_nothing_and_colours_are_premultiplied() -> None:
    maps = torch.zeros(1, 1, 7)
    assert encode_maps(maps).flatten().tolist() == [0, 0, 0, -1, 0, 0, 0]
    maps[0, 0] = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.5, -0.25, 0.0])
    assert encode_maps(maps).flatten().tolist() == [1, -1, 0, 1, 1, -0.5, 0]


# ------------------------------------------------------------------------------------------------------- generating


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> XUNetGenerator:
    path = tmp_path_factory.mktemp("weights") / "miniature.safetensors"
    return XUNetGenerator(save(xunet(MINIATURE), path), dtype=torch.float32)


def draw(
    generator: XUNetGenerator, azimuths: list[float], *, progress: Progress | None = None, **changes
) -> np.ndarray:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    maps = {a: rng.uniform(0, 1, (16, 16, 7)).astype(np.float32) for a in (0.0, 45.0, 90.0, 180.0)}
    front = changes.pop("camera", FRONT)
    settings = {"seed": 5, "steps": 4, "guidance": 1.0, "progress": progress or Progress()} | changes
    views = generator.generate(
        image,
        front,
        [front.moved(azimuth_deg=a) for a in azimuths],
        maps=np.stack([maps[0.0], *(maps[a] for a in azimuths)]),
        **settings,
    )
    assert views.images.shape == (len(azimuths), 16, 16, 4)
    return views.images.astype(int)


def test_a_view_does_not_depend_on_which_others_are_drawn(generator: XUNetGenerator) -> None:
    together, alone = draw(generator, [45.0, 90.0, 180.0]), draw(generator, [90.0])
    assert np.abs(together[1] - alone[0]).mean() < 0.5  # batches of other sizes round differently
    assert np.abs(together[0] - together[1]).mean() > 5


def test_seed_and_guidance_change_the_views_and_nothing_else_does(generator: XUNetGenerator) -> None:
    first = draw(generator, [45.0])
    assert (draw(generator, [45.0]) == first).all()
    assert np.abs(draw(generator, [45.0], seed=6) - first).mean() > 1
    assert np.abs(draw(generator, [45.0], guidance=0.0) - first).mean() > 1


@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancelling_stops_within_one_step(generator: XUNetGenerator, after: int) -> None:
    cancel, seen = threading.Event(), []

    def report(update) -> None:
        seen.append(update.step)
        if update.step == after:
            cancel.set()

    with pytest.raises(CancelledError):
        draw(generator, [45.0], steps=8, progress=Progress(report=report, cancel=cancel))
    assert seen == list(range(after + 1))


def test_progress_counts_every_step_and_shows_the_views(generator: XUNetGenerator) -> None:
    updates = []
    draw(generator, [45.0, 90.0], steps=6, progress=Progress(report=updates.append))
    assert [update.step for update in updates] == list(range(7))
    previews = [update.preview.views for update in updates if update.preview is not None]
    assert [preview.shape for preview in previews] == [(2, 16, 16, 4)]


def test_published_form_draws_without_maps(tmp_path: Path) -> None:
    config = dataclasses.replace(SRN64, size=16, channels=32, emb_channels=32, res_blocks=1)
    generator = XUNetGenerator(save(xunet(config), tmp_path / "w.safetensors"), sampler="ancestral")
    image = np.full((40, 40, 4), 128, np.uint8)
    settings = {"seed": 0, "steps": 3, "guidance": 0.0, "progress": Progress()}
    views = generator.generate(image, FRONT, [FRONT.moved(azimuth_deg=90)], **settings)
    assert views.images.shape == (1, 16, 16, 4)
    assert (views.images[..., 3] == 255).all()
    assert len(generator.generate(image, FRONT, [], **settings)) == 0
    with pytest.raises(ValueError, match="maps"):
        generator.generate(image, FRONT, [FRONT], maps=np.zeros((2, 16, 16, 7), np.float32), **settings)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network, path = xunet(MINIATURE), tmp_path / "w.safetensors"
    with pytest.raises(TurnaroundError) as caught:
        load_xunet(path)
    assert caught.value.code == "weights.missing"

    state = network.state_dict()
    del state["middle.resnetblock.conv1.weight"]
    save_weights(path, state, dataclasses.asdict(MINIATURE))
    with pytest.raises(TurnaroundError) as caught:
        load_xunet(path)
    assert caught.value.code == "weights.mismatch"
    assert "missing: middle.resnetblock.conv1.weight" in caught.value.details

    for config in ({"channels": "many"}, {"channels": 3}):
        save_weights(path, network.state_dict(), config)
        with pytest.raises(TurnaroundError, match="view generator") as caught:
            load_xunet(path)
        assert caught.value.code == "weights.damaged"

    assert load_xunet(save(network, path)).config == MINIATURE


# --------------------------------------------------------------------------------------------------------- training


def test_what_is_learnt_is_what_is_drawn(tmp_path: Path) -> None:
    """Two objects learnt by heart come out of the sampler, each from its own input picture and maps."""
    torch.manual_seed(0)
    config = dataclasses.replace(MINIATURE, dropout=0.0)
    network = XUNet(config)
    cameras = [FRONT, FRONT.moved(azimuth_deg=90)]
    poses, intrinsics = matrices(cameras, 16)
    images = torch.zeros(2, 2, 16, 16, 4, dtype=torch.uint8)
    images[0, :, 4:12, 4:12] = torch.tensor([250, 20, 20, 255], dtype=torch.uint8)
    images[1, :, 2:14, 6:10] = torch.tensor([20, 60, 250, 255], dtype=torch.uint8)
    images[1, 1, 2:14, 4:6] = torch.tensor([240, 220, 30, 255], dtype=torch.uint8)
    maps = torch.rand(2, 2, 16, 16, 7)
    batch = {
        "images": images,
        "world_from_camera": poses.repeat(2, 1, 1, 1),
        "intrinsics": intrinsics.repeat(2, 1, 1, 1),
        "maps": maps,
    }
    batch = {name: value.repeat_interleave(4, 0) for name, value in batch.items()}
    step, source = XUNetStep(config), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = step(network, batch, source)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert np.mean(losses[25:30]) < 0.5 * np.mean(losses[:5])

    generator = XUNetGenerator(save(network, tmp_path / "w.safetensors"))
    for sample in range(2):
        views = generator.generate(
            images[sample, 0].numpy(),
            FRONT,
            cameras[1:],
            seed=sample,
            steps=8,
            guidance=0.0,
            progress=Progress(),
            maps=maps[sample].numpy(),
        )
        wanted = encode_images(images[sample, 1], 4)
        error = (encode_images(torch.from_numpy(views.images[0]), 4) - wanted).square().mean()
        other = (encode_images(images[1 - sample, 1], 4) - wanted).square().mean()
        assert error < 0.15 * other


def test_objective_trains_and_scores_on_episodes() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 1, 1, 16, 16, 4), dtype=np.uint8)
    pictures[..., 3] = 255 * (rng.random((3, 1, 1, 16, 16)) > 0.5)
    dataset = Dataset(
        names=("a", "b", "c"),
        images=pictures.repeat(3, axis=2),  # every view shows what the input does
        depths=np.ones((3, 1, 3, 16, 16), np.float16),
        cameras=np.tile(np.array([[20, 0, 1.6, 40], [10, 90, 1.6, 40], [0, 180, 1.6, 40]], np.float32), (3, 1, 1, 1)),
        placements=np.tile(np.array([0, 1, 0, 0, 0], np.float32), (3, 1, 1)),
        sdf=np.ones((3, 8, 8, 8), np.int8),
        surface=np.zeros((3, 4, 3), np.float16),
    )
    feedback = Feedback(dataset.images, dataset.depths, np.full((3, 1), 3, np.float32))
    objective, data = XUNetObjective(xunet(MINIATURE)), EpisodeTensors(dataset, feedback=feedback)
    batch, source = objective.draw(data, 5, torch.Generator().manual_seed(0))
    assert (batch["maps"][..., 3] == batch["images"][..., 3] / 255).all()
    objective.total(objective(batch, source)).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    with pytest.raises(ValueError, match="feedback"):
        objective.draw(EpisodeTensors(dataset), 5, source)

    scores = objective.score(data, steps=2)
    assert scores["input_iou"] == 1
    assert scores["input_psnr"] == pytest.approx(100)
    assert 0 < scores["psnr"] < 20
    assert 0 <= scores["iou"] < 1


def test_an_untrained_network_draws_the_known_shape_as_it_is() -> None:
    config = dataclasses.replace(MINIATURE, map_variance=0.1, prediction="sample")
    maps = torch.rand(3, 2, config.size, config.size, 7)
    poses, intrinsics = matrices([FRONT, dataclasses.replace(FRONT, azimuth_deg=120)], config.size)
    pairs = (poses.expand(3, 2, 4, 4), intrinsics.expand(3, 2, 3, 3))
    pictures = torch.randint(0, 255, (3, config.size, config.size, 4), dtype=torch.uint8)
    condition = make_condition(config, pictures, *pairs, maps)
    sources = [torch.Generator().manual_seed(i) for i in range(3)]
    *_, (drawn, _) = denoise(XUNet(config).eval(), condition, sources, steps=1)  # from noise alone
    torch.testing.assert_close(drawn, encode_maps(maps[:, 1])[:, :4], atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="correcting maps"):
        dataclasses.replace(config, map_channels=0)
