"""Meshes to files: PLY, OBJ and GLB, each in the axes that its readers expect.

Blender's importers, left at their defaults, turn every one of them back into the object frame (Z up, front to -Y):
PLY is read as it is; OBJ (-Z forward, Y up) and glTF (+Z front, Y up) through (x, y, z) -> (x, -z, y), so they are
written as (x, z, -y). That is a rotation: nothing is mirrored.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import trimesh
from numpy.typing import NDArray

from backend.geometry.mesh import Mesh
from protocol.errors import TurnaroundError

T = TypeVar("T")

Y_UP_FROM_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""(x, y, z) -> (x, z, -y), determinant +1."""

_GLTF_FLOAT, _GLTF_UINT16, _GLTF_UINT32 = 5126, 5123, 5125
_GLTF_VERTICES, _GLTF_INDICES = 34962, 34963


def write_mesh(mesh: Mesh, path: str | Path) -> Path:
    """Writes a mesh with its vertex colours; the suffix chooses the format: .ply, .obj or .glb.

    Missing folders are made. The file appears whole or not at all, and an older one stays until then.

    Args:
        mesh: in the object frame.
        path: where to.

    Returns:
        The path written.

    Raises:
        TurnaroundError: `export.format` for another suffix, `export.empty` for a mesh without faces,
            `export.disk_full`, and `export.failed` for any other reason that a file cannot be written.
    """
    path = Path(path)
    encode = encoder(path)
    if not len(mesh.faces):
        raise TurnaroundError("export.empty", "The mesh has no faces.", "Generate it again.", field="output")
    write_file(path, encode(mesh))
    return path


def encoder(path: Path) -> Callable[[Mesh], bytes]:
    """What turns a mesh into the bytes of a file of this name; asking early spares an hour's work for nothing.

    Raises:
        TurnaroundError: `export.format`.
    """
    return by_suffix(path, FORMATS, "Meshes")


def by_suffix(path: Path, formats: Mapping[str, T], things: str) -> T:
    """What a file's name asks for.

    Args:
        path: the file to write.
        formats: suffix, in small letters, -> what it stands for.
        things: what is written, for people, in the plural.

    Raises:
        TurnaroundError: `export.format`.
    """
    if path.suffix.lower() not in formats:
        raise TurnaroundError(
            "export.format",
            f'{things} cannot be written as "{path.suffix or path.name}".',
            f"Use one of {', '.join(formats)}.",
            field="output",
        )
    return formats[path.suffix.lower()]


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, making its folder if need be.

    Raises:
        TurnaroundError: `export.disk_full`, `export.failed`.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TurnaroundError(
                "export.disk_full",
                f'There is not enough space for "{path.name}" ({len(content) / 1e6:.1f} MB).',
                "Free some space or choose another folder; a file that was there before is unchanged.",
                field="output",
                details=str(error),
            ) from error
        raise TurnaroundError(
            "export.failed",
            f'"{path.name}" cannot be written: {(error.strerror or "unknown reason").lower()}.',
            "Choose another folder or name.",
            field="output",
            details=str(error),
        ) from error


def _ply(mesh: Mesh) -> bytes:
    return bytes(trimesh.exchange.ply.export_ply(_trimesh(mesh, mesh.vertices), vertex_normal=False))


def _obj(mesh: Mesh) -> bytes:
    """OBJ with sRGB colours after the coordinates, as Blender, MeshLab and ZBrush read them."""
    surface = _trimesh(mesh, mesh.vertices @ Y_UP_FROM_Z_UP.T)
    text = trimesh.exchange.obj.export_obj(surface, include_normals=False, include_color=True, header=None)
    return str(text).encode() + b"\n"


def _glb(mesh: Mesh) -> bytes:
    """Binary glTF 2.0 with one mesh, smooth normals, and COLOR_0 in linear light as the standard has it."""
    vertices = (mesh.vertices @ Y_UP_FROM_Z_UP.T).astype("<f4")
    normals = vertex_normals(vertices, mesh.faces).astype("<f4")
    blobs = [
        (vertices, _GLTF_FLOAT, "VEC3", "POSITION"),
        (normals, _GLTF_FLOAT, "VEC3", "NORMAL"),
        (linear_colors(mesh.colors), _GLTF_UINT16, "VEC4", "COLOR_0"),
        (mesh.faces.astype("<u4").reshape(-1), _GLTF_UINT32, "SCALAR", "indices"),
    ]
    views, accessors, offset = [], [], 0
    for index, (array, component, kind, name) in enumerate(blobs):
        target = _GLTF_INDICES if name == "indices" else _GLTF_VERTICES
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": target})
        accessor = {"bufferView": index, "componentType": component, "count": len(array), "type": kind}
        if name == "POSITION":
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        if name == "COLOR_0":
            accessor["normalized"] = True
        accessors.append(accessor)
        offset += array.nbytes  # all of them are multiples of 4 bytes
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}
    document = {
        "asset": {"version": "2.0", "generator": "Turnaround"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "Turnaround"}],
        "meshes": [{"primitives": [primitive], "name": "Turnaround"}],
        "materials": [{"name": "Turnaround", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    head = json.dumps(document, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    body = b"".join(array.tobytes() for array, *_ in blobs)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "little") + kind + content

    chunks = chunk(b"JSON", head) + chunk(b"BIN\0", body)
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks


FORMATS: dict[str, Callable[[Mesh], bytes]] = {".glb": _glb, ".ply": _ply, ".obj": _obj}
"""Suffix -> encoder."""


def linear_colors(colors: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """sRGB colours [N, 4] in linear light, 16 bits a channel so that dark tones keep their steps; alpha as it is."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    result = np.empty(colors.shape, "<u2")
    result[:, :3] = np.round(linear * 65_535).astype("<u2")[colors[:, :3]]
    result[:, 3] = colors[:, 3].astype("<u2") * 257
    return result


def vertex_normals(vertices: NDArray[np.floating], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """Unit normals [N, 3]: the area-weighted mean of the faces about each vertex, outward; +Z where there is none."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    of_faces = np.cross(b - a, c - a)
    normals = np.stack(
        [
            sum(np.bincount(faces[:, k], weights=of_faces[:, axis], minlength=len(vertices)) for k in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])


def _trimesh(mesh: Mesh, vertices: NDArray[np.floating]) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, mesh.faces, vertex_colors=mesh.colors, process=False)
