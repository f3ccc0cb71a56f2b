import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry.cleanup import clean, decimate, drop_degenerate, largest_components, smooth
from backend.geometry.mesh import Mesh
from backend.geometry.meshing import CUBE, extract_surface
from protocol.errors import TurnaroundError


def sphere(center=(0.0, 0.0, 0.0), radius=0.3):
    return lambda p: np.linalg.norm(p - np.array(center, np.float32), axis=1) - radius


def box(center, half):
    def sdf(p):
        q = np.abs(p - np.array(center, np.float32)) - np.array(half, np.float32)
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)

    return sdf


def union(*parts):
    return lambda p: np.min([part(p) for part in parts], axis=0)


def as_trimesh(vertices, faces):
    return trimesh.Trimesh(vertices, faces, process=False)


def painted(vertices, faces):
    """Colours that say where a vertex is."""
    colors = np.full((len(vertices), 4), 255, np.uint8)
    colors[:, :3] = np.clip((vertices + 0.5) * 255, 0, 255)
    return Mesh(vertices, faces, colors)


def test_surface_is_closed_outward_and_in_place():
    center, radius = np.array([0.1, -0.05, 0.07]), 0.31
    vertices, faces = extract_surface(sphere(center, radius), 64)
    assert (vertices.dtype, faces.dtype) == (np.float32, np.int32)
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)  # positive: counter-clockwise outside
    assert np.abs(np.linalg.norm(vertices - center, axis=1) - radius).max() < 1e-3
    axis = np.linspace(-0.5, 0.5, 65, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    from_grid = extract_surface(sphere(center, radius)(grid).reshape(65, 65, 65), 0)
    assert np.array_equal(from_grid[1], faces)
    assert np.allclose(from_grid[0], vertices, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_coarse_to_fine_gives_the_mesh_of_the_full_grid(data):
    """Any union of balls and thin boxes, at sizes that no power of two divides, in a box that is no cube."""
    number = st.floats(-0.35, 0.35)
    parts = []
    for _ in range(data.draw(st.integers(1, 4))):
        center = data.draw(st.tuples(number, number, number))
        half = data.draw(st.tuples(*[st.floats(0.02, 0.3)] * 3))
        parts.append(box(center, half) if data.draw(st.booleans()) else sphere(center, half[0] + 0.02))
    sdf = union(*parts)
    asked = []

    def counted(points):
        asked.append(len(points))
        return sdf(points)

    resolution = data.draw(st.integers(50, 100))
    bounds = ((-0.5, -0.4, -0.5), (0.5, 0.4, 0.5))
    vertices, faces = extract_surface(counted, resolution, bounds)
    evaluated = sum(asked)
    asked.clear()
    full = extract_surface(counted, resolution, bounds, safety=np.inf)
    assert np.array_equal(faces, full[1])
    assert np.allclose(vertices, full[0], atol=1e-6)
    assert evaluated < sum(asked)


@pytest.mark.parametrize("steepness", [1.7, 8.0])
def test_a_surface_that_is_met_is_followed_to_its_end(steepness):
    """A field steeper than it should be says "far" where the thin arm is; the arm is found whole all the same."""
    body = union(sphere((-0.3, 0, 0), 0.12), box((0.05, 0.02, 0.02), (0.35, 0.008, 0.008)))
    ripple = lambda p: 0.001 * np.sin(40 * p).sum(axis=1)  # noqa: E731
    sdf = lambda p: steepness * (body(p) + ripple(p))  # noqa: E731
    asked = []

    def counted(points):
        asked.append(len(points))
        return sdf(points)

    vertices, faces = extract_surface(counted, 150)
    assert sum(asked) < 0.1 * 151**3
    full = extract_surface(sdf, 150, safety=np.inf)
    assert np.array_equal(faces, full[1])
    assert np.array_equal(vertices, full[0])


def test_most_points_are_never_evaluated():
    asked = []

    def counted(points):
        asked.append(len(points))
        return sphere()(points)

    extract_surface(counted, 192)
    assert sum(asked) < 0.15 * 193**3


def test_shape_beyond_the_bounds_is_closed_there():
    vertices, faces = extract_surface(sphere(radius=0.6), 40)
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight
    assert mesh.volume > 0.6
    assert np.allclose(mesh.bounds, CUBE, atol=1e-3)
    everything, _ = extract_surface(lambda p: np.full(len(p), -1.0), 16)
    assert np.allclose([everything.min(axis=0), everything.max(axis=0)], CUBE, atol=1e-3)


def test_samples_on_the_surface_and_broken_samples_do_not_tear_it():
    vertices, faces = extract_surface(box((0, 0, 0), (0.25, 0.25, 0.25)), 32)  # faces lie exactly on grid planes
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(0.125, rel=0.03)
    grid = np.full((9, 9, 9), np.nan)
    grid[3:6, 3:6, 3:6] = -np.inf
    broken = as_trimesh(*extract_surface(grid, 0))
    assert broken.is_watertight
    assert np.isfinite(broken.vertices).all()


def test_nothing_is_an_error_with_words():
    with pytest.raises(TurnaroundError) as caught:
        extract_surface(lambda p: np.ones(len(p)), 32)
    assert caught.value.code == "shape.empty"
    assert caught.value.hint


@pytest.fixture(scope="module")
def three_balls() -> Mesh:
    parts = [sphere((0, 0, 0.1), 0.25), sphere((0.35, 0, -0.3), 0.1), sphere((-0.4, 0.4, -0.4), 0.03)]
    return painted(*extract_surface(union(*parts), 64))


def test_floaters_go(three_balls):
    for keep, count in [(None, 1), (0.1, 2), (0.0, 3)]:
        kept = largest_components(three_balls, keep)
        assert as_trimesh(kept.vertices, kept.faces).body_count == count
        assert np.array_equal(kept.colors, painted(kept.vertices, kept.faces).colors)
        assert len(np.unique(kept.faces)) == len(kept.vertices)
    only = largest_components(three_balls)
    assert np.abs(np.linalg.norm(only.vertices - [0, 0, 0.1], axis=1) - 0.25).max() < 1e-2


def test_hollow_inside_goes_with_the_floaters():
    shell = lambda p: np.abs(np.linalg.norm(p, axis=1) - 0.3) - 0.05  # noqa: E731
    kept = clean(painted(*extract_surface(shell, 48)))
    assert as_trimesh(kept.vertices, kept.faces).volume == pytest.approx(4 / 3 * np.pi * 0.35**3, rel=0.02)


def test_degenerate_faces_go_and_twins_are_welded():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [9, 9, 9]], np.float32)
    faces = np.array([[0, 2, 1], [4, 1, 3], [0, 3, 2], [1, 2, 3], [0, 4, 1], [2, 2, 3]], np.int32)
    cleaned = drop_degenerate(painted(vertices, faces))
    mesh = as_trimesh(cleaned.vertices, cleaned.faces)
    assert cleaned.vertices.shape == (4, 3)
    assert cleaned.faces.shape == (4, 3)
    assert mesh.is_watertight
    assert mesh.volume > 0


