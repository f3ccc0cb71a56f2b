from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.evaluation import metrics
from backend.geometry.mesh import Mesh
from protocol.errors import TurnaroundError


def as_mesh(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        np.asarray(shape.vertices, np.float32),
        np.asarray(shape.faces, np.int32),
        np.full((len(shape.vertices), 4), 255, np.uint8),
    )


def box(*extents: float, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    shape = trimesh.creation.box(extents)
    shape.apply_translation(at)
    return as_mesh(shape)


def volume(mesh: Mesh) -> float:
    return float(metrics.occupancy(mesh, np.full(3, -0.5), 1 / 64, (64, 64, 64)).sum() / 64**3)


def test_normalization_centres_the_box_and_scales_the_furthest_vertex() -> None:
    moved = metrics.transformed(box(2, 4, 4, at=(5, 6, 7)), metrics.normalization(box(2, 4, 4, at=(5, 6, 7))))
    assert np.linalg.norm(moved.vertices, axis=1) == pytest.approx(0.5)
    assert np.ptp(moved.vertices, axis=0) == pytest.approx([1 / 3, 2 / 3, 2 / 3], abs=1e-6)


@given(offset=st.floats(0.0, 0.3))
def test_distances_between_parallel_squares_are_their_offset(offset: float) -> None:
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 20)), -1).reshape(-1, 2)
    low = np.column_stack([grid, np.zeros(len(grid))])
    high = low + np.array([0, 0, offset])
    assert metrics.chamfer(high, low) == pytest.approx(offset, abs=1e-9)
    assert metrics.f_score(high, low, 0.05) == (1.0 if offset < 0.05 else 0.0)


def test_f_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    truth = np.column_stack([np.arange(10.0), np.zeros(10), np.zeros(10)])
    prediction = np.concatenate([truth[:5], truth[:5] + np.array([0, 0.5, 0])])  # half of each found
    assert metrics.f_score(prediction, truth, 0.05) == pytest.approx(0.5)
    assert metrics.f_score(truth + np.array([0, 9, 0]), truth, 0.05) == 0.0


def test_samples_repeat_with_their_seed_and_an_empty_mesh_is_an_error() -> None:
    np.testing.assert_array_equal(
        metrics.sample_points(box(1, 1, 1), 100, seed=3), metrics.sample_points(box(1, 1, 1), 100, seed=3)
    )
    with pytest.raises(TurnaroundError) as failure:
        metrics.sample_points(
            Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 4), np.uint8)), 10
        )
    assert failure.value.code == "mesh.empty"


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(0.2, 0.8)] * 3), st.tuples(*[st.floats(-0.08, 0.08)] * 3))
@example((0.53515625, 0.53515625, 0.4765625), (0, 0, 0))
def test_occupancy_fills_a_box_to_within_a_voxel_a_side(
    extents: tuple[float, float, float], at: tuple[float, float, float]
) -> None:
    """The surface adds up to half a voxel a side, and a voxel that is half full counts as a whole one.

    Where two faces meet, a voxel may be only a quarter full and is lost: half a voxel a side at the most.
    """
    filled = volume(box(*extents, at=at))
    assert np.prod(np.array(extents) - 1 / 64) <= filled <= np.prod(np.array(extents) + 2 / 64)


def test_occupancy_needs_neither_a_watertight_nor_an_oriented_mesh() -> None:
    whole = box(0.6, 0.6, 0.6)
    corners = whole.vertices[whole.faces].reshape(-1, 3)  # every triangle on its own, half of them turned inside out
    faces = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    faces[::2] = faces[::2, ::-1]
    soup = Mesh(corners, faces, np.full((len(corners), 4), 255, np.uint8))
    assert volume(soup) == volume(whole)
    inner = Mesh(
        np.concatenate([whole.vertices, whole.vertices * 0.5]),
        np.concatenate([whole.faces, whole.faces + len(whole.vertices)]),
        np.concatenate([whole.colors, whole.colors]),
    )
    assert volume(inner) == volume(whole)


def test_an_open_box_is_hollow_and_a_sheet_is_not_lost() -> None:
    whole = box(0.6, 0.6, 0.6)
    open_box = Mesh(whole.vertices, whole.faces[:-2], whole.colors)
    assert 0 < volume(open_box) < 0.3 * volume(whole)
    assert volume(Mesh(whole.vertices, whole.faces[:2], whole.colors)) > 0


@settings(max_examples=10, deadline=None)
@given(st.floats(0.0, 0.5))
def test_iou_of_two_boxes_is_their_overlap(shift: float) -> None:
    a, b = box(0.5, 0.5, 0.5), box(0.5, 0.5, 0.5, at=(shift, 0, 0))
    expected = (0.5 - shift) / (0.5 + shift)
    assert metrics.volume_iou(a, b) == pytest.approx(expected, abs=0.065)  # a layer of voxels
    assert metrics.volume_iou(a, a) == 1.0


def test_iou_counts_volume_beyond_the_truth() -> None:
    assert metrics.volume_iou(box(1.4, 0.4, 0.4), box(0.7, 0.4, 0.4)) == pytest.approx(0.5, abs=0.03)
    assert metrics.volume_iou(box(0.4, 0.4, 0.4, at=(9, 0, 0)), box(0.7, 0.4, 0.4)) == 0.0


def test_pictures_are_compared_on_white() -> None:
    seen = np.zeros((32, 32, 4), np.uint8)
    hidden = seen.copy()
    hidden[..., :3] = 200  # colour behind a transparent pixel is no difference
    assert metrics.psnr(seen, hidden) == 100.0
    assert metrics.ssim(seen, hidden) == pytest.approx(1.0)
    grey = np.full((32, 32, 4), (127, 127, 127, 255), np.uint8)
    assert metrics.psnr(grey, seen) == pytest.approx(-20 * np.log10(128 / 255), abs=1e-6)
    noisy = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    assert metrics.ssim(noisy, grey) < 0.2
