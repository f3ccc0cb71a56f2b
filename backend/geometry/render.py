"""A z-buffer renderer for previews, feedback maps, training pictures and evaluation: RGBA and depth of a mesh.

Written for throughput on a CPU without a window: several hundred shaded 64x64 pictures a second on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """One distant light and an ambient term.

    Attributes:
        azimuth_deg, elevation_deg: where the light stands, as for an orbit camera.
        ambient: share of the light that comes from everywhere, 0..1.
    """

    azimuth_deg: float = -35.0
    elevation_deg: float = 50.0
    ambient: float = 0.5

    @property
    def direction(self) -> NDArray[np.float64]:
        """Unit vector towards the light in the object frame, [3]."""
        return Camera(self.elevation_deg, self.azimuth_deg, 1.0, 40.0).position


@dataclass(frozen=True)
class Rendering:
    """What the renderer sees.

    Attributes:
        rgba: uint8 [S, S, 4], straight-alpha sRGB.
        depth: float32 [S, S], distance along the view axis in object units; 0 where there is nothing.
    """

    rgba: NDArray[np.uint8]
    depth: F32


@dataclass(frozen=True)
class Scene:
    """A mesh made ready for rendering.

    Attributes:
        corners: float32 [M, 3, 3], positions of the faces' corners.
        normals: float32 [M, 3, 3], unit normals of the corners.
        albedo: float32 [M, 3, 3], linear RGB of the corners.
    """

    corners: F32
    normals: F32
    albedo: F32

    def transformed(self, rotation: NDArray[np.float64], scale: float, translation: NDArray[np.float64]) -> Scene:
        """The scene after x -> scale * rotation @ x + translation."""
        return Scene(
            (scale * self.corners @ rotation.T + translation).astype(np.float32),
            (self.normals @ rotation.T).astype(np.float32),
            self.albedo,
        )


def linear_from_srgb(srgb: NDArray) -> NDArray:
    """IEC 61966-2-1 decoding of values in 0..1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: NDArray) -> NDArray:
    """IEC 61966-2-1 encoding of values in 0..1."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def prepare(mesh: Mesh, crease_deg: float = 40.0) -> Scene:
    """Corner normals (smooth below the crease angle) and linear colours of a mesh."""
    corners = mesh.vertices[mesh.faces].astype(np.float32)
    if not len(corners):
        return Scene(corners, corners, corners)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(face_normals, axis=1, keepdims=True)
    keep = area[:, 0] > 1e-12
    corners, face_normals, area = corners[keep], face_normals[keep], area[keep]
    faces = mesh.faces[keep]
    # vertices at one position with different colours are one vertex to a normal
    _, welded = np.unique(np.round(mesh.vertices, 5), axis=0, return_inverse=True)
    welded_faces = welded.reshape(-1)[faces].astype(np.int64)
    order = np.argsort(welded_faces.reshape(-1), kind="stable")
    starts = np.searchsorted(welded_faces.reshape(-1)[order], np.arange(int(welded.max(initial=0)) + 2))
    normals = _corner_normals(
        (face_normals / area).astype(np.float32),
        area[:, 0].astype(np.float32),
        welded_faces,
        order,
        starts,
        np.float32(np.cos(np.radians(crease_deg))),
    )
    albedo = linear_from_srgb(mesh.colors[:, :3] / 255.0).astype(np.float32)[faces]
    return Scene(corners, normals, albedo)


@njit(cache=True, nogil=True)
def _corner_normals(
    normals: NDArray, area: NDArray, welded_faces: NDArray, order: NDArray, starts: NDArray, cosine: np.float32
) -> NDArray:
    result = np.empty((len(normals), 3, 3), np.float32)
    for face in range(len(normals)):
        n = normals[face]
        for corner in range(3):
            total = np.zeros(3, np.float32)
            vertex = welded_faces[face, corner]
            for entry in range(starts[vertex], starts[vertex + 1]):
                other = order[entry] // 3
                m = normals[other]
                if n[0] * m[0] + n[1] * m[1] + n[2] * m[2] >= cosine:
                    total += m * area[other]
            length = np.sqrt((total * total).sum())
            result[face, corner] = total / length if length > 0 else n
    return result


@njit(cache=True, nogil=True)
def _rasterise(
    pixels: NDArray, depths: NDArray, normals: NDArray, albedo: NDArray, size: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Nearest surface of each pixel: inverse depth, normal and linear albedo, perspective-correct."""
    inverse_depth = np.zeros((size, size), np.float32)
    normal = np.zeros((size, size, 3), np.float32)
    color = np.zeros((size, size, 3), np.float32)
    for face in range(len(pixels)):
        if depths[face].min() <= 1e-3:
            continue
        x0, y0 = pixels[face, 0]
        x1, y1 = pixels[face, 1]
        x2, y2 = pixels[face, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-12:
            continue
        left = max(0, int(np.floor(min(x0, x1, x2) - 0.5)))
        right = min(size - 1, int(np.ceil(max(x0, x1, x2) - 0.5)))
        top = max(0, int(np.floor(min(y0, y1, y2) - 0.5)))
        bottom = min(size - 1, int(np.ceil(max(y0, y1, y2) - 0.5)))
        i0, i1, i2 = 1 / depths[face, 0], 1 / depths[face, 1], 1 / depths[face, 2]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                a = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) / area
                b = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) / area
                c = 1.0 - a - b
                if a < -1e-9 or b < -1e-9 or c < -1e-9:  # rounding must not open cracks between neighbours
                    continue
                inverse = a * i0 + b * i1 + c * i2
                if inverse <= inverse_depth[y, x]:
                    continue
                inverse_depth[y, x] = inverse
                a, b, c = a * i0 / inverse, b * i1 / inverse, c * i2 / inverse
                for k in range(3):
                    normal[y, x, k] = a * normals[face, 0, k] + b * normals[face, 1, k] + c * normals[face, 2, k]
                    color[y, x, k] = a * albedo[face, 0, k] + b * albedo[face, 1, k] + c * albedo[face, 2, k]
    return inverse_depth, normal, color