@pytest.mark.parametrize("target", [200, 1500])
def test_decimation_keeps_shape_winding_and_colours(three_balls, target):
    mesh = largest_components(three_balls)
    small = decimate(mesh, target)
    assert 0.8 * target <= len(small.faces) <= target
    surface = as_trimesh(small.vertices, small.faces)
    assert surface.is_watertight
    assert surface.volume == pytest.approx(as_trimesh(mesh.vertices, mesh.faces).volume, rel=0.05)
    expected = painted(small.vertices, small.faces).colors.astype(int)
    assert np.abs(small.colors - expected).max() <= 12
    assert decimate(mesh, len(mesh.faces)) is mesh


def test_smoothing_keeps_the_volume_and_evens_the_surface():
    noise = np.random.default_rng(0)
    vertices, faces = extract_surface(sphere(), 48)
    rough = Mesh(
        vertices + noise.normal(0, 0.004, vertices.shape).astype(np.float32), faces, painted(vertices, faces).colors
    )
    even = smooth(rough, 5)
    radii = [np.linalg.norm(m.vertices, axis=1) for m in (rough, even)]
    assert radii[1].std() < 0.5 * radii[0].std()
    assert radii[1].mean() == pytest.approx(0.3, rel=0.01)
    assert np.array_equal(even.faces, rough.faces)


def test_clean_does_all_of_it(three_balls):
    result = clean(three_balls, target_faces=500, smooth_steps=2)
    surface = as_trimesh(result.vertices, result.faces)
    assert surface.is_watertight
    assert surface.body_count == 1
    assert len(result.faces) <= 500
    assert (result.vertices.dtype, result.faces.dtype, result.colors.dtype) == (np.float32, np.int32, np.uint8)
