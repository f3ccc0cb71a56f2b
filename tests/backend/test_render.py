"""The renderer, the episodes' frame and the painter, on an object whose every side has a colour of its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry import batched
from backend.geometry.cameras import Camera, project, rays
from backend.geometry.colors import paint
from backend.geometry.feedback import coordinates, feedback_maps
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.render import prepare, render
from backend.preparation.framing import FILL, framed_camera
from backend.training.data.episodes import CUBE_HALF, place, sample_input

SIDES = {
    (0, -1, 0): (255, 0, 0),  # front red
    (0, 1, 0): (0, 255, 0),  # back green
    (1, 0, 0): (0, 0, 255),  # right (its own left hand) blue
    (-1, 0, 0): (255, 255, 0),  # yellow
    (0, 0, 1): (255, 255, 255),  # top white
    (0, 0, -1): (0, 0, 0),  # bottom black
}


def box(cells: int = 1, half: float = 0.3) -> Mesh:
    """A cube whose sides do not share vertices, each of `cells` squared squares."""
    vertices, faces, colors = [], [], []
    for normal, color in SIDES.items():
        n = np.array(normal, float)
        u = np.roll(n, 1) if n.sum() > 0 else -np.roll(n, 1)
        v = np.cross(n, u)
        grid = np.linspace(-1, 1, cells + 1)
        start = len(vertices)
        vertices += [half * (n + a * u + b * v) for a in grid for b in grid]
        for i in range(cells):
            for j in range(cells):
                a = start + i * (cells + 1) + j
                b, c, d = a + cells + 1, a + cells + 2, a + 1
                faces += [(a, b, c), (a, c, d)]
        colors += [(*color, 255)] * (cells + 1) ** 2
    return Mesh(np.array(vertices, np.float32), np.array(faces, np.int32), np.array(colors, np.uint8))


@pytest.mark.parametrize(
    ("camera", "normal"),
    [
        (Camera(0, 0, 2, 40), (0, -1, 0)),
        (Camera(0, 90, 2, 40), (1, 0, 0)),
        (Camera(0, 180, 2, 40), (0, 1, 0)),
        (Camera(0, -90, 2, 40), (-1, 0, 0)),
        (Camera(89.9, 0, 2, 40), (0, 0, 1)),
        (Camera(-89.9, 0, 2, 40), (0, 0, -1)),
    ],
)
def test_each_camera_sees_its_side(camera: Camera, normal: tuple[int, int, int]) -> None:
    rendering = render(prepare(box()), camera, 32)
    assert tuple(rendering.rgba[16, 16]) == (*SIDES[normal], 255)
    assert rendering.rgba[0, 0, 3] == 0
    assert rendering.depth[16, 16] == pytest.approx(2 - 0.3, abs=2e-3)
    assert rendering.depth[0, 0] == 0


def test_left_is_left_and_up_is_up() -> None:
    rgba = render(prepare(box()), Camera(30, -30, 2, 40), 64).rgba
    solid = np.argwhere(rgba[..., 3] == 255)
    low, high = solid.min(0), solid.max(0)
    middle = (low + high) // 2
    left, top = rgba[middle[0] + 6, low[1] + 3], rgba[low[0] + 3, middle[1]]
    assert tuple(left[:3]) == SIDES[(-1, 0, 0)]
    assert tuple(top[:3]) == SIDES[(0, 0, 1)]


@settings(max_examples=25, deadline=None)
@given(st.floats(-80, 80), st.floats(-180, 180), st.floats(15, 80))
def test_projection_rays_depth_and_tensors_agree(elevation: float, azimuth: float, fov: float) -> None:
    camera = framed_camera(elevation, azimuth, fov)
    rendering = render(prepare(box()), camera, 24, supersampling=1)
    points = coordinates(rendering.depth, camera)
    y, x = np.nonzero(rendering.depth)
    on_surface = points[y, x]
    assert np.abs(on_surface).max() == pytest.approx(0.3, abs=1e-3)  # on the cube
    pixels, depth = project(camera, on_surface.astype(np.float64), 24)
    np.testing.assert_allclose(pixels, np.stack([x, y], -1) + 0.5, atol=1e-3)
    np.testing.assert_allclose(depth, rendering.depth[y, x], atol=1e-4)
    origin, directions = rays(camera, 24)
    towards = on_surface - origin
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    np.testing.assert_allclose(towards, directions[y, x], atol=1e-4)
    tensor = batched.camera_tensor([camera])
    np.testing.assert_allclose(batched.world_from_camera(tensor)[0], camera.world_from_camera(), atol=1e-5)
    np.testing.assert_allclose(batched.image_from_world(tensor, 24)[0], camera.image_from_world(24), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_an_episode_is_framed_as_the_pipeline_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(50, 3)) * rng.uniform(0.2, 1, 3)
    points *= 0.5 / np.linalg.norm(points, axis=1).max()
    placement, camera = sample_input(points, rng)
    pixels, _ = project(camera, placement.apply(points), 100)
    low, high = pixels.min(0), pixels.max(0)
    assert (high - low).max() == pytest.approx(100 * FILL, abs=0.5)
    np.testing.assert_allclose((low + high) / 2, 50, atol=0.5)


def test_placement_turns_what_faced_the_azimuth_to_the_front() -> None:
    camera = framed_camera(10.0)
    placement = place(box().vertices, 90.0, camera)
    turned = placement.apply(np.array([[0.3, 0.0, 0.0]]))[0]  # the blue side, which a camera at azimuth 90 sees
    assert turned[1] < -0.1
    assert abs(turned[0]) < 0.05
    assert np.abs(placement.apply(box().vertices)).max() < CUBE_HALF


def test_paint_takes_the_inputs_colours_where_it_sees_and_the_views_elsewhere() -> None:
    mesh = box(cells=12)
    front, back = framed_camera(0.0), framed_camera(0.0, 180.0)
    scene = prepare(mesh)
    picture, drawn = render(scene, front, 128).rgba, render(scene, back, 128).rgba
    painted = paint(mesh, picture, front, ViewSet(drawn[None], (back,)))

    def color_of(normal: tuple[int, int, int]) -> np.ndarray:
        inner = np.abs(painted.vertices @ np.array(normal) - 0.3) < 1e-4
        inner &= (np.abs(painted.vertices) < 0.21).sum(1) == 2
        return painted.colors[inner].astype(int)

    assert np.abs(color_of((0, -1, 0)) - (*SIDES[(0, -1, 0)], 255)).max() <= 2
    assert np.abs(color_of((0, 1, 0)) - (*SIDES[(0, 1, 0)], 255)).max() <= 2
    alone = paint(mesh, picture, front)
    assert np.array_equal(alone.vertices, mesh.vertices)
    assert (alone.colors[:, 0] > 200).all()  # everything unseen takes after what is seen


def test_feedback_maps_carry_colour_alpha_and_place() -> None:
    maps = feedback_maps(box(), [Camera(0, 0, 2, 40), Camera(0, 90, 2, 40)], 16)
    assert maps.shape == (2, 16, 16, 7)
    np.testing.assert_allclose(maps[0, 8, 8, :4], (1, 0, 0, 1), atol=1e-3)
    np.testing.assert_allclose(maps[0, 8, 8, 4:], (0, -0.3, 0), atol=0.05)
    np.testing.assert_allclose(maps[1, 8, 8, 4:], (0.3, 0, 0), atol=0.05)
    assert not maps[:, 0, 0].any()


def test_an_empty_mesh_renders_as_nothing() -> None:
    nothing = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 4), np.uint8))
    assert not render(prepare(nothing), framed_camera(0.0), 8).rgba.any()
