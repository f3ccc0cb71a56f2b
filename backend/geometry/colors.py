"""Vertex colours from pictures: each picture paints what it sees, the input picture over all the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from backend.geometry.cameras import Camera, project
from backend.geometry.export import vertex_normals
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.render import Scene, prepare, render
from backend.geometry.sampling import sampled

F32 = NDArray[np.float32]

Blend = Callable[[F32, F32], F32]
"""Surface points [N, 3] and their outward unit normals to colours [N, 3] in 0..1."""

GRAZING = (0.1, 0.45)
"""Cosines between normal and line of sight at which a picture begins to count, and counts fully."""

DEPTH_BIAS = 0.02
"""A vertex this far behind the nearest surface, in object units, still counts as seen."""

UNSEEN_PULL = 0.1
"""Of a vertex that nobody sees, towards the input picture's colour projected straight through."""

DEPTH_SIZE = 192
"""Side of the depth maps that decide what is seen, in pixels."""


@dataclass(frozen=True)
class Painted:
    """What one picture says of the vertices.

    Attributes:
        rgb: float32 [N, 3] in 0..1, sRGB; the picture projected straight through the shape.
        weight: float32 [N], 0 where the picture does not see the vertex, 1 where it sees it well.
        inside: float32 [N], the picture's alpha at the vertex.
    """

    rgb: F32
    weight: F32
    inside: F32


def project_picture(mesh: Mesh, scene: Scene, normals: F32, picture: NDArray[np.uint8], camera: Camera) -> Painted:
    """Looks every vertex up in a picture.

    Args:
        mesh: its colours are not looked at.
        scene: the mesh, prepared once for all pictures; decides what is in front.
        normals: unit [N, 3], outward.
        picture: uint8 [S, S, 4], straight alpha.
        camera: of the picture.
    """
    size = len(picture)
    pixels, depth = project(camera, mesh.vertices.astype(np.float64), size)
    premultiplied = picture.astype(np.float32) / 255
    premultiplied[..., :3] *= premultiplied[..., 3:]
    looked_up = sampled(premultiplied, pixels)
    alpha = looked_up[:, 3]
    rgb = looked_up[:, :3] / np.maximum(alpha, 1e-3)[:, None]
    nearest = render(scene, camera, DEPTH_SIZE, supersampling=1).depth
    # the nearest of the pixel and its neighbours: a silhouette's pixel may have missed the edge by a hair
    nearest = np.asarray(cv2.dilate(nearest, np.ones((3, 3), np.uint8)), np.float32)
    u, v = (np.clip(pixels / size * DEPTH_SIZE, 0, DEPTH_SIZE - 1)).astype(int).T
    seen = (depth <= nearest[v, u] + DEPTH_BIAS) & (alpha > 0.5)
    towards = camera.position - mesh.vertices
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    cosine = (normals * towards).sum(1)
    facing = np.clip((cosine - GRAZING[0]) / (GRAZING[1] - GRAZING[0]), 0, 1)
    return Painted(rgb, (seen * facing).astype(np.float32), alpha)


def paint(
    mesh: Mesh,
    picture: NDArray[np.uint8],
    camera: Camera,
    views: ViewSet | None = None,
    blend: Blend | None = None,
    trust: float = 1.0,
) -> Mesh:
    """The mesh in the pictures' colours.

    What the input picture sees takes its colours. The rest takes the drawn views' colours, weighted by how well each
    sees it, and what nobody sees takes the colour of its surroundings on the surface.

    Args:
        mesh: its colours are not looked at.
        picture: the framed input, uint8 [S, S, 4], any size.
        camera: of the input.
        views: drawn views; None or empty leaves the input's colours to spread, unless there is a blend.
        blend: gives the colours where drawn views see, in place of their weighted mean; with None for views, wherever
            the input does not see.
        trust: how far a vertex keeps the colour that drawn views give it; the rest is its surroundings', which takes
            off noise.
    """
    if not len(mesh.vertices):
        return mesh
    normals = vertex_normals(mesh.vertices, mesh.faces).astype(np.float32)
    scene = prepare(mesh)
    first = project_picture(mesh, scene, normals, picture, camera)
    total, known = np.zeros_like(first.rgb), np.zeros_like(first.weight)
    if views is not None:
        for image, view_camera in zip(views.images, views.cameras, strict=True):
            drawn = project_picture(mesh, scene, normals, image, view_camera)
            sharp = drawn.weight**2  # the view that looks straight at a place knows it best
            total += drawn.rgb * sharp[:, None]
            known += sharp
    elif blend is not None:
        known += 1
    others = total / np.maximum(known, 1e-6)[:, None]
    if blend is not None:
        hidden = (first.weight < 1) & (known > 0)
        others[hidden] = blend(mesh.vertices[hidden], normals[hidden])
    own, drawn_seen = first.weight, (1 - first.weight) * np.minimum(known * 4, 1)
    seen = own + drawn_seen
    rgb = (own[:, None] * first.rgb + drawn_seen[:, None] * others) / np.maximum(seen, 1e-6)[:, None]
    rgb = spread(mesh, rgb, own + trust * drawn_seen, straight_through(first), UNSEEN_PULL * (1 - seen))
    alpha = np.full((len(rgb), 1), 255, np.uint8)
    return Mesh(mesh.vertices, mesh.faces, np.hstack([np.round(rgb.clip(0, 1) * 255).astype(np.uint8), alpha]))


def straight_through(painted: Painted) -> F32:
    """The picture's colours on the far side too; where it shows no subject, the subject's mean colour."""
    visible = painted.weight > 0
    mean = painted.rgb[visible].mean(0) if visible.any() else np.full(3, 0.5, np.float32)
    return np.where((painted.inside > 0.5)[:, None], painted.rgb, mean).astype(np.float32)


def spread(mesh: Mesh, rgb: F32, trusted: F32, fallback: F32, pull: F32, rounds: int = 60) -> F32:
    """Colours of untrusted vertices relaxed between those of the trusted, by averaging over edges.

    Args:
        mesh: for its edges.
        rgb: [N, 3].
        trusted: [N] in 0..1, how much of its own colour a vertex keeps.
        fallback: [N, 3], a colour for what nobody sees.
        pull: [N] in 0..1, how strongly the fallback draws a vertex.
        rounds: of averaging; each reaches one edge further.
    """
    ends = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    ends = np.concatenate([ends, ends[:, ::-1]])
    count = len(mesh.vertices)
    neighbours = coo_array((np.ones(len(ends), np.float32), (ends[:, 0], ends[:, 1])), (count, count)).tocsr()
    degree = np.maximum(neighbours.sum(1), 1).astype(np.float32)[:, None]
    keep, pull = trusted[:, None], pull[:, None]
    x = np.where(keep > 0, rgb, fallback)
    for _ in range(rounds):
        x = keep * rgb + (1 - keep) * ((1 - pull) * (neighbours @ x) / degree + pull * fallback)
    return x.astype(np.float32)
