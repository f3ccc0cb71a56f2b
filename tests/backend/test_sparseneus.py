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
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.batched import camera_tensor
from backend.geometry.cameras import Camera, project, rays
from backend.geometry.mesh import ViewSet
from backend.geometry.meshing import extract_surface
from backend.pipelines.one2345.selection import published_cameras
from backend.pipelines.stage import Progress
from backend.reconstructors.sparseneus.adapter import network_images, unit_projections
from backend.reconstructors.sparseneus.blending import BlendingNetwork, ray_difference
from backend.reconstructors.sparseneus.config import PUBLISHED, TINY
from backend.reconstructors.sparseneus.features import ActivatedNorm, fuse
from backend.reconstructors.sparseneus.frame import fitted_frame, frusta_frame
from backend.reconstructors.sparseneus.network import SparseNeuS
from backend.reconstructors.sparseneus.reconstructor import SdfField, SparseNeuSReconstructor
from backend.reconstructors.sparseneus.sdf import lookup, smooth_lookup
from backend.reconstructors.sparseneus.volume import gather_maps
from backend.reconstructors.sparseneus.volume import project as project_units
from backend.weights.store import save_weights
from protocol.errors import TurnaroundError

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


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_a_published_norm_scales_by_the_size_of_its_weight(norm: str) -> None:
    """InPlaceABN's: published weights have both signs, and only the size counts."""
    generator = torch.Generator().manual_seed(0)
    layer, x = ActivatedNorm(8, norm), torch.randn(3, 8, 5, 5, generator=generator)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, generator=generator))
        layer.bias.copy_(torch.randn(8, generator=generator))
        layer.weight[0] = 0
        statistics = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
        mean, variance = statistics if norm == "batch" else (layer.running_mean, layer.running_var)
        unit = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        plain = F.leaky_relu(unit * (layer.weight.abs() + 1e-5)[:, None, None] + layer.bias[:, None, None], 0.01)
        assert (layer.weight < 0).any()
        torch.testing.assert_close(layer(x.clone()), plain)
        layer.weight.neg_()
        torch.testing.assert_close(layer(x.clone()), plain)


def test_views_are_weighed_by_the_size_of_their_sharpness() -> None:
    torch.manual_seed(0)
    network, points, views = BlendingNetwork(PUBLISHED), 30, 6
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)  # fresh layers hardly tell the views apart
    generator = torch.Generator().manual_seed(0)
    geometry = torch.randn(1, points, PUBLISHED.regularizer_channels[0], generator=generator)
    colors = torch.rand(1, views, points, 3, generator=generator)
    features = torch.randn(1, views, points, PUBLISHED.fused_channels, generator=generator)
    normals = F.normalize(torch.randn(1, points, 3, generator=generator), dim=-1)
    rays = ray_difference(0.3 * normals, normals, torch.randn(1, views, 3, generator=generator))

    def blended(s: float) -> torch.Tensor:
        with torch.no_grad():
            network.s.fill_(s)
            return network(geometry, colors, features, rays, torch.ones(1, views, points, 1))

    torch.testing.assert_close(blended(-2.0), blended(2.0))
    assert (blended(2.0) - blended(0.2)).abs().max() > 0.01  # it does count


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


# ------------------------------------------------------------------------------------------- the published weights

FOV = float(2 * np.degrees(np.arctan(128 / 280)))
SMALL = dataclasses.replace(PUBLISHED, volume_resolution=24, image_size=64)


def ball_views(center: tuple[float, float, float], radius: float, elevation: float = 25.0) -> ViewSet:
    """The published 33 views of a ball, coloured by the direction that its surface faces."""
    named = published_cameras(Camera(elevation, 0.0, 1.2, FOV))
    cameras = [named["0"], *list(named.values())[8:]]
    images = []
    for camera in cameras:
        origin, directions = rays(camera, 64)
        towards = origin - np.array(center)
        b = (directions * towards).sum(-1)
        root = b**2 - (towards**2).sum() + radius**2
        points = towards + (-b - np.sqrt(np.maximum(root, 0)))[..., None] * directions
        rgb = np.where(root[..., None] > 0, 127 + 120 * points / radius, 255)
        images.append(np.concatenate([rgb, np.where(root[..., None] > 0, 255, 0)], axis=-1).astype(np.uint8))
    return ViewSet(np.stack(images), tuple(cameras))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "published.safetensors"
    save_weights(path, reference_weights.sparseneus(SMALL).state_dict(), dataclasses.asdict(SMALL))
    return path


