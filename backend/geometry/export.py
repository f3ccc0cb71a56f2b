"""Meshes as files that other programs read: GLB, PLY and OBJ, colours included, nothing mirrored.

PLY has no convention of its own and stays in the object frame, Z up. glTF demands, and OBJ is everywhere taken to
mean, Y up with the front towards +Z: (x, y, z) -> (x, z, -y), a turn about X and no mirror.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from backend.geometry.mesh import Mesh
from protocol.errors import TurnaroundError

FORMATS = (".glb", ".ply", ".obj")

Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Rotation from the object frame to glTF's, [3, 3]."""


def check_format(path: Path) -> None:
    """Makes sure that a mesh can be written under this name.

    Raises:
        TurnaroundError: `export.format`.
    """
    if path.suffix.lower() not in FORMATS:
        raise TurnaroundError(
            "export.format",
            f'"{path.name}" names no kind of mesh file that can be written.',
            f"Let it end with one of: {', '.join(FORMATS)}.",
            field="output",
        )


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Writes a mesh in the format that the file's name ends with; a reader sees the whole file or none.

    Raises:
        TurnaroundError: `export.format`, or `export.failed` if the disk is full or the folder cannot be written.
    """
    check_format(path)
    write_file(path, {".glb": glb, ".ply": ply, ".obj": obj}[path.suffix.lower()](mesh))


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, making its folder if need be.

    Raises:
        TurnaroundError: `export.failed`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TurnaroundError(
            "export.failed",
            f'"{path.name}" could not be written: {error.strerror or "the system refused"}.',
            "Free some space or choose another folder, then try again.",
            field="output",
            details=str(error),
        ) from error


def ply(mesh: Mesh) -> bytes:
    """Binary PLY in the object frame, sRGB vertex colours."""
    content = _trimesh(mesh, np.eye(3)).export(file_type="ply", encoding="binary", vertex_normal=False)
    assert isinstance(content, bytes)
    return content


def obj(mesh: Mesh) -> bytes:
    """OBJ, Y up, sRGB colours after the coordinates of each vertex, as Blender and most others write and read them."""
    text = _trimesh(mesh, Y_UP).export(file_type="obj", include_normals=False, include_color=True, header="Turnaround")
    return str(text).encode()


def glb(mesh: Mesh) -> bytes:
    """Binary glTF 2.0, Y up, with a rough, non-metallic material.

    Colours are linear in glTF (section 3.7.2.1); 16 bits keep the dark ones apart, which 8 linear bits would not.
    """
    vertices = (mesh.vertices @ Y_UP.T).astype("<f4")
    parts = [vertices.tobytes(), _linear(mesh.colors).astype("<u2").tobytes(), mesh.faces.astype("<u4").tobytes()]
    offsets = np.cumsum([0] + [len(part) for part in parts]).tolist()
    views = [
        {"buffer": 0, "byteOffset": offset, "byteLength": len(part), "target": target}
        for offset, part, target in zip(offsets, parts, (34962, 34962, 34963), strict=False)
    ]
    tree = {
        "asset": {"version": "2.0", "generator": "Turnaround"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "Turnaround"}],
        "materials": [
            {"name": "Turnaround", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}},
        ],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]},
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": len(vertices),
                "type": "VEC3",
                "min": vertices.min(axis=0).tolist(),
                "max": vertices.max(axis=0).tolist(),
            },
            {"bufferView": 1, "componentType": 5123, "normalized": True, "count": len(vertices), "type": "VEC4"},
            {"bufferView": 2, "componentType": 5125, "count": mesh.faces.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": offsets[-1]}],
    }
    header = json.dumps(tree, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 4)
    body = b"".join(parts)
    body += b"\0" * (-len(body) % 4)
    chunks = struct.pack("<I4s", len(header), b"JSON") + header + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB bytes [N, 4] as linear values of 16 bits (IEC 61966-2-1); alpha is linear already."""
    values = colors / 255.0
    rgb = values[:, :3]
    values[:, :3] = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.round(values * 65_535)


def _trimesh(mesh: Mesh, rotation: NDArray[np.float64]) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices @ rotation.T, mesh.faces, vertex_colors=mesh.colors, process=False)
