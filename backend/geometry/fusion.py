"""Depth and colour maps from all around, fused into one signed distance with colours: how Gaussians become a mesh.

Curless and Levoy (1996), A Volumetric Method for Building Complex Models from Range Images: a truncated signed
distance is averaged over the cameras, what they see through is carved away, and what none of them sees into counts as
inside, so that the surface is closed. There is no volume here: the average is taken where somebody asks for it, which
marching cubes does near the surface only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backend.geometry.batched import camera_tensor, intrinsics, world_from_camera
from backend.geometry.cameras import Camera
from backend.geometry.cleanup import clean
from backend.geometry.export import vertex_normals
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.render import render
from backend.geometry.mesh import Mesh
from backend.geometry.meshing import extract_surface
from protocol.errors import TurnaroundError

F32 = NDArray[np.float32]

IN_FRONT, BEHIND = 3.0, 1.5
"""Cells from a surface over which its distance is believed; fewer behind, as a thin part's other side is near there."""

EMPTY_WEIGHT = 0.25
"""Of a camera that sees past a place, against 1 of one that sees a surface there face on."""

HIDDEN_WEIGHT = 0.01
"""Of a camera that has a surface in front: so few that see through a crack between splats do not hollow a shape out."""

OPAQUE = 0.5
"""Alpha from which on a pixel shows a surface."""

EDGE = 3.0
"""Cells between neighbouring pixels' depths from which on they are of two surfaces."""

COLOR_REACH = 2.0
"""Cells from a surface within which a place takes its colour."""

STEEPEST = 0.1
"""A surface is not taken to be more edge-on than this cosine."""

PIXELS_PER_CELL = 1.25
"""Of the maps that Gaussians are drawn to."""

VIEWS_AT_ONCE = 4
"""Cameras that Gaussians are projected for together; more take more memory and no less time."""

CHUNK = 1 << 13
"""Points per call of the compiled loops: what they sum up stays in the processor's cache."""


