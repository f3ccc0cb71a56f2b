"""Arrays to mesh datablocks, at the speed of `foreach_set`."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import TurnaroundError
from .colors import LINEAR_OF_BYTE, srgb_from_linear

COLOR_ATTRIBUTE = "Color"


@dataclass(frozen=True)
class Base:
    """Where the mesh's own frame lies in the backend's object frame: `local = scale * (frame - (0, 0, bottom))`.

    The origin is at the base, below the axis that the pictures were drawn around, so that an object stands where it
    is put.
    """

    scale: float = 1.0
    bottom: float = 0.0

    def local(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Points [N, 3] of the object frame in the mesh's own frame."""
        return (points - np.array([0.0, 0.0, self.bottom], dtype=points.dtype)) * self.scale

    def frame(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Points [N, 3] of the mesh's own frame in the object frame."""
        return points / self.scale + np.array([0.0, 0.0, self.bottom], dtype=points.dtype)


def base_of(vertices: NDArray[np.float32], height: float) -> Base:
    """The base that sets vertices [N, 3] of the object frame on the ground; `height` metres tall, 0 as they are."""
    low, high = float(vertices[:, 2].min()), float(vertices[:, 2].max())
    return Base(height / (high - low) if height > 0.0 and high > low else 1.0, low)


def check(vertices: NDArray[np.float32], faces: NDArray[np.int32], colors: NDArray[np.uint8] | None) -> None:
    """Whether the arrays can safely become a mesh: Blender would crash on an index out of range.

    Raises:
        TurnaroundError: `result.invalid`.
    """
    sound = (
        vertices.ndim == 2
        and vertices.shape[1] == 3
        and len(vertices) > 0
        and faces.ndim == 2
        and faces.shape[1] == 3
        and (not faces.size or (faces.min() >= 0 and faces.max() < len(vertices)))
        and (colors is None or colors.shape == (len(vertices), 4))
        and bool(np.isfinite(vertices).all())
    )
    if not sound:
        raise TurnaroundError(
            "result.invalid",
            "The backend sent a damaged mesh.",
            "Generate again; if it happens twice, update the backend.",
            details=f"vertices {vertices.shape}, faces {faces.shape}",
        )


def build(
    name: str, vertices: NDArray[np.float32], faces: NDArray[np.int32], colors: NDArray[np.uint8] | None
) -> bpy.types.Mesh:
    """A new smooth-shaded mesh with a point colour attribute that Solid and rendered views show.

    Args:
        name: of the datablock.
        vertices: float32 [N, 3], in the mesh's own frame.
        faces: int32 [M, 3], counter-clockwise seen from outside; may be empty for a point cloud.
        colors: uint8 [N, 4] sRGB, or None for white.

    Raises:
        TurnaroundError: `result.invalid`.
    """
    check(vertices, faces, colors)
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(vertices))
    mesh.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(vertices, dtype=np.float32).ravel())
    if len(faces):
        mesh.loops.add(faces.size)
        mesh.polygons.add(len(faces))
        mesh.attributes[".corner_vert"].data.foreach_set("value", np.ascontiguousarray(faces, dtype=np.int32).ravel())
        mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    if colors is not None:
        linear = np.empty(colors.shape, dtype=np.float32)
        np.take(LINEAR_OF_BYTE, colors[:, :3], out=linear[:, :3])
        linear[:, 3] = colors[:, 3] / np.float32(255.0)
        attribute = mesh.color_attributes.new(COLOR_ATTRIBUTE, "FLOAT_COLOR", "POINT")
        attribute.data.foreach_set("color", linear.ravel())
        mesh.color_attributes.active_color = mesh.color_attributes[COLOR_ATTRIBUTE]
        mesh.color_attributes.render_color_index = mesh.color_attributes.active_color_index
    mesh.update(calc_edges=True)
    return mesh


def vertices_of(mesh: bpy.types.Mesh) -> NDArray[np.float32]:
    """Vertex positions, float32 [N, 3], in the mesh's own frame."""
    flat = np.empty(3 * len(mesh.vertices), dtype=np.float32)
    mesh.attributes["position"].data.foreach_get("vector", flat)
    return flat.reshape(-1, 3)


def triangles_of(mesh: bpy.types.Mesh) -> NDArray[np.int32]:
    """Triangles, int32 [M, 3]; an artist may have edited the mesh, so that they are asked for."""
    mesh.calc_loop_triangles()
    flat = np.empty(3 * len(mesh.loop_triangles), dtype=np.int32)
    mesh.loop_triangles.foreach_get("vertices", flat)
    return flat.reshape(-1, 3)


def colors_of(mesh: bpy.types.Mesh) -> NDArray[np.uint8]:
    """Vertex colours, uint8 [N, 4] sRGB, of a mesh that `build` made."""
    data = mesh.color_attributes[COLOR_ATTRIBUTE].data
    flat = np.empty(4 * len(data), dtype=np.float32)
    data.foreach_get("color", flat)
    linear = flat.reshape(-1, 4)
    out = np.empty(linear.shape, dtype=np.uint8)
    out[:, :3] = srgb_from_linear(linear[:, :3]) * 255.0 + 0.5
    out[:, 3] = np.clip(linear[:, 3], 0.0, 1.0) * 255.0 + 0.5
    return out
