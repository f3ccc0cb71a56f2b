"""Meshes from a folder, and the solid that a mesh stands for."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy import ndimage

from backend.geometry.mesh import Mesh
from backend.geometry.render import srgb_from_linear
from protocol.errors import TurnaroundError

SUFFIXES = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off")
GRID_HALF = 0.55
"""The signed distance grid spans [-GRID_HALF, GRID_HALF] on each axis of the object frame."""
FINE = 96
"""Cells of the occupancy that distances are measured on."""
TRUNCATION = 0.12
"""Distances are kept within this, in object units."""


@dataclass(frozen=True)
class MeshFile:
    """A mesh to train or validate on; `split` is "train" or "val"."""

    name: str
    path: Path
    split: str


def find_meshes(folder: Path) -> list[MeshFile]:
    """Meshes below a folder, by name.

    A `props.csv` (columns `path`, `split`) in the folder or beside it names the split; without one, every mesh whose
    name hashes to a multiple of 16 is kept for validation.

    Raises:
        TurnaroundError: `meshes.none`.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise TurnaroundError(
            "meshes.none", f"There are no meshes in {folder}.", f"Use files of these kinds: {', '.join(SUFFIXES)}."
        )
    splits: dict[str, str] = {}
    for table in (folder / "props.csv", folder.parent / "props.csv"):
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as file:
                splits = {row["path"]: row["split"] for row in csv.DictReader(file)}
            break
    files = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        default = "val" if int.from_bytes(name.encode(), "little") % 65_521 % 16 == 0 else "train"
        files.append(MeshFile(name, path, splits.get(name, default)))
    return files


def split_meshes(folder: Path) -> dict[str, list[MeshFile]]:
    """Those to train on ("train") and those to validate with ("val"), see `find_meshes`.

    Raises:
        TurnaroundError: `meshes.none`; `train.no_split`, if there are none of one kind.
    """
    files = find_meshes(folder)
    splits = {split: [file for file in files if file.split == split] for split in ("train", "val")}
    for split, members in splits.items():
        if not members:
            raise TurnaroundError("train.no_split", f"There is no mesh in the {split} split.", "Add more meshes.")
    return splits


def load_mesh(path: Path) -> Mesh:
    """Reads a mesh, centres its bounding box and scales its farthest vertex to 0.5.

    glTF and OBJ files stand Y up and are turned upright; the others are taken as Z up, front -Y.

    Raises:
        TurnaroundError: `meshes.unreadable`.
    """
    linear = path.suffix.lower() in (".glb", ".gltf")
    try:
        scene = trimesh.load_scene(path, process=False)
        parts = [_part(scene, node, linear) for node in scene.graph.nodes_geometry]
        starts = np.cumsum([0] + [len(vertices) for vertices, _, _ in parts])
        vertices = np.concatenate([vertices for vertices, _, _ in parts])
        faces = np.concatenate([faces + start for (_, faces, _), start in zip(parts, starts, strict=False)])
        colors = np.concatenate([colors for _, _, colors in parts])
    except Exception as error:
        raise TurnaroundError("meshes.unreadable", f"{path.name} is not a mesh.", details=repr(error)) from error
    if path.suffix.lower() in (".glb", ".gltf", ".obj"):
        vertices = vertices @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    vertices *= 0.5 / max(float(np.linalg.norm(vertices, axis=1).max()), 1e-9)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32), colors)


def _part(scene: trimesh.Scene, node: str, linear: bool) -> tuple[NDArray, NDArray, NDArray[np.uint8]]:
    """One object of a scene where it stands there: vertices, faces, colours."""
    matrix, name = scene.graph[node]
    mesh: Any = scene.geometry[name]
    vertices = np.asarray(mesh.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return vertices, np.asarray(mesh.faces), _srgb_colors(mesh, linear=linear)


def _srgb_colors(mesh: Any, *, linear: bool) -> NDArray[np.uint8]:
    """Colours per vertex, uint8 [N, 4]; those of glTF's vertices are linear, those of its textures are not."""
    visual = mesh.visual
    if visual.kind is None:
        return np.full((len(mesh.vertices), 4), 200, np.uint8)
    if visual.kind == "texture" and (visual.uv is not None or "color" not in visual.vertex_attributes):
        colors = np.asarray(visual.to_color().vertex_colors, np.uint8)
        return colors if len(colors) == len(mesh.vertices) else np.full((len(mesh.vertices), 4), 200, np.uint8)
    stored = np.asarray(visual.vertex_attributes["color"] if visual.kind == "texture" else visual.vertex_colors)
    values = stored / np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else stored.astype(np.float64)
    if linear:
        values[:, :3] = srgb_from_linear(values[:, :3])
    return np.round(np.c_[values, np.ones((len(values), 4 - values.shape[1]))] * 255).astype(np.uint8)


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Points [count, 3] spread evenly over the mesh's area."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = rng.choice(len(corners), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    a, b, c = corners[chosen, 0], corners[chosen, 1], corners[chosen, 2]
    return (a + u * (b - a) + v * (c - a)).astype(np.float32)


def occupancy(mesh: Mesh, cells: int = FINE, half: float = GRID_HALF, *, seed: int = 0) -> NDArray[np.bool_]:
    """Whether each cell of [-half, half]^3 is in the solid, [cells, cells, cells], axes x, y, z.

    Half of all game props are not watertight, so a ray's parity says nothing. The surface is drawn into the grid
    instead, and what empty space cannot be reached from the border is inside; open sheets become one cell thick.
    """
    rng = np.random.default_rng(seed)
    area = float(trimesh.triangles.area(mesh.vertices[mesh.faces]).sum())
    count = int(np.clip(12 * area * (cells / (2 * half)) ** 2, 50_000, 600_000))
    index = ((sample_surface(mesh, count, rng) + half) * (cells / (2 * half))).astype(np.int32)
    shell = np.zeros((cells + 2,) * 3, bool)  # one empty cell around, so that outside is one component
    shell[tuple(np.clip(index, 0, cells - 1).T + 1)] = True
    labels, _ = ndimage.label(~shell)
    return np.asarray(labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]


def signed_distance(solid: NDArray[np.bool_], half: float = GRID_HALF) -> NDArray[np.int8]:
    """Signed distance at half the resolution of a solid, positive outside, int8 in units of TRUNCATION / 127.

    Returns:
        [n/2, n/2, n/2]: the mean over 2x2x2 cells, that is, the value at their common corner.
    """
    cell = 2 * half / len(solid)
    outside = ndimage.distance_transform_edt(~solid) - 0.5
    inside = ndimage.distance_transform_edt(solid) - 0.5
    distance = np.where(solid, -inside, outside) * cell
    n = len(solid) // 2
    distance = np.clip(distance, -TRUNCATION, TRUNCATION).reshape(n, 2, n, 2, n, 2).mean((1, 3, 5))
    return np.round(distance * (127 / TRUNCATION)).astype(np.int8)
