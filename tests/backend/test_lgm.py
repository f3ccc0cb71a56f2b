"""LGM: where its Gaussians lie, what it does with bad input, and that it can be learned from."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.cameras import Camera, project
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.render import render
from backend.geometry.mesh import ViewSet
from backend.preparation.framing import framed_camera
from backend.reconstructors.lgm.ccm import HALF, coordinate_map, object_map
from backend.reconstructors.lgm.config import OUROBOROS3D, PUBLISHED_LGM_FIXED, TINY, LGMConfig
from backend.reconstructors.lgm.frame import first_camera_frame
from backend.reconstructors.lgm.network import LGM
from backend.reconstructors.lgm.rays import network_input, pluecker
from backend.reconstructors.lgm.reconstructor import LGMReconstructor
from backend.weights.store import save_weights
from protocol.errors import TurnaroundError

SMALL = dataclasses.replace(
    TINY, input_size=16, down_channels=(16, 32), down_attention=(False, True), up_channels=(32,), up_attention=(True,)
)
SIZES = ("input_size", "down_channels", "down_attention", "up_channels", "up_attention", "heads", "groups", "layers")
AZIMUTHS = (0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 337.5)


def markers() -> Gaussians:
    """An object with a distinct right (red), front (green) and top (blue), each longer along its own axis."""
    means = torch.tensor([[0.3, 0.0, 0.0], [0.0, -0.3, 0.0], [0.0, 0.0, 0.3]])
    colors = torch.eye(3)
    scales = 0.02 + 0.04 * torch.eye(3)
    return Gaussians(means, torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4), scales, torch.full((3,), 0.9), colors)


def round_of(camera: Camera) -> tuple[Camera, ...]:
    return tuple(camera.moved(azimuth_deg=azimuth) for azimuth in AZIMUTHS)


def stored(path: Path, network: LGM) -> Path:
    save_weights(path, network.state_dict(), asdict(network.config), half=False)
    return path


def white(cameras: tuple[Camera, ...], size: int = 16) -> ViewSet:
    return ViewSet(np.full((len(cameras), size, size, 4), 255, np.uint8), cameras)


def test_the_input_camera_sees_right_front_and_top_where_they_are() -> None:
    front = first_camera_frame(Camera(0.0, 0.0, 2.0, 40.0), 1.5)
    right, near, top = front.to_network(markers()).means
    assert torch.allclose(right, torch.tensor([0.225, 0.0, 0.0]), atol=1e-6)  # to the right
    assert torch.allclose(near, torch.tensor([0.0, 0.0, 0.225]), atol=1e-6)  # towards the camera
    assert torch.allclose(top, torch.tensor([0.0, 0.225, 0.0]), atol=1e-6)  # up
    side = first_camera_frame(Camera(0.0, 90.0, 2.0, 40.0), 1.5)
    assert torch.allclose(side.to_network(markers()).means[0], torch.tensor([0.0, 0.0, 0.225]), atol=1e-6)
    above = first_camera_frame(Camera(30.0, 0.0, 2.0, 40.0), 1.5)
    leaning = above.to_network(markers()).means[2]
    assert leaning[1:].min() > 0.1  # the top leans towards a camera that looks down on it


@settings(deadline=None, max_examples=25)
@given(st.floats(-60, 60), st.floats(-180, 180), st.floats(1, 4), st.floats(20, 60), st.sampled_from([1.5, 1.7417]))
def test_every_camera_sees_the_same_in_both_frames(
    e: float, a: float, distance: float, fov: float, radius: float
) -> None:
    cameras = round_of(Camera(e, a, distance, fov))
    frame = first_camera_frame(cameras[0], radius)
    poses, intrinsics = frame.cameras(cameras)
    assert torch.allclose(poses[0, :3, 3], torch.tensor([0.0, 0.0, radius]), atol=1e-5)
    ours = markers()
    theirs = frame.to_network(ours)
    for camera, pose, k in zip(cameras, poses, intrinsics, strict=True):
        pixels, _ = project(camera, ours.means.double().numpy(), 1)
        local = (theirs.means - pose[:3, 3]) @ pose[:3, :3] @ k.T
        assert np.allclose(pixels, local[:, :2] / local[:, 2:], atol=1e-4)
    back = frame.to_object(theirs)
    assert torch.allclose(back.means, ours.means, atol=1e-5)
    assert torch.allclose(back.axes() @ back.axes().mT, ours.axes() @ ours.axes().mT, atol=1e-5)


def test_renders_of_both_frames_are_the_same() -> None:
    cameras = round_of(framed_camera(20.0, 30.0))
    frame = first_camera_frame(cameras[0], 1.5)
    poses, intrinsics = frame.cameras(cameras)
    pixels = torch.diag(torch.tensor([32.0, 32.0, 1.0])) @ intrinsics
    own = torch.from_numpy(np.stack([camera.world_from_camera() for camera in cameras])).float()
    expected = render(markers(), own, pixels, 32).colors
    assert torch.allclose(render(frame.to_network(markers()), poses, pixels, 32).colors, expected, atol=1e-4)
    assert (expected < 0.5).any()


@pytest.mark.parametrize("elevation", [0.0, 25.0])
def test_gaussians_come_out_on_the_rays_of_their_pixels(elevation: float, tmp_path: Path) -> None:
    network = LGM(SMALL)
    with torch.no_grad():
        network.unet.conv_out.weight.zero_()
        network.conv.bias[0] = -0.4  # type: ignore[index]
    cameras = round_of(framed_camera(elevation, 40.0))
    found = LGMReconstructor(stored(tmp_path / "lgm.safetensors", network)).gaussians(white(cameras))
    assert len(found) == SMALL.count
    size = SMALL.output_size
    columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    expected = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    for view, means in zip(SMALL.views, found.means.double().numpy().reshape(4, -1, 3), strict=True):
        pixels, depths = project(cameras[view], means, size)
        assert np.abs(pixels - expected)[:, :].max() < 0.02
        along = np.linalg.norm(means - cameras[view].position, axis=1)
        assert (depths < cameras[view].distance).all()  # in front of the middle, by the bias
        assert np.ptp(depths / along) > 0.01


def test_sideways_is_right_and_down_of_the_ray(tmp_path: Path) -> None:
    cameras = round_of(framed_camera(10.0))
    moved = []
    for channel in (None, 1, 2):
        network = LGM(SMALL)
        with torch.no_grad():
            network.unet.conv_out.weight.zero_()
            if channel:
                network.conv.bias[channel] = 5.0  # type: ignore[index]
        found = LGMReconstructor(stored(tmp_path / "lgm.safetensors", network)).gaussians(white(cameras))
        moved.append(project(cameras[4], found.means.double().numpy().reshape(4, -1, 3)[2], SMALL.output_size)[0])
    step = SMALL.lateral_reach * SMALL.output_size / (2 * 0.58)
    for along, across, by in ((0, 1, moved[1] - moved[0]), (1, 0, moved[2] - moved[0])):
        assert ((by[:, along] > 0.95 * step) & (by[:, along] < 1.35 * step)).all()  # more of them at the border
        assert np.abs(by[:, across]).max() < 0.15 * step


def test_transparency_is_white_and_only_some_views_are_looked_at() -> None:
    network = LGM(SMALL).eval()
    with torch.no_grad():
        torch.nn.init.normal_(network.unet.conv_out.weight)
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = (x[None] for x in first_camera_frame(cameras[0], SMALL.radius).cameras(cameras))
    images = torch.rand(1, 8, 3, 24, 24)
    unseen, seen = images.clone(), images.clone()
    unseen[:, 1::2] = 0
    seen[:, 4] = 0
    x, same, other = (network_input(i, poses, intrinsics, SMALL) for i in (images, unseen, seen))
    assert torch.equal(x, same)
    time = torch.zeros(1)
    first, changed = (network(i, time).means.unflatten(1, (4, -1)) for i in (x, other))
    assert (first - changed).abs().amax((0, 2, 3)).min() > 1e-6  # every view's Gaussians know of every view


def test_training_reaches_every_part_of_the_network() -> None:
    torch.manual_seed(0)
    network = LGM(SMALL)
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = first_camera_frame(cameras[0], SMALL.radius).cameras(cameras)
    pixels = torch.diag(torch.tensor([16.0, 16.0, 1.0])) @ intrinsics
    images = torch.ones(1, 8, 3, 16, 16)
    images[:, :, :, 5:11, 5:11] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(10):
        found = network(network_input(images, poses[None], intrinsics[None], SMALL), torch.zeros(1))
        drawn = render(found, poses[None], pixels[None], 16)
        loss = (drawn.colors.permute(0, 1, 4, 2, 3) - images).square().mean()
        loss = loss + (drawn.alphas - (images[:, :, 1] < 1).float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    untouched = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not untouched
    assert losses[-1] < 0.6 * losses[0]


def test_the_tiny_network_is_small_and_starts_near_the_object() -> None:
    network = LGM(TINY).eval()
    assert 1.5e6 < sum(p.numel() for p in network.parameters()) < 2.5e6
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = first_camera_frame(cameras[0], TINY.radius).cameras(cameras)
    with torch.no_grad():
        found = network(network_input(torch.ones(1, 8, 3, 64, 64), poses[None], intrinsics[None], TINY), torch.zeros(1))
    assert len(found) == TINY.count == 4096
    assert found.means.abs().max() < 0.7
    assert torch.allclose(found.quaternions.norm(dim=-1), torch.ones(1, 4096), atol=1e-5)


def test_the_grid_may_be_as_fine_as_the_pictures() -> None:
    config = dataclasses.replace(SMALL, up_channels=(32, 16), up_attention=(True, False))
    assert config.count == 4 * 16**2
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = first_camera_frame(cameras[0], config.radius).cameras(cameras)
    with torch.no_grad():
        x = network_input(torch.ones(1, 8, 3, 16, 16), poses[None], intrinsics[None], config)
        assert len(LGM(config)(x, torch.zeros(1))) == config.count


def test_vanishing_quaternions_become_unrotated_ones(tmp_path: Path) -> None:
    config = dataclasses.replace(OUROBOROS3D, **{k: getattr(SMALL, k) for k in SIZES})
    torch.manual_seed(0)
    path = stored(tmp_path / "lgm.safetensors", LGM(config))
    cameras = round_of(Camera(20.0, 0.0, 2.0, config.fov_deg))
    reconstructor = LGMReconstructor(path)
    poses, intrinsics = first_camera_frame(cameras[0], config.radius).cameras(cameras)
    raw = reconstructor.look(torch.ones(1, 8, 3, 16, 16), poses[None], intrinsics[None], torch.zeros(1)).index(0)
    assert torch.allclose(raw.quaternions.square().sum(0), torch.ones(4), atol=1e-4)
    found = reconstructor.gaussians(white(cameras))
    assert torch.allclose(found.quaternions.norm(dim=-1), torch.ones(len(found)), atol=1e-4)
    own = torch.from_numpy(np.stack([camera.world_from_camera() for camera in cameras])).float()
    pixels = torch.diag(torch.tensor([24.0, 24.0, 1.0])) @ intrinsics
    splatting = config.splatting
    assert not splatting.normalise
    expected = render(raw, poses, pixels, 24, splatting=splatting).colors
    shown = render(found, own, pixels, 24, splatting=dataclasses.replace(splatting, normalise=True)).colors
    assert torch.allclose(shown, expected, atol=2e-3)
    assert expected.std() > 0.01


def test_true_coordinates_survive_a_render() -> None:
    """What a map says of a pixel is where the Gaussian that it shows lies."""
    dot = Gaussians(
        torch.tensor([[0.2, -0.1, 0.3]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.05),
        torch.ones(1),
        torch.ones(1, 3),
    )
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = first_camera_frame(cameras[0], TINY.radius).cameras(cameras)
    pixels = torch.diag(torch.tensor([64.0, 64.0, 1.0])) @ intrinsics
    drawn = render(dot, poses, pixels, 64)
    maps = coordinate_map(drawn.depths, drawn.alphas, poses, intrinsics, TINY)
    assert torch.equal(maps, object_map(drawn.depths, drawn.alphas, poses, intrinsics))
    assert torch.allclose(maps[:, :, 0, 0], torch.tensor(0.5), atol=1e-3)
    for view, alphas in zip(maps, drawn.alphas, strict=True):
        row, column = divmod(int(alphas.argmax()), 64)
        said = (view[:, row, column] - 0.5) / alphas[row, column] * 2 * HALF
        assert torch.allclose(said, dot.means[0], atol=0.02)


def test_gradients_reach_pictures_and_depths() -> None:
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = first_camera_frame(cameras[0], TINY.radius).cameras(cameras)
    images = torch.rand(1, 8, 3, 20, 20, requires_grad=True)
    network_input(images, poses[None], intrinsics[None], SMALL).square().sum().backward()
    assert images.grad is not None
    assert images.grad[:, ::2].abs().min() > 0
    depths, alphas = (torch.rand(8, 4, 4, requires_grad=True) for _ in range(2))
    object_map(depths, alphas, poses, intrinsics).sum().backward()
    for x in (depths, alphas):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_rays_do_not_depend_on_precision() -> None:
    camera = framed_camera(10.0)
    poses, intrinsics = first_camera_frame(camera, 1.5).cameras([camera])
    exact = pluecker(poses, intrinsics, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pluecker(poses, intrinsics, 8), exact)
    moments, directions = exact.split(3, dim=1)
    assert torch.allclose((moments * directions).sum(1), torch.zeros(1, 8, 8), atol=1e-6)


@pytest.fixture
def reconstructor(tmp_path: Path) -> LGMReconstructor:
    return LGMReconstructor(stored(tmp_path / "lgm.safetensors", LGM(SMALL)))


def test_an_empty_shape_is_said_to_be_empty(reconstructor: LGMReconstructor) -> None:
    cameras = round_of(framed_camera(0.0))
    assert len(reconstructor.gaussians(white(cameras))) == SMALL.count
    with torch.no_grad():
        reconstructor.network.conv.bias[3] = -12.0  # type: ignore[index]
    with pytest.raises(TurnaroundError, match="Nothing was found in the picture") as caught:
        reconstructor.gaussians(white(cameras))
    assert caught.value.code == "shape.empty"


@pytest.mark.parametrize("broken", ["nan", "picture", "explosion", "weights"])
def test_a_shape_that_breaks_down_is_a_sentence(reconstructor: LGMReconstructor, broken: str) -> None:
    cameras = round_of(framed_camera(0.0))
    poses, intrinsics = first_camera_frame(cameras[0], SMALL.radius).cameras(cameras)
    images = torch.ones(1, 8, 3, 16, 16)
    if broken == "nan":
        images[0, 2, 0, 3, 3] = torch.nan
    elif broken == "picture":
        images[0, 4] = 1e4
    else:
        with torch.no_grad():
            value = 1e4 if broken == "explosion" else torch.inf
            reconstructor.network.conv.bias[5] = value  # type: ignore[index]
    with pytest.raises(TurnaroundError, match="broke down") as caught:
        reconstructor.look(images, poses[None], intrinsics[None], torch.zeros(1))
    assert caught.value.code == "shape.broken"


def test_a_round_has_to_be_complete(reconstructor: LGMReconstructor) -> None:
    with pytest.raises(TurnaroundError, match="8 views, not 5") as caught:
        reconstructor.gaussians(white(round_of(framed_camera(0.0))[:5]))
    assert caught.value.code == "views.few"


@pytest.mark.parametrize("change", [{"heads": 3}, {"views": (0, 9)}, {"input_size": 15}, {"up_attention": ()}])
def test_sizes_that_do_not_fit_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change.values()))}|level|channels"):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]
    path = tmp_path / "lgm.safetensors"
    save_weights(path, LGM(SMALL).state_dict(), asdict(SMALL) | change, half=False)
    with pytest.raises(TurnaroundError) as caught:
        LGMReconstructor(path)
    assert caught.value.code == "weights.damaged"


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lgm.safetensors"
    save_weights(path, LGM(SMALL).state_dict(), asdict(dataclasses.replace(SMALL, time_channels=0)), half=False)
    with pytest.raises(TurnaroundError) as caught:
        LGMReconstructor(path)
    assert caught.value.code == "weights.mismatch"


def test_the_default_is_published() -> None:
    assert LGMConfig() == PUBLISHED_LGM_FIXED
    assert OUROBOROS3D.count == PUBLISHED_LGM_FIXED.count == 65_536
