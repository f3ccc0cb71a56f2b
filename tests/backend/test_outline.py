"""A shape keeps to its picture's outline: lost parts come back, what is beside it goes, and the rest stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh
from backend.geometry.outline import trace_outline
from backend.geometry.render import prepare, render
from backend.pipelines.shaping import surface
from backend.preparation.framing import framed_camera
from backend.reconstructors.base import OutlinedField

SIZE = 256


@dataclass(frozen=True)
class Boxes:
    """Boxes, each [low, high], as one signed distance."""

    boxes: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    half: float = 0.6

    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        each = []
        for low, high in self.boxes:
            q = np.abs(points - np.add(low, high) / 2) - np.subtract(high, low) / 2
            each.append(np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0))
        return np.min(each, axis=0).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        return {"boxes": np.array(self.boxes)}


TOP = ((-0.3, -0.2, 0.1), (0.3, 0.2, 0.25))
LEGS = tuple(((x - 0.02, -0.02, -0.4), (x + 0.02, 0.02, 0.1)) for x in (-0.25, 0.25))
TABLE = Boxes((TOP, *LEGS))


def seen(mesh: Mesh, camera: Camera) -> NDArray[np.bool_]:
    return render(prepare(mesh), camera, SIZE).rgba[..., 3] > 127


def picture_of(field: Boxes, camera: Camera) -> NDArray[np.uint8]:
    return (seen(surface(field, 192, smoothing=0), camera) * np.uint8(255)).astype(np.uint8)


def kept(shape: Boxes, alpha: NDArray[np.uint8], camera: Camera) -> Mesh:
    outline = trace_outline(shape.distance, shape.half, alpha, camera)
    return surface(OutlinedField(shape, outline), 128, smoothing=0)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(("elevation", "fov"), [(0.0, 40.0), (20.0, 40.0), (50.0, 20.0), (-5.0, 60.0)])
def test_lost_legs_come_back_where_the_shape_is_and_as_thick_as_they_are_wide(elevation: float, fov: float) -> None:
    camera = framed_camera(elevation, 0.0, fov)
    alpha = picture_of(TABLE, camera)
    bare = Boxes((TOP,))
    mesh = kept(bare, alpha, camera)
    assert overlap(seen(surface(bare, 128, smoothing=0), camera), alpha > 127) < 0.95
    assert overlap(seen(mesh, camera), alpha > 127) > 0.97

    towards = camera.position / camera.distance
    depth = camera.distance - mesh.vertices @ towards
    inside_top = (mesh.vertices > np.array(TOP[0]) - 0.03).all(1) & (mesh.vertices < np.array(TOP[1]) + 0.03).all(1)
    legs = depth[~inside_top]
    span = camera.distance - np.array([np.array(corner) @ towards for corner in np.array(TOP)])
    assert span.min() - 0.25 < legs.min() < legs.max() < span.max() + 0.25, "no fins along the lines of sight"
    assert np.percentile(legs, 95) - np.percentile(legs, 5) < 0.35


def test_what_is_beside_the_outline_is_cut_away() -> None:
    camera = framed_camera(10.0)
    alpha = picture_of(TABLE, camera)
    fat = Boxes((*TABLE.boxes, ((0.1, -0.1, -0.3), (0.4, 0.1, 0.0))))
    assert overlap(seen(surface(fat, 128, smoothing=0), camera), alpha > 127) < 0.8
    mesh = kept(fat, alpha, camera)
    assert (seen(mesh, camera) & (alpha < 128)).mean() < 0.003
    assert overlap(seen(mesh, camera), alpha > 127) > 0.95


def test_a_shape_that_fills_its_outline_stays_as_it_is() -> None:
    camera = framed_camera(15.0)
    before = surface(TABLE, 96, smoothing=0)
    mesh = kept(TABLE, picture_of(TABLE, camera), camera)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 3)).astype(np.float32)
    outline = trace_outline(TABLE.distance, TABLE.half, picture_of(TABLE, camera), camera)
    own, kept_distance = TABLE.distance(points), outline.keep(points, TABLE.distance(points))
    assert ((own < 0) != (kept_distance < 0)).mean() < 0.002
    for low, high in zip(before.vertices.min(0), mesh.vertices.min(0), strict=True):
        assert low == pytest.approx(high, abs=0.02), "but for a line of sight"


def test_a_shape_lost_altogether_stands_where_the_camera_looks() -> None:
    camera = framed_camera(5.0)
    nothing = Boxes((((5.0, 5.0, 5.0), (5.1, 5.1, 5.1)),))
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    alpha[40:216, 124:132] = 255
    mesh = kept(nothing, alpha, camera)
    assert overlap(seen(mesh, camera), alpha > 127) > 0.75
    assert np.abs(mesh.vertices[:, :2]).max() < 0.1


def test_a_subject_that_is_half_transparent_everywhere_has_an_outline() -> None:
    camera = framed_camera(15.0)
    alpha = picture_of(TABLE, camera)
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (5_000, 3)).astype(np.float32)
    found = [trace_outline(TABLE.distance, TABLE.half, a, camera) for a in (alpha, (alpha * 0.4).astype(np.uint8))]
    first, second = (outline.keep(points, TABLE.distance(points)) for outline in found)
    np.testing.assert_allclose(first, second)