def test_one_class_opens_the_published_weights(published: Path) -> None:
    views = ball_views((0, 0, 0), 0.35)
    reconstructor = SparseNeuSReconstructor(published)
    field = reconstructor.reconstruct(views, progress=Progress())
    frame = frusta_frame(views.cameras)
    matrices = np.stack([frame.image_from_unit(camera, 64) for camera in views.cameras[1:]])
    centers = np.stack([frame.center(camera) for camera in views.cameras[1:]])
    pictures = network_images(torch.from_numpy(views.images[None, 1:]), SMALL)
    with torch.no_grad():
        expected = reference_weights.sparseneus(SMALL).condition(
            pictures, torch.from_numpy(matrices[None]).float(), torch.from_numpy(centers[None]).float()
        )
    torch.testing.assert_close(field.volume, expected.volume, atol=1e-3, rtol=1e-3)
    assert torch.equal(field.mask, expected.mask)
    assert field.half == pytest.approx(1.2 * 128 / 280)
    points = np.random.default_rng(0).uniform(-field.half, field.half, (500, 3)).astype(np.float32)
    again = reconstructor.restored(field.arrays()).distance(points)
    np.testing.assert_array_equal(field.distance(points), again)
    with torch.no_grad():
        unit = torch.from_numpy(frame.to_unit(points))[None]
        distance = reconstructor.network.sdf(unit, expected)[0][0].numpy() * frame.scale
    active = again < 0.99 * frame.scale
    assert active.mean() > 0.9
    np.testing.assert_allclose(again[active], distance[active], atol=1e-4)


def test_colours_look_at_the_views_once(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ball_views((0, 0, 0), 0.35)
    reconstructor = SparseNeuSReconstructor(published)
    looks = []
    look = reconstructor.network.look
    monkeypatch.setattr(reconstructor.network, "look", lambda *args: (looks.append(1), look(*args))[1])
    field = reconstructor.reconstruct(views, progress=Progress())
    normals = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colors = reconstructor.blend(views, field, 0.35 * normals, normals)
    assert len(looks) == 1
    # whatever the weights say of each view, a colour is a mean of what the views have there; upside down it would not
    # be near what the ball's surface is painted with
    assert np.abs(colors - (127 + 120 * normals) / 255).mean() < 0.25
    turned = np.abs(colors - (127 + 120 * normals * [-1, 1, 1]) / 255).mean()
    assert np.abs(colors - (127 + 120 * normals) / 255).mean() < turned
    elsewhere = SparseNeuSReconstructor(published).blend(views, field, 0.35 * normals, normals)
    np.testing.assert_allclose(elsewhere, colors, atol=1e-5)
    assert reconstructor.blend(views, field, normals[:0], normals[:0]).shape == (0, 3)


def test_sheets_where_no_view_looks_are_not_there(published: Path) -> None:
    """The field's sign outside the active points is the network's whim; the surface is closed before it."""
    network = reference_weights.sparseneus(SMALL)
    with torch.no_grad():
        network.sdf_network_lod0.sdf_layer.lin2.bias[0] -= 0.5  # everything is inside
    mask = torch.zeros(1, 1, 24, 24, 24)
    mask[:, :, 4:15, 6:20, 8:12] = 1
    frame = frusta_frame(ball_views((0, 0, 0), 0.3).cameras)
    field = SdfField(network, torch.zeros(1, 16, 24, 24, 24), mask, frame, 0.55)
    vertices, faces = extract_surface(field.unit_distance, 60, ((-1.0,) * 3, (1.0,) * 3))
    low, high = np.array([3.5, 5.5, 7.5]) / 23 * 2 - 1, np.array([14.5, 19.5, 11.5]) / 23 * 2 - 1
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [low, high], atol=2.0 / 60)
    assert trimesh.Trimesh(vertices, faces).is_watertight


