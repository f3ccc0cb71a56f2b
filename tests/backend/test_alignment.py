from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.evaluation.alignment import align, similarity, transform_points
from backend.evaluation.metrics import chamfer, f_score


@pytest.fixture(scope="module")
def armchair() -> np.ndarray:
    """Points on a shape with a distinct front, side and top."""
    parts = [
        trimesh.creation.box((0.5, 0.4, 0.1), transform=trimesh.transformations.translation_matrix((0, 0, -0.1))),
        trimesh.creation.box((0.5, 0.08, 0.5), transform=trimesh.transformations.translation_matrix((0, 0.2, 0.15))),
        trimesh.creation.box((0.08, 0.4, 0.2), transform=trimesh.transformations.translation_matrix((0.25, 0, 0.1))),
    ]
    return np.asarray(trimesh.sample.sample_surface(trimesh.util.concatenate(parts), 1000, seed=1)[0])


@settings(max_examples=12, deadline=None)
@given(
    scale=st.floats(0.4, 2.5),
    yaw=st.floats(-180, 180),
    target=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
)
def test_a_scaled_and_turned_copy_is_brought_back(
    armchair: np.ndarray, scale: float, yaw: float, target: tuple[float, float, float]
) -> None:
    moved = transform_points(similarity(scale, yaw, np.zeros(3), np.array(target)), armchair)
    transform = align(moved, armchair)
    assert f_score(transform_points(transform, moved), armchair) > 0.98
    assert chamfer(transform_points(transform, moved), armchair) < 0.025
    linear = transform[:3, :3]
    found = np.cbrt(np.linalg.det(linear))
    np.testing.assert_allclose(linear @ linear.T, found**2 * np.eye(3), atol=1e-6 * max(1, found**2))
    assert found == pytest.approx(1 / scale, rel=0.06)


def test_a_tilt_which_no_turn_about_the_vertical_undoes_is_undone(armchair: np.ndarray) -> None:
    tilt = trimesh.transformations.rotation_matrix(np.radians(5), (1, 0, 0))
    tilted = transform_points(tilt, armchair)
    left = align(tilted, armchair) @ tilt
    cosine = (np.trace(left[:3, :3]) / np.cbrt(np.linalg.det(left[:3, :3])) - 1) / 2
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 1


def test_alignment_never_mirrors(armchair: np.ndarray) -> None:
    mirrored = armchair * [-1, 1, 1]
    transform = align(mirrored, armchair)
    assert np.linalg.det(transform[:3, :3]) > 0
    assert f_score(transform_points(transform, mirrored), armchair, 0.02) < 0.9


def test_alignment_never_makes_it_worse_and_repeats(armchair: np.ndarray) -> None:
    blob = np.random.default_rng(0).normal(scale=0.2, size=(500, 3))
    transform = align(blob, armchair)
    assert f_score(transform_points(transform, blob), armchair) >= f_score(blob, armchair)
    np.testing.assert_array_equal(transform, align(blob, armchair))
    np.testing.assert_array_equal(align(armchair, armchair + 1, mode="none"), np.eye(4))
