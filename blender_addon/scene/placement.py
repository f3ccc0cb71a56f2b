"""Where a result stands: at the 3D cursor, or where it covers its subject in the picture behind the scene's camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import bpy
import numpy as np
from mathutils import Matrix, Vector
from numpy.typing import NDArray

from ..protocol.messages import Framing, Report
from .cameras import PictureView, orbit_rotation
from .meshes import Base
from .silhouettes import Mask, best_similarity, overlap, rasterize

Array = NDArray[np.float64]

RASTER = 256
"""Side of the raster in which silhouettes are compared; it covers the framed square and half as much again."""
REACH = 1.5
SEARCH = (0.2, 0.08, 0.03, 0.03, 0.0)
"""How far each round looks for a better size; the last one only measures."""
SPACING = 1.25
"""Distance between neighbouring variants, in widths."""
LARGEST_HIDING_PLACE = 4.0
"""In sizes of what is hidden there."""


def at_cursor(cursor: Vector, index: int = 0, width: float = 0.0) -> Matrix:
    """Upright, its base at the cursor, its front to -Y; variant `index` stands that many widths to the right."""
    return Matrix.Translation(cursor + Vector((index * width * SPACING, 0.0, 0.0)))


def width(obj: bpy.types.Object) -> float:
    """How wide an object is along its own X."""
    xs = [corner[0] for corner in obj.bound_box]
    return max(xs) - min(xs)


def hiding(scene: bpy.types.Scene, cursor: Vector, size: float) -> str:
    """Name of a visible mesh that would hide a result of this size at the cursor, as Blender's first cube does; or "".

    What is much larger is a room, not a hiding place.
    """
    middle, half = cursor + Vector((0.0, 0.0, 0.5 * size)), 0.5 * size
    for obj in scene.objects:
        if obj.type != "MESH" or not obj.visible_get():
            continue
        corners = np.array([obj.matrix_world @ Vector(corner) for corner in obj.bound_box])
        low, high = corners.min(axis=0), corners.max(axis=0)
        around = (low <= np.array(middle) - half + 1e-6).all() and (high >= np.array(middle) + half - 1e-6).all()
        if around and (high - low).max() <= LARGEST_HIDING_PLACE * size:
            return obj.name
    return ""


@dataclass(frozen=True)
class Match:
    """A solved placement.

    Attributes:
        matrix: world_from_local of the object.
        overlap: intersection over union of its silhouette and the subject, 0..1.
    """

    matrix: Matrix
    overlap: float


@dataclass(frozen=True)
class _Pose:
    """Where the object frame's origin appears (pixels), its depth (world units), and world units per object unit."""

    x: float
    y: float
    depth: float
    scale: float


def match_camera(
    vertices: NDArray[np.float32],
    triangles: NDArray[np.int32],
    base: Base,
    report: Report,
    matte: Mask,
    view: PictureView,
    *,
    cursor: Vector | None = None,
) -> Match:
    """Turns, moves and scales a result so that through the scene's camera it covers the subject in the picture.

    The direction towards the framed square's centre fixes the turn: from there the object must look as it did to the
    report's camera. Along that ray every distance looks alike, with its own scale; the result keeps its size, unless
    `cursor` asks for the cursor's distance. A few rounds then take out what the two cameras' different perspectives
    leave, by comparing the silhouettes; the best round counts.

    Args:
        vertices: float32 [N, 3], in the mesh's own frame.
        triangles: int32 [M, 3].
        base: how that frame lies in the object frame.
        report: of the result.
        matte: bool [S, S], the subject in the framed square.
        view: the scene's camera and the picture.
        cursor: a point at whose distance the result is to stand.
    """
    framing = report.framing
    pose = _first_pose(report, base, view, cursor)
    subject = subject_raster(matte)
    frame_points = base.frame(vertices.astype(np.float64))
    cell = framing.side * REACH / RASTER  # in pixels of the picture
    middle = np.full(2, RASTER / 2)

    best: tuple[float, Array] | None = None
    for reach in SEARCH:
        world_from_frame = _world_from_frame(pose, report, view)
        shape = _silhouette(frame_points, triangles, world_from_frame, framing, view)
        score = overlap(shape, subject)
        if best is None or score > best[0]:
            best = score, world_from_frame
        if not shape.any() or not subject.any():
            break
        # The silhouette moves and grows about where the object's origin appears.
        pivot = middle + (np.array([pose.x, pose.y]) - (framing.center_x, framing.center_y)) / cell
        grow, shift = best_similarity(shape, subject, pivot, np.linspace(1 - reach, 1 + reach, 9))
        pose = replace(pose, x=pose.x + shift[0] * cell, y=pose.y + shift[1] * cell)
        # A closer object looks larger as well; an orthographic camera knows only the scale.
        keeps_size = cursor is None and not view.orthographic
        pose = replace(pose, depth=pose.depth / grow) if keeps_size else replace(pose, scale=pose.scale * grow)
    assert best is not None

    frame_from_local = np.diag([1 / base.scale, 1 / base.scale, 1 / base.scale, 1.0])
    frame_from_local[2, 3] = base.bottom
    return Match(Matrix((best[1] @ frame_from_local).tolist()), best[0])


def _first_pose(report: Report, base: Base, view: PictureView, cursor: Vector | None) -> _Pose:
    framing = report.framing
    half_at_origin = report.camera.distance * np.tan(np.radians(report.camera.fov_deg) / 2)  # object units
    half_in_view = 0.5 * framing.side * view.step[0]  # at depth 1; for an orthographic camera at every depth
    if cursor is not None:
        origin, _ = view.ray(framing.center_x, framing.center_y)
        depth = max(float((np.array(cursor) - origin) @ view.world_from_camera[:3, 2]), 1e-3)
    elif view.orthographic:
        depth = base.scale * report.camera.distance
    else:
        depth = base.scale * half_at_origin / half_in_view
    scale = half_in_view / half_at_origin * (1.0 if view.orthographic else depth)
    return _Pose(framing.center_x, framing.center_y, float(depth), float(scale))


def _world_from_frame(pose: _Pose, report: Report, view: PictureView) -> Array:
    """Similarity [4, 4] that sets the object frame's origin at the pose, turned as the report's camera saw it."""
    origin, direction = view.ray(pose.x, pose.y)
    forward = view.world_from_camera[:3, 2]
    matrix = np.eye(4)
    matrix[:3, :3] = pose.scale * view.looking_along(pose.x, pose.y) @ orbit_rotation(report.camera).T
    matrix[:3, 3] = origin + direction * pose.depth / (direction @ forward)
    return matrix


def _silhouette(
    points: Array, triangles: NDArray[np.int32], world_from_frame: Array, framing: Framing, view: PictureView
) -> Mask:
    pixels, depth = view.project(points @ world_from_frame[:3, :3].T + world_from_frame[:3, 3])
    corner = np.array([framing.center_x, framing.center_y]) - 0.5 * REACH * framing.side
    cells = (pixels - corner) * (RASTER / (REACH * framing.side))
    cells[depth <= 0.0] = np.nan
    return rasterize(cells, triangles, RASTER)


def subject_raster(matte: Mask) -> Mask:
    """The matte of the framed square in the middle of the raster that silhouettes are compared in."""
    inner = int(RASTER / REACH)
    cells = ((np.arange(inner) + 0.5) * len(matte) / inner).astype(int)
    raster = np.zeros((RASTER, RASTER), dtype=bool)
    start = (RASTER - inner) // 2
    raster[start : start + inner, start : start + inner] = matte[cells[:, None], cells]
    return raster