@dataclass(frozen=True)
class FusedField:
    """What cameras all around see, as a signed distance; follows `backend.reconstructors.base.Field`.

    Attributes:
        half: the shape lies within [-half, half]^3 of the object frame.
        cell: what distances are truncated by, in object units.
        depths: float32 [V, S, S] along the view axis, 0 where there is nothing.
        slopes: float32 [V, S, S], see `_slopes`.
        rgb: float32 [V, S, S, 3] in 0..1.
        image_from_world: float32 [V, 3, 4].
    """

    half: float
    cell: float
    depths: F32
    slopes: F32
    rgb: F32
    image_from_world: F32

    def distance(self, points: F32) -> F32:
        """Signed distance [N], positive outside, at points [N, 3]; truncated at `IN_FRONT` cells."""

        def some(part: F32) -> F32:
            return _distance(part, self.depths, self.slopes, self.image_from_world, np.float32(self.cell))

        return _in_chunks(some, points)

    def colors(self, points: F32, normals: F32 | None = None) -> F32:
        """Colours [N, 3] in 0..1 at points [N, 3] on the surface; what no camera sees takes the nearest seen one's.

        Args:
            points: in the object frame.
            normals: outward, [N, 3]; keep a thin part's sides apart, as only cameras on their side count.
        """
        if normals is None:
            normals = np.zeros_like(points)
        inverse = np.linalg.inv(self.image_from_world[:, :, :3])
        centers = -(inverse @ self.image_from_world[:, :, 3:])[..., 0]

        def some(part: F32) -> F32:
            maps = (self.depths, self.slopes, self.rgb, self.image_from_world, centers)
            return _color(part[:, :3], part[:, 3:], *maps, np.float32(self.cell))

        rgbw = _in_chunks(some, np.hstack([points, normals]))
        seen = rgbw[:, 3] > 0
        if not seen.any():
            return np.broadcast_to(self.rgb[self.depths > 0].mean(0), (len(points), 3)).astype(np.float32)
        rgb = rgbw[:, :3] / np.maximum(rgbw[:, 3:], 1e-12)
        if not seen.all():
            rgb[~seen] = rgb[seen][cKDTree(points[seen]).query(points[~seen])[1]]
        return rgb

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `Field`."""
        return {name: np.asarray(value) for name, value in vars(self).items()}


def sphere_cameras(count: int, half: float, lowest_deg: float = -90.0) -> tuple[Camera, ...]:
    """Cameras about the ball of radius `half`, each of which just sees it whole.

    They are spread evenly (a Fibonacci lattice) over directions from `lowest_deg` below the horizon to straight above.
    """
    distance = 5 * half
    fov = 2 * float(np.degrees(np.arcsin(1.04 * half / distance)))
    heights = 1 - (2 * np.arange(count) + 1) / (2 * count) * (1 - np.sin(np.radians(lowest_deg)))
    turns = np.arange(count) * 180 * (3 - np.sqrt(5))
    elevations = np.degrees(np.arcsin(heights))
    return tuple(Camera(float(e), float(a % 360), distance, fov) for e, a in zip(elevations, turns, strict=True))


def fuse(gaussians: Gaussians, cells: int, half: float, *, views: int = 32, lowest_deg: float = -90.0) -> FusedField:
    """The shape of Gaussians: what is opaque to cameras all around.

    Args:
        gaussians: without batch dimensions, in the object frame, on any device. Of those outside the ball of radius
            `half` little is left.
        cells: fineness, along each side of the cube.
        half: half the cube's side.
        views: cameras to look at them from.
        lowest_deg: elevation of the lowest of these. Where no picture has ever shown the underside there are no
            Gaussians, and a camera from below would see into the shape and hollow it out.

    Raises:
        TurnaroundError: `shape.empty`, nothing of them is opaque.
    """
    cameras = sphere_cameras(views, half, lowest_deg)
    size = round(PIXELS_PER_CELL * cells)
    tensor = camera_tensor(cameras).to(gaussians.means)
    parts = []
    with torch.inference_mode():
        for some in tensor.split(VIEWS_AT_ONCE):
            drawn = render(gaussians, world_from_camera(some), intrinsics(some, size), size, background=0.0)
            weight = drawn.alphas.clamp_min(1e-6)
            parts.append((drawn.depths / weight, drawn.colors / weight[..., None], drawn.alphas))
    depths, colors, alphas = (torch.cat(part).float().cpu().numpy() for part in zip(*parts, strict=True))
    return fuse_maps(depths, colors, alphas, cameras, cells, half)


def coarse_mesh(
    gaussians: Gaussians, half: float = 0.55, *, cells: int = 40, views: int = 12, lowest_deg: float = -90.0
) -> Mesh:
    """A small mesh of Gaussians in a tenth of a second, in their colours: to watch a shape form.

    Args: see `fuse`.

    Raises:
        TurnaroundError: `shape.empty`, nothing of them is opaque.
    """
    field = fuse(gaussians, cells, half, views=views, lowest_deg=lowest_deg)
    vertices, faces = extract_surface(field.distance, cells, ((-half,) * 3, (half,) * 3))
    grey = np.full((len(vertices), 4), 255, np.uint8)
    mesh = clean(Mesh(vertices, faces, grey), keep_fraction=0.02, smooth_steps=2)
    normals = vertex_normals(mesh.vertices, mesh.faces).astype(np.float32)
    mesh.colors[:, :3] = np.round(255 * field.colors(mesh.vertices, normals).clip(0, 1)).astype(np.uint8)
    return mesh


def fuse_maps(depths: F32, colors: F32, alphas: F32, cameras: Sequence[Camera], cells: int, half: float) -> FusedField:
    """One field of what many cameras see.

    Args:
        depths: [V, S, S] along the view axis in object units; looked at where alpha is at least a half.
        colors: [V, S, S, 3] in 0..1, not multiplied by alpha.
        alphas: [V, S, S] in 0..1.
        cameras: V of them. What none of them has in its picture is outside.
        cells: fineness, along each side of the cube: that of the maps, and of the marching cubes to come.
        half: half the cube's side.

    Raises:
        TurnaroundError: `shape.empty`, no camera sees anything.
    """
    opaque = alphas >= OPAQUE
    if not opaque.any():
        raise TurnaroundError(
            "shape.empty",
            "Nothing was found in the picture.",
            "Try another seed, or a picture in which the object is larger and stands out from its background.",
        )
    cell, size = 2 * half / cells, depths.shape[-1]
    depths = np.where(opaque, depths, 0).astype(np.float32)
    slopes = np.stack([_slopes(depth, camera, EDGE * cell) for depth, camera in zip(depths, cameras, strict=True)])
    matrices = np.stack([camera.image_from_world(size) for camera in cameras]).astype(np.float32)
    return FusedField(half, cell, depths, slopes, np.ascontiguousarray(colors, np.float32), matrices)


def _slopes(depth: F32, camera: Camera, edge: float) -> F32:
    """[S, S]: how far a surface is from a point in front of it, for each unit of depth between them; 0 at its edges.

    That is the cosine between line of sight and normal times the length of the ray to depth 1.
    """
    size = len(depth)
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5 - size / 2) / np.float32(camera.focal(size))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1)
    points = rays * depth[..., None]
    normal = np.cross(_difference(points, 1, edge), _difference(points, 0, edge))
    length = np.linalg.norm(normal, axis=-1)
    return np.asarray(np.abs((normal * rays).sum(-1)) / np.maximum(length, 1e-12), np.float32)


def _difference(points: F32, axis: int, edge: float) -> F32:
    """Between the neighbours behind and ahead, [S, S, 3]; of a neighbour beyond an edge the place itself is taken."""
    ahead = np.diff(points, axis=axis)
    ahead *= np.abs(ahead[..., 2:]) < edge
    none = np.zeros_like(np.take(points, [0], axis))
    return np.concatenate([none, ahead], axis) + np.concatenate([ahead, none], axis)


def _in_chunks(function: Callable[[F32], F32], points: F32) -> F32:
    """`function` of all points, on as many threads as torch may use; it must let go of the interpreter's lock."""
    points = np.ascontiguousarray(points, np.float32)
    parts = np.array_split(points, max(1, len(points) // CHUNK))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.concatenate(list(pool.map(function, parts)))


@njit(cache=True, nogil=True, error_model="numpy")
def _between(depth: F32, px: np.float32, py: np.float32, edge: np.float32) -> np.float32:
    """A map's depth at a place in pixels, between the nearest four if they are of one surface, else the nearest."""
    size = depth.shape[0]
    left, top = max(int(px - 0.5), 0), max(int(py - 0.5), 0)
    right, bottom = min(left + 1, size - 1), min(top + 1, size - 1)
    a, b, c, d = depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]
    if max(max(a, b), max(c, d)) - min(min(a, b), min(c, d)) >= edge:
        return depth[int(py), int(px)]
    u = min(max(px - left - np.float32(0.5), np.float32(0)), np.float32(1))
    v = min(max(py - top - np.float32(0.5), np.float32(0)), np.float32(1))
    return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)


