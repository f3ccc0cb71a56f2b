"""How far a predicted shape, and pictures of it, are from the truth.

Shapes are measured in one unit: both meshes are moved and scaled by the single transform that puts the centre of the
true mesh's bounding box at the origin and its furthest vertex at 0.5 (`normalization`). So a threshold of 0.05 is a
twentieth of the sphere's diameter, however the picture was framed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.geometry.mesh import Mesh
from protocol.errors import TurnaroundError

Array = NDArray[np.float64]

F_SCORE_THRESHOLD = 0.05
GRID = 64
"""Voxels along the true mesh's unit cube for volume IoU."""

_OVERSAMPLING = 2
_REACH = 2.0
"""How far from the origin predicted volume is counted; beyond, it is cut off so that memory is bounded."""


def normalization(truth: Mesh) -> Array:
    """Transform [4, 4] that centres the bounding box of `truth` and scales its furthest vertex to 0.5."""
    vertices = truth.vertices.astype(np.float64)
    if not len(vertices):
        raise TurnaroundError("mesh.empty", "The true mesh has no vertices.", "Leave it out of the evaluation.")
    center = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    scale = 0.5 / max(float(np.linalg.norm(vertices - center, axis=1).max()), 1e-12)
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = -scale * center
    return matrix


def transformed(mesh: Mesh, transform: Array) -> Mesh:
    """The mesh after a transform [4, 4] that does not mirror."""
    vertices = mesh.vertices @ transform[:3, :3].T + transform[:3, 3]
    return Mesh(vertices.astype(np.float32), mesh.faces, mesh.colors)


def sample_points(mesh: Mesh, count: int, seed: int = 0) -> Array:
    """Points [count, 3] spread evenly by area over the surface; the same seed gives the same points.

    Raises:
        TurnaroundError: `mesh.empty`, if the mesh has no area.
    """
    surface = trimesh.Trimesh(mesh.vertices.astype(np.float64), mesh.faces, process=False)
    if not len(mesh.faces) or not surface.area > 0:
        raise TurnaroundError("mesh.empty", "The mesh has no surface to measure.", "Try another picture or seed.")
    return np.asarray(trimesh.sample.sample_surface(surface, count, seed=seed)[0], np.float64)


def surface_distances(prediction: Array, truth: Array) -> tuple[Array, Array]:
    """Distance of each predicted point [N] to the nearest true one, and of each true point [M] to the predicted."""
    return cKDTree(truth).query(prediction)[0], cKDTree(prediction).query(truth)[0]


def f_score(prediction: Array, truth: Array, threshold: float = F_SCORE_THRESHOLD) -> float:
    """Harmonic mean of precision and recall of surface points within `threshold` (Tatarchenko et al. 2019)."""
    to_truth, to_prediction = surface_distances(prediction, truth)
    precision, recall = float((to_truth < threshold).mean()), float((to_prediction < threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def chamfer(prediction: Array, truth: Array) -> float:
    """Chamfer distance: the mean of both one-sided mean Euclidean (not squared) nearest-point distances."""
    to_truth, to_prediction = surface_distances(prediction, truth)
    return float((to_truth.mean() + to_prediction.mean()) / 2)


# --------------------------------------------------------------------------------------------------------- volume


def volume_iou(prediction: Mesh, truth: Mesh, grid: int = GRID) -> float:
    """Intersection over union of the two volumes, on voxels of 1 / `grid`.

    Both meshes are in the normalised frame. The lattice covers the truth's unit cube and is continued by whole voxels
    as far as either mesh reaches, so that volume in the wrong place always counts.
    """
    points = np.concatenate([truth.vertices, prediction.vertices]).astype(np.float64).clip(-_REACH, _REACH)
    low = np.floor((points.min(axis=0)).clip(max=-0.5) * grid).astype(int) - 1
    high = np.ceil((points.max(axis=0)).clip(min=0.5) * grid).astype(int) + 1
    shape = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
    a, b = (occupancy(mesh, low / grid, 1.0 / grid, shape) for mesh in (prediction, truth))
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def occupancy(mesh: Mesh, origin: Array, voxel: float, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels [X, Y, Z] that a mesh fills; it need not be watertight, closed or consistently oriented.

    On a lattice twice as fine, the voxels that the surface passes through are marked, the empty space that is
    connected (through faces) to the border is outside, and everything else is filled, the surface's own voxels
    included; so sheets without thickness keep a little volume, and gaps narrower than half a voxel do not leak. A
    voxel is filled if at least half of its eight parts are.

    Args:
        mesh: triangles in the frame of `origin`; what lies beyond the lattice is not seen.
        origin: lower corner of voxel (0, 0, 0), [3].
        voxel: side of a voxel.
        shape: number of voxels along x, y, z.
    """
    fine = voxel / _OVERSAMPLING
    size = np.array(shape) * _OVERSAMPLING
    surface = np.zeros(size + 2, bool)  # a rim of empty voxels joins all of the outside
    for points in _surface_lattice(mesh, fine / 2):
        index = np.floor((points - origin) / fine).astype(np.int64)
        index = index[((index >= 0) & (index < size)).all(axis=1)] + 1
        surface[index[:, 0], index[:, 1], index[:, 2]] = True
    labels, _ = ndimage.label(~surface)
    filled = (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]
    parts = filled.reshape(shape[0], _OVERSAMPLING, shape[1], _OVERSAMPLING, shape[2], _OVERSAMPLING)
    return np.asarray(parts.sum(axis=(1, 3, 5)) * 2 >= _OVERSAMPLING**3)


def _surface_lattice(mesh: Mesh, spacing: float, chunk: int = 2_000_000) -> Iterator[Array]:
    """Points on every triangle, no further than `spacing` apart, in chunks of about `chunk` points [N, 3]."""
    triangles = mesh.vertices.astype(np.float64)[mesh.faces]
    edges = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1, initial=0.0)
    steps = np.ceil((edges / spacing).clip(1, 4096)).astype(int)
    for n in np.unique(steps):
        i, j = np.mgrid[0 : n + 1, 0 : n + 1].reshape(2, -1)
        i, j = i[i + j <= n], j[i + j <= n]
        weights = np.stack([i, j, n - i - j], axis=1) / n
        group = triangles[steps == n]
        at_once = max(1, chunk // len(weights))
        for start in range(0, len(group), at_once):
            yield np.einsum("kc,tcx->tkx", weights, group[start : start + at_once]).reshape(-1, 3)


# ------------------------------------------------------------------------------------------------------- pictures


def on_white(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """RGB in [0, 1], [..., 3], of straight-alpha RGBA images [..., 4] composited on white."""
    rgba = images.astype(np.float64) / 255
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def psnr(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two RGBA images [H, W, 4] on white; 100 at most, for equal images."""
    error = float(((on_white(image) - on_white(truth)) ** 2).mean())
    return float(-10 * np.log10(max(error, 1e-10)))


def ssim(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5) of two RGBA images [H, W, 4] on white."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            on_white(image),
            on_white(truth),
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
