"""Depth and colour maps, and Gaussians, to a coloured mesh of a known shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backend.evaluation.metrics import f_score, sample_points, volume_iou
from backend.geometry.export import vertex_normals
from backend.geometry.fusion import FusedField, coarse_mesh, fuse, fuse_maps, sphere_cameras
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.mesh import Mesh
from backend.geometry.render import prepare, render
from backend.pipelines.shaping import surface
from backend.pipelines.stage import digest
from protocol.errors import TurnaroundError

HALF, CELLS, SIZE, VIEWS = 0.5, 48, 60, 24

SHAPES = {
    "ball": lambda: trimesh.creation.icosphere(4, 0.4),
    "box": lambda: trimesh.creation.box((0.6, 0.4, 0.5)),
    "torus": lambda: trimesh.creation.torus(0.33, 0.1, 48, 24),
    "plate": lambda: trimesh.creation.box((0.6, 0.03, 0.5)),
}
HOLES = {"torus": 1}


def truth(shape: str) -> Mesh:
    """Every side of a box, and every octant of the round ones, in a colour of its own."""
    solid = SHAPES[shape]()
    solid.unmerge_vertices()
    colors = np.full((len(solid.vertices), 4), 255, np.uint8)
    colors[:, :3] = side_colors(solid.face_normals).repeat(3, axis=0)
    return Mesh(solid.vertices.astype(np.float32), np.asarray(solid.faces, np.int32), colors)


def side_colors(normals: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.where(np.round(normals, 3) > 0, 220, np.where(np.round(normals, 3) < 0, 30, 120)).astype(np.uint8)


def maps(mesh: Mesh, views: int = VIEWS, size: int = SIZE) -> tuple[NDArray[np.float32], ...]:
    scene = prepare(mesh)
    seen = [render(scene, camera, size, supersampling=1) for camera in sphere_cameras(views, HALF)]
    rgba = np.stack([picture.rgba for picture in seen]).astype(np.float32) / 255
    return np.stack([picture.depth for picture in seen]), rgba[..., :3], rgba[..., 3]


def splats(mesh: Mesh, count: int, opacity: float = 0.95) -> Gaussians:
    """Flat Gaussians all over a surface."""
    solid = solid_of(mesh)
    points, faces = trimesh.sample.sample_surface_even(solid, count, seed=0)
    normals = solid.face_normals[faces]
    spacing = float(np.sqrt(solid.area / len(points)))
    half_turn = np.concatenate(
        [np.zeros((len(points), 1)), normals + np.array([0, 0, 1.0001])], axis=1
    )  # takes z to the normal
    parts = (
        points,
        half_turn / np.linalg.norm(half_turn, axis=1, keepdims=True),
        np.tile([0.6 * spacing, 0.6 * spacing, 0.05 * spacing], (len(points), 1)),
        np.full(len(points), opacity),
        mesh.colors[mesh.faces[faces, 0], :3] / 255,
    )
    return Gaussians(*(torch.tensor(np.asarray(part), dtype=torch.float32) for part in parts))


def from_maps(shape: Mesh) -> FusedField:
    return fuse_maps(*maps(shape), sphere_cameras(VIEWS, HALF), CELLS, HALF)


def from_gaussians(shape: Mesh) -> FusedField:
    return fuse(splats(shape, 8_000), CELLS, HALF, views=VIEWS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("source", "tolerance"), [(from_maps, 0.25), (from_gaussians, 0.75)])
def test_a_known_shape_is_found_closed_with_its_holes_and_colours(
    shape: str, source: Callable[[Mesh], FusedField], tolerance: float
) -> None:
    """`tolerance` is in cells: splats are as thick as they are."""
    expected = truth(shape)
    field = source(expected)
    mesh = surface(field, CELLS, smoothing=0)
    solid = solid_of(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.volume > 0
    assert (solid.body_count, solid.euler_number) == (1, 2 - 2 * HOLES.get(shape, 0))
    here, there = sample_points(mesh, 20_000), sample_points(expected, 20_000, 1)
    cell = 2 * HALF / CELLS
    assert f_score(here, there, (tolerance + 0.5) * cell) > 0.97
    thickness = 2 * solid_of(expected).volume / solid_of(expected).area
    assert volume_iou(mesh, expected) > 1 - 2 * tolerance * cell / thickness
    points, face = trimesh.sample.sample_surface(solid_of(expected), 50_000, seed=2)
    nearest = face[cKDTree(points).query(mesh.vertices)[1]]
    colors = 255 * field.colors(mesh.vertices, vertex_normals(mesh.vertices, mesh.faces))
    wrong = np.abs(colors - expected.colors[expected.faces[nearest, 0], :3]).max(1) > 60
    assert wrong.mean() < 0.12  # where two sides meet, both are right


def solid_of(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_a_coarse_mesh_is_small_coloured_and_in_place() -> None:
    expected = truth("box")
    mesh = coarse_mesh(splats(expected, 3_000))
    assert solid_of(mesh).is_watertight
    assert len(mesh.vertices) < 8_000
    assert f_score(sample_points(mesh, 5_000), sample_points(expected, 5_000, 1), 0.03) > 0.97
    front = np.argmin(mesh.vertices[:, 1] + 10 * np.abs(mesh.vertices[:, [0, 2]]).max(1))
    assert np.abs(mesh.colors[front].astype(int) - [120, 30, 120, 255]).max() < 30


def test_what_no_camera_can_see_into_is_filled_and_takes_the_nearest_colour() -> None:
    hollow = truth("ball")
    inner = Mesh(0.5 * hollow.vertices, hollow.faces[:, ::-1], hollow.colors)
    both = Mesh(
        np.concatenate([hollow.vertices, inner.vertices]),
        np.concatenate([hollow.faces, inner.faces + len(hollow.vertices)]).astype(np.int32),
        np.concatenate([hollow.colors, inner.colors]),
    )
    field = from_maps(both)
    assert (field.distance(0.5 * inner.vertices) < 0).all()
    corner = np.array([[0.1, 0.1, 0.1], [0.24, 0.24, 0.24]], np.float32)
    assert np.abs(255 * field.colors(corner) - 220).max() < 10
    assert (field.distance(np.array([[0.49, 0.49, 0.49], [3.0, 0.0, 0.0]], np.float32)) > 0).all()


def test_where_there_is_nothing_to_see_that_is_said() -> None:
    for nothing in (splats(truth("ball"), 2_000, opacity=0.003), splats(truth("ball"), 2_000).select(torch.arange(0))):
        for attempt in (coarse_mesh, lambda gaussians: fuse(gaussians, CELLS, HALF, views=4)):
            with pytest.raises(TurnaroundError, match="Nothing was found in the picture") as caught:
                attempt(nothing)
            assert caught.value.code == "shape.empty"


def test_all_that_a_field_depends_on_is_in_its_key() -> None:
    ball, box = truth("ball"), truth("box")
    cameras = sphere_cameras(6, HALF)
    depths, colors, alphas = maps(ball, 6)
    fields = [fuse_maps(*maps(box, 6), cameras, CELLS, HALF), fuse_maps(depths, colors, alphas, cameras, CELLS, HALF)]
    fields += [fuse_maps(depths, 0.5 * colors, alphas, cameras, CELLS, HALF)]
    fields += [fuse_maps(depths, colors, alphas, cameras, 32, HALF)]
    fields += [fuse_maps(depths, colors, alphas, cameras[::-1], CELLS, HALF)]
    assert len({digest(field.arrays()) for field in fields}) == len(fields)


def test_cameras_stand_all_around_and_see_all_of_the_ball() -> None:
    cameras = sphere_cameras(24, 0.55)
    positions = np.array([camera.position for camera in cameras])
    gaps = np.sort(np.linalg.norm(positions[:, None] - positions, axis=-1), axis=1)[:, 1]
    assert gaps.min() > 0.7 * gaps.max()
    assert np.abs(positions.mean(0)).max() < 0.05 * cameras[0].distance
    radius = cameras[0].distance * np.sin(np.radians(cameras[0].fov_deg / 2))
    assert 0.55 < radius < 0.6