@njit(cache=True, nogil=True, error_model="numpy")
def _distance(points: F32, depths: F32, slopes: F32, matrices: F32, cell: np.float32) -> F32:
    """The signed distances [N] of `FusedField.distance`."""
    count, size = depths.shape[0], depths.shape[1]
    front, back, edge = np.float32(IN_FRONT) * cell, np.float32(BEHIND) * cell, np.float32(EDGE) * cell
    empty, hidden = np.float32(EMPTY_WEIGHT), np.float32(HIDDEN_WEIGHT)
    total, weights = np.zeros(len(points), np.float32), np.zeros(len(points), np.float32)
    for view in range(count):
        m, depth_map, slope_map = matrices[view], depths[view], slopes[view]
        for n in range(len(points)):
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            px = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
            py = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
            if not (0 <= px < size and 0 <= py < size):
                continue
            nearest = depth_map[int(py), int(px)]
            if nearest == 0:
                total[n] += empty * front
                weights[n] += empty
                continue
            slope = slope_map[int(py), int(px)]
            gap = (_between(depth_map, px, py, edge) - w) * max(slope, np.float32(STEEPEST))
            if gap < -back:
                total[n] -= hidden * front
                weights[n] += hidden
            elif gap > front:
                total[n] += empty * front
                weights[n] += empty
            else:
                weight = slope * slope + np.float32(1e-3)
                total[n] += weight * gap
                weights[n] += weight
    for n in range(len(points)):
        total[n] = total[n] / weights[n] if weights[n] > 0 else front
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _color(
    points: F32,
    normals: F32,
    depths: F32,
    slopes: F32,
    rgb: F32,
    matrices: F32,
    centers: F32,
    cell: np.float32,
) -> F32:
    """Colours times weights, and the weights, [N, 4]: cameras that see a place face on count most."""
    count, size = depths.shape[0], depths.shape[1]
    reach = np.float32(COLOR_REACH) * cell
    result = np.zeros((len(points), 4), np.float32)
    for view in range(count):
        m, center = matrices[view], centers[view]
        for n in range(len(points)):
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            nx, ny, nz = normals[n, 0], normals[n, 1], normals[n, 2]
            if nx * (center[0] - x) + ny * (center[1] - y) + nz * (center[2] - z) < 0:
                continue
            w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            px = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
            py = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
            if not (0 <= px < size and 0 <= py < size):
                continue
            column, row = int(px), int(py)
            slope = slopes[view, row, column]
            if depths[view, row, column] > 0 and abs(depths[view, row, column] - w) * slope < reach:
                weight = slope * slope * slope * slope
                for channel in range(3):
                    result[n, channel] += weight * rgb[view, row, column, channel]
                result[n, 3] += weight
    return result