@settings(max_examples=20, deadline=None)
@given(st.floats(-60, 80), st.floats(-180, 180), st.floats(0.9, 2.5))
def test_the_published_frame_sees_what_our_cameras_see(elevation: float, azimuth: float, distance: float) -> None:
    """Points of an object that no rotation makes the same land on the same pixels, at any distance and azimuth."""
    named = published_cameras(Camera(elevation, azimuth, distance, FOV))
    cameras = [named["0"], *list(named.values())[8:]]
    frame = frusta_frame(cameras)
    points = np.array([[0.3, 0, 0], [-0.1, 0.2, 0], [0, -0.25, 0.1], [0.05, 0, 0.4], [0, 0, 0]]) * distance / 1.2
    unit = np.c_[frame.to_unit(points), np.ones(5)]
    for camera in (cameras[0], cameras[7], cameras[-1]):
        uvw = unit @ frame.image_from_unit(camera, 256).T
        expected, depth = project(camera, points, 256)
        np.testing.assert_allclose(uvw[:, :2] / uvw[:, 2:], expected, atol=1e-3)
        np.testing.assert_allclose(uvw[:, 2], depth, atol=1e-5)
    np.testing.assert_allclose(frame.to_object(unit[:, :3]), points, atol=1e-6)
    assert frame.scale == pytest.approx(1.42 * distance / 1.2, rel=0.07)


def test_a_fitted_cube_holds_the_object_and_little_else() -> None:
    center, radius = (0.12, -0.05, 0.1), 0.2
    frame = fitted_frame(ball_views(center, radius))
    surface = np.random.default_rng(0).normal(size=(200, 3))
    unit = frame.to_unit(np.array(center) + radius * surface / np.linalg.norm(surface, axis=1, keepdims=True))
    assert np.abs(unit).max() < 1
    assert frame.scale < 1.5 * radius
    nothing = ViewSet(np.zeros((33, 64, 64, 4), np.uint8), ball_views(center, radius).cameras)
    assert fitted_frame(nothing).scale == frusta_frame(nothing.cameras).scale


def test_too_few_views_are_said_to_be(published: Path) -> None:
    views = ball_views((0, 0, 0), 0.3)
    two = ViewSet(views.images[:2], views.cameras[:2])
    with pytest.raises(TurnaroundError) as caught:
        SparseNeuSReconstructor(published).reconstruct(two, progress=Progress())
    assert caught.value.code == "views.few"
    SparseNeuSReconstructor(published, input_is_source=True).reconstruct(two, progress=Progress())


def test_both_lookups_give_the_same_and_one_can_be_differentiated_twice() -> None:
    volume = torch.randn(1, 4, 7, 7, 7, generator=torch.Generator().manual_seed(0))
    points = torch.rand(1, 300, 3, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    points[0, :3] = torch.tensor([[-1.0, 0, 0], [1.0, 1, 1], [0, 0, 0]])
    torch.testing.assert_close(smooth_lookup(volume, points), lookup(volume, points), atol=1e-5, rtol=0)
    inside = (points[:, 10:15] * 0.7).double().requires_grad_()
    torch.autograd.gradgradcheck(smooth_lookup, (volume.double().requires_grad_(), inside))


def test_what_is_inferred_on_a_cpu_is_what_is_learned_from() -> None:
    """Blending has quicker forms of its lookup, its layers and its ELU where nothing is learned."""
    torch.manual_seed(0)
    size, views, count = 9, 5, 200
    images, fused = torch.rand(1, views, 3, size, size), torch.randn(1, views, PUBLISHED.fused_channels, size, size)
    pixels = torch.rand(1, views, count, 2) * (size - 1)
    pixels[0, :, :4] = torch.tensor([[0.0, 0], [size - 1, size - 1], [0, size - 1], [size - 1, 3.5]])
    seen = torch.rand(1, views, count) < 0.8
    pixels[~seen] = torch.where(torch.rand(int((~seen).sum()), 1) < 0.5, 1e9, -3.0)
    gathered = gather_maps((images, fused), pixels, seen)
    assert not gathered[1][~seen].any()
    network = BlendingNetwork(PUBLISHED)
    geometry, rays = torch.randn(1, count, PUBLISHED.regularizer_channels[0]), torch.rand(1, views, count, 4) * 2 - 1
    learned = network(geometry, *gathered, rays, seen[..., None].float())
    with torch.inference_mode():
        quick = gather_maps((images, fused), pixels, seen)
        inferred = network(geometry, *quick, rays, seen[..., None].float())
    for ours, theirs in zip((*quick, inferred), (*gathered, learned), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
