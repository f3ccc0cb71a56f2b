"""The shipped engine from a picture to a mesh, by the installed add-on. Runs inside Blender."""

from __future__ import annotations

import math
import os
import time
from importlib import import_module
from pathlib import Path

import bpy
import numpy as np

PACKAGE = "bl_ext.user_default.turnaround"
session, engines = (import_module(f"{PACKAGE}.{name}") for name in ("session", "engines"))
cameras, images, meshes, silhouettes, stamps = (
    import_module(f"{PACKAGE}.scene.{name}") for name in ("cameras", "images", "meshes", "silhouettes", "stamps")
)

PICTURE = Path(os.environ["EXAMPLES"]) / "armchair.png"


def wait(done, seconds=240.0):
    """Calls the tick as Blender's timer would, until `done()`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, session.current().details() or session.current().link.status()
        time.sleep(min(session.current().tick(), 0.05))
    assert session.current().problem is None, session.current().details()


def idle():
    return session.current().job is None


def result():
    (obj,) = [obj for obj in bpy.data.objects if stamps.stamp_of(obj)]
    return obj, stamps.stamp_of(obj)


def seen_by_the_reports_camera(obj, stamp):
    """The object's vertices in the picture, [N, 2] pixels, and their depths."""
    camera = stamp.report.camera
    e = math.radians(camera.elevation_deg)
    points = stamp.base.frame(meshes.vertices_of(obj.data).astype(np.float64))
    position = camera.distance * np.array([0.0, -math.cos(e), math.sin(e)])
    local = (points - position) @ cameras.orbit_rotation(camera)
    framing = stamp.report.framing
    focal = 0.5 * framing.side / math.tan(math.radians(camera.fov_deg) / 2)
    return local[:, :2] / local[:, 2:] * focal + (framing.center_x, framing.center_y), local[:, 2]


def test_picture_becomes_a_mesh_of_its_shape_and_colours():
    bpy.context.preferences.addons[PACKAGE].preferences.python = os.environ["BACKEND_PROGRAM"]
    settings = bpy.context.scene.turnaround
    settings.engine_name, settings.quality, settings.seed = "one2345", "DRAFT", 0
    settings.picture = bpy.data.images.load(str(PICTURE))
    bpy.ops.ed.undo_push(message="Before")
    assert bpy.ops.turnaround.generate() == {"FINISHED"}, session.current().details()
    wait(lambda: engines.offered())
    assert engines.offered()["one2345"].ready, engines.offered()["one2345"].hint
    wait(idle)

    obj, stamp = result()
    vertices = meshes.vertices_of(obj.data)
    assert len(vertices) > 500
    assert stamp.report.elevation_source == "estimated"
    assert abs(vertices[:, 2].min()) < 1e-6
    assert 0.3 < np.ptp(vertices, axis=0).max() < 1.2
    assert np.linalg.norm(stamp.base.frame(vertices), axis=1).max() < 0.9

    picture = images.read(settings.picture)
    pixels, depths = seen_by_the_reports_camera(obj, stamp)
    mask = silhouettes.rasterize(pixels, meshes.triangles_of(obj.data), max(picture.shape[:2]))
    mask = mask[: picture.shape[0], : picture.shape[1]]
    assert silhouettes.overlap(mask, picture[..., 3] > 127) > 0.75

    front = depths < np.median(depths)
    columns, rows = np.clip(pixels[front].astype(int), 0, np.array(picture.shape[1::-1]) - 1).T
    there = picture[rows, columns]
    told = meshes.colors_of(obj.data)[front][there[:, 3] > 200, :3].astype(float)
    expected = there[there[:, 3] > 200, :3].astype(float)
    right = np.abs(told - expected).mean()
    mirrored = picture[rows, picture.shape[1] - 1 - columns]
    assert right < 25, right
    assert right < np.abs(told - mirrored[there[:, 3] > 200, :3]).mean(), "the colours are not mirrored"


def test_undo_takes_it_back():
    bpy.ops.ed.undo()
    assert not [obj for obj in bpy.data.objects if stamps.stamp_of(obj)]
    bpy.ops.ed.redo()
    assert result()


def test_rebuild_takes_its_views_from_the_cache():
    obj, before = result()
    bpy.context.view_layer.objects.active = obj
    obj.turnaround.resolution = 48
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    wait(idle)
    obj, after = result()
    assert after.report.settings.resolution == 48
    assert len(after.report.cached) > len(before.report.cached)
    assert after.report.elevation_deg == before.report.elevation_deg
