"""What makes a raw surface a usable mesh: no floaters, no degenerate faces, as many triangles as wanted."""

from __future__ import annotations

import fast_simplification
import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from backend.geometry.mesh import Mesh


def clean(
    mesh: Mesh, *, keep_fraction: float | None = None, target_faces: int | None = None, smooth_steps: int = 0
) -> Mesh:
    """Drops degenerate faces and floaters, then smooths and decimates if asked to.

    Args:
        mesh: as it came from marching cubes.
        keep_fraction: also keep components with at least this share of the largest one's area; None keeps the largest.
        target_faces: about how many triangles to leave; None leaves all.
        smooth_steps: pairs of Taubin steps.
    """
    mesh = largest_components(drop_degenerate(mesh), keep_fraction)
    if smooth_steps:
        mesh = smooth(mesh, smooth_steps)
    if target_faces is not None:
        mesh = decimate(mesh, target_faces)
    return mesh


def drop_degenerate(mesh: Mesh) -> Mesh:
    """Welds vertices of the same place and colour, drops faces that use a vertex twice, and unused vertices.

    Thin faces with three distinct vertices stay: without them a closed mesh would have slits.
    """
    parts = (mesh.vertices, mesh.colors)
    records = np.hstack([np.ascontiguousarray(part).view(np.uint32) for part in parts])
    _, first, welded = np.unique(records, axis=0, return_index=True, return_inverse=True)
    faces = first[welded.reshape(-1)][mesh.faces]
    a, b, c = faces.T
    return _subset(mesh, faces[(a != b) & (b != c) & (c != a)])


def largest_components(mesh: Mesh, keep_fraction: float | None = None) -> Mesh:
    """The connected component with the largest area, and those with at least `keep_fraction` of it if given."""
    if not len(mesh.faces):
        return mesh
    ends = mesh.faces[:, [0, 1, 1, 2]].reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1], np.int8), ends), shape=(len(mesh.vertices),) * 2)
    _, labels = connected_components(graph, directed=False)
    area = np.bincount(labels[mesh.faces[:, 0]], weights=face_areas(mesh), minlength=labels.max() + 1)
    least = area.max() if keep_fraction is None else area.max() * keep_fraction
    return _subset(mesh, mesh.faces[(area >= least)[labels[mesh.faces[:, 0]]]])


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """Quadric edge collapse to about `target_faces` triangles; a mesh that has no more is returned as it is.

    New vertices take the colours of the three nearest old ones, weighted by inverse square distance.
    """
    if len(mesh.faces) <= target_faces:
        return mesh
    vertices, faces = fast_simplification.simplify(mesh.vertices, mesh.faces, target_count=target_faces)
    vertices = np.ascontiguousarray(vertices, np.float32)
    k = min(3, len(mesh.vertices))
    distance, nearest = cKDTree(mesh.vertices).query(vertices, k=k)
    weight = 1 / (distance.reshape(-1, k) ** 2 + 1e-12)
    colors = np.einsum("nk,nkc->nc", weight / weight.sum(axis=1, keepdims=True), mesh.colors[nearest.reshape(-1, k)])
    return drop_degenerate(Mesh(vertices, faces.astype(np.int32), (colors + 0.5).astype(np.uint8)))


def smooth(mesh: Mesh, steps: int = 5) -> Mesh:
    """Taubin's smoothing (1995), which takes off the cells' staircase and keeps the volume; faces and colours stay."""
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    trimesh.smoothing.filter_taubin(surface, lamb=0.5, nu=0.53, iterations=2 * steps)
    return Mesh(np.asarray(surface.vertices, np.float32), mesh.faces, mesh.colors)


def face_areas(mesh: Mesh) -> NDArray[np.float64]:
    """Areas [M] of the faces."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _subset(mesh: Mesh, faces: NDArray[np.integer]) -> Mesh:
    """The mesh of these faces, with the vertices that they use in their old order."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], renumbered.reshape(-1, 3).astype(np.int32), mesh.colors[used])