def render(scene: Scene, camera: Camera, size: int, light: Light | None = None, *, supersampling: int = 2) -> Rendering:
    """Draws a scene.

    Args:
        scene: from `prepare`.
        camera: where from.
        size: side of the square picture in pixels.
        light: None draws the albedo as it is, which is what a vertex-coloured result wants.
        supersampling: samples per pixel and axis; depth is taken from the nearest of them.
    """
    fine = size * supersampling
    matrix = camera.image_from_world(fine)
    uvw = scene.corners.reshape(-1, 3).astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]
    depths = uvw[:, 2].reshape(-1, 3)
    pixels = (uvw[:, :2] / np.maximum(uvw[:, 2:], 1e-6)).reshape(-1, 3, 2)
    inverse, normal, color = _rasterise(pixels, depths, scene.normals, scene.albedo, fine)
    hit = inverse > 0
    if light is not None:
        color = _shade(color, normal, hit, camera, light)
    alpha = hit.astype(np.float32).reshape(size, supersampling, size, supersampling).mean((1, 3))
    total = (color * hit[..., None]).reshape(size, supersampling, size, supersampling, 3).mean((1, 3))
    rgb = srgb_from_linear(total / np.maximum(alpha, 1e-6)[..., None])
    rgba = np.concatenate([rgb * (alpha > 0)[..., None], alpha[..., None]], -1)
    nearest = inverse.reshape(size, supersampling, size, supersampling).max((1, 3))
    depth = np.where(nearest > 0, 1 / np.maximum(nearest, 1e-6), 0).astype(np.float32)
    return Rendering(np.round(rgba * 255).astype(np.uint8), depth)


def _shade(color: F32, normal: F32, hit: NDArray[np.bool_], camera: Camera, light: Light) -> F32:
    # sheets are seen from both sides: a normal that looks away is turned towards the camera
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    towards = camera.position / np.linalg.norm(camera.position)
    normal = np.where((normal @ towards)[..., None] < 0, -normal, normal)
    diffuse = np.maximum(normal @ light.direction, 0)
    sky = 0.5 + 0.5 * normal[..., 2]
    strength = light.ambient * (0.6 + 0.4 * sky) + 1.15 * (1 - light.ambient) * diffuse
    return (color * strength[..., None] * hit[..., None]).astype(np.float32)
