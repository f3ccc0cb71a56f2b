"""The reconstructor: equal to the published one where it has the published size, sound where it is ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import reference_weights
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.batched import camera_tensor
from backend.geometry.cameras import Camera, project
from backend.reconstructors.sparseneus.adapter import network_images, unit_projections
from backend.reconstructors.sparseneus.config import PUBLISHED, TINY
from backend.reconstructors.sparseneus.features import fuse
from backend.reconstructors.sparseneus.network import SparseNeuS
from backend.reconstructors.sparseneus.volume import project as project_units

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """Inputs and outputs of the reference, eight views of a sphere at 64 pixels, volume 32^3."""
    with np.load(DATA / "one2345_recon.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def reference() -> SparseNeuS:
    """The published network, with weights that follow from their names and shapes, as the reference's did."""
    return reference_weights.sparseneus(dataclasses.replace(PUBLISHED, volume_resolution=32, image_size=64))


def test_parameters_are_those_of_the_published_checkpoint() -> None:
    expected = json.loads((DATA / "one2345_recon_checkpoint.json").read_text())
    assert {key: list(value.shape) for key, value in SparseNeuS(PUBLISHED).state_dict().items()} == expected


def test_every_stage_agrees_with_the_reference(reference: SparseNeuS, golden: dict[str, torch.Tensor]) -> None:
    images, projections = golden["images"][None], golden["affine_mats"][None, :, :3]
    centers = golden["c2ws"][None, :, :3, 3]
    with torch.no_grad():
        maps, _ = reference.pyramid_feature_network(images[0])
        compressed = reference.sdf_network_lod0.compress_layer(fuse(maps))[0]
        conditional = reference.condition(images, projections, centers)
    torch.testing.assert_close(compressed[::4, ::2, ::2], golden["compress"], atol=5e-5, rtol=0)
    torch.testing.assert_close(conditional.volume[0, :, ::4, ::4, ::4], golden["volume"], atol=5e-4, rtol=0)
    active = np.unpackbits(golden["valid_mask_volume"].numpy()).reshape(32, 32, 32)
    assert np.array_equal(conditional.mask[0, 0].numpy(), active)

    points = golden["pts"][None].requires_grad_()
    distance, _ = reference.sdf(points, conditional)
    (gradient,) = torch.autograd.grad(distance.sum(), points)
    torch.testing.assert_close(distance[0, :, None], golden["train_sdf"], atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient[0], golden["train_grad"], atol=1e-4, rtol=0)

    points = golden["color_pts"][None].requires_grad_()
    (gradient,) = torch.autograd.grad(reference.sdf(points, conditional)[0].sum(), points)
    with torch.no_grad():
        colors = reference.colors(points, F.normalize(gradient, dim=-1), conditional)
    torch.testing.assert_close(colors[0], golden["train_color_normal_view"], atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.floats(-60, 80), st.floats(-180, 180), st.floats(20, 60))
def test_unit_projections_are_the_projects_cameras(elevation: float, azimuth: float, fov: float) -> None:
    camera = Camera(elevation, azimuth, 1.7, fov)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    expected, depth = project(camera, points, TINY.image_size)
    matrix, center = unit_projections(camera_tensor([camera])[None], TINY)
    pixels, depths = project_units(torch.from_numpy(points / TINY.cube_half).float()[None], matrix)
    np.testing.assert_allclose(pixels[0, 0].numpy() + 0.5, expected, atol=2e-3)
    np.testing.assert_allclose(depths[0, 0].numpy(), depth, atol=1e-4)
    np.testing.assert_allclose(center[0, 0].numpy() * TINY.cube_half, camera.position, atol=1e-5)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_any_number_of_views_gives_a_shape_and_one_sample_does_not_touch_another(views: int) -> None:
    torch.manual_seed(0)
    network = SparseNeuS(dataclasses.replace(TINY, volume_resolution=16)).eval()
    cameras = camera_tensor([Camera(15, 360 * i / views, 1.6, 40) for i in range(views)]).expand(2, -1, -1)
    pictures = torch.randint(0, 255, (2, views, 64, 64, 4), dtype=torch.uint8)
    points = torch.rand(2, 50, 3) * 1.6 - 0.8
    with torch.no_grad():
        both = network.sdf(points, network.condition(network_images(pictures, TINY), *unit_projections(cameras, TINY)))
        alone = network.sdf(
            points[1:],
            network.condition(network_images(pictures[1:], TINY), *unit_projections(cameras[1:], TINY)),
        )
    assert torch.isfinite(both[0]).all()
    torch.testing.assert_close(both[0][1:], alone[0], atol=1e-4, rtol=1e-3)
