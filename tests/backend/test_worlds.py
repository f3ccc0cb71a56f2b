"""Our cameras in the world of SRN, and views on white cut out of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.generators.xunet.conditioning import rays
from backend.generators.xunet.config import SRN64, TINY_3DIM
from backend.generators.xunet.stochastic import PairPoses
from backend.generators.xunet.worlds import FOV_DEG, World, cameras_in_world, told_intrinsics
from backend.geometry import batched
from backend.geometry.cameras import Camera
from backend.preparation.backdrop import cut_from_white
from backend.preparation.framing import framed_camera


def srn_pose(position: tuple[float, float, float]) -> np.ndarray:
    """A pose file's matrix: OpenCV axes, looking at the origin, Z up."""
    forward = -np.array(position) / np.linalg.norm(position)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, np.array(position)], axis=1)
    return pose


def test_cameras_stand_on_srns_sphere_upright() -> None:
    front = framed_camera(30.0, 0.0, FOV_DEG)
    cameras = batched.camera_tensor([front, front.moved(azimuth_deg=90.0), front.moved(elevation_deg=-50.0)])
    c, s = 1.3 * np.cos(np.pi / 6), 1.3 * np.sin(np.pi / 6)
    poses = batched.world_from_camera(cameras_in_world(cameras, SRN64, World()))
    below = 1.3 * np.array([0, -np.cos(np.pi / 9), -np.sin(np.pi / 9)])
    for pose, position in zip(poses, [(0, -c, s), (c, 0, s), below], strict=True):
        assert np.allclose(pose, srn_pose(tuple(position)), atol=1e-5)
    turned = batched.world_from_camera(cameras_in_world(cameras, SRN64, World(90.0, 2.0)))[0]
    assert np.allclose(turned, srn_pose((2 / 1.3 * c, 0, 2 / 1.3 * s)), atol=1e-5)
    same = cameras_in_world(cameras, TINY_3DIM, World())
    assert torch.equal(same, cameras)


def test_intrinsics_are_those_of_the_data_and_of_its_quirk() -> None:
    cameras = batched.camera_tensor([framed_camera(0.0, 0.0, FOV_DEG)])
    expected = torch.tensor([[131.25, 0, 64], [0, 131.25, 64], [0, 0, 1]])
    assert torch.allclose(told_intrinsics(cameras, SRN64)[0], expected, atol=1e-3)
    scaled = told_intrinsics(cameras, replace(SRN64, intrinsics_size=0))[0]
    assert torch.allclose(scaled, expected * torch.tensor([[0.5], [0.5], [1.0]]), atol=1e-3)
    pose = torch.eye(4)
    _, quarter = rays(pose, told_intrinsics(cameras, SRN64)[0], 64)
    _, whole = rays(pose, expected, 128)
    assert torch.allclose(quarter, whole[:64, :64], atol=1e-5)


def test_the_network_is_told_the_world() -> None:
    from reference_weights import xunet

    config = replace(SRN64, size=16, channels=32, emb_channels=32, res_blocks=1)
    cameras = [Camera(20.0, 0.0, 1.2, FOV_DEG), Camera(20.0, 50.0, 1.2, FOV_DEG)]
    network = xunet(config)
    here, twice_as_far, turned = (
        PairPoses(network, near, world).embed([(0, 1)])[0]
        for near, world in (
            (cameras, World()),
            ([Camera(c.elevation_deg, c.azimuth_deg, 2.4, FOV_DEG) for c in cameras], World()),
            (cameras, World(azimuth_deg=10.0)),
        )
    )
    assert torch.allclose(here, twice_as_far, atol=1e-4), "our scale is no matter"
    assert not torch.allclose(here, turned, atol=1e-2)


@pytest.mark.parametrize("noise", [0, 4])
def test_white_around_is_taken_away_and_white_within_stays(noise: int) -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(x, y)
    share = np.clip(20.5 - radius, 0, 1)[..., None]
    view = 255 - share * (255 - np.array([40, 90, 160]))
    view[radius < 6] = 255
    view -= np.random.default_rng(0).integers(0, noise + 1, view.shape)
    images = np.concatenate([view.clip(0, 255), np.full((64, 64, 1), 255)], axis=-1).round().astype(np.uint8)[None]
    cut = cut_from_white(images)[0]
    assert (cut[radius > 22][:, 3] == 0).all()
    assert (cut[radius < 18][:, 3] == 255).all()
    assert (cut[radius < 5][:, :3] > 245).all()
    again = cut[..., 3:] / 255 * cut[..., :3].astype(float) + (255 - cut[..., 3:].astype(float))
    assert np.abs(again - images[0, ..., :3]).max() <= 8, "on white it is what it was"
    everything = np.full((1, 8, 8, 4), 255, np.uint8)
    assert not cut_from_white(everything)[..., 3].any()
