"""Ouroboros3D and 3DiM from a picture to a mesh, with the weights that ship. Runs inside Blender."""

from __future__ import annotations

import math
import os
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
from mathutils import Matrix

PACKAGE = "bl_ext.user_default.turnaround"
session, engines, jobs = (import_module(f"{PACKAGE}.{name}") for name in ("session", "engines", "jobs"))
cameras, images, meshes, preview, stamps = (
    import_module(f"{PACKAGE}.scene.{name}") for name in ("cameras", "images", "meshes", "preview", "stamps")
)
messages = import_module(f"{PACKAGE}.protocol.messages")

PICTURE = Path(os.environ["EXAMPLES"]) / "armchair.png"


def settings():
    return bpy.context.scene.turnaround


def wait(done, seconds=240.0):
    """Calls the tick as Blender's timer would, until `done()`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, session.current().details() or session.current().link.status()
        time.sleep(min(session.current().tick(), 0.02))
    assert session.current().problem is None, session.current().details()


def idle():
    return session.current().job is None


def generate(engine, **options):
    """Presses Generate with these settings of an engine."""
    for obj in results():
        bpy.data.objects.remove(obj)
    settings().engine_name, settings().quality, settings().seed = engine, "DRAFT", 0
    group = getattr(bpy.context.scene, engines.attribute(engine))
    for name, value in options.items():
        setattr(group, name, value)
    assert bpy.ops.turnaround.generate() == {"FINISHED"}, session.current().details()


def results():
    return [obj for obj in bpy.data.objects if stamps.stamp_of(obj)]


def result():
    """The one result, which must be an ordinary coloured object with nothing left beside it."""
    (obj,) = results()
    assert preview.shape(bpy.context.scene) is None
    vertices, colors = meshes.vertices_of(obj.data), meshes.colors_of(obj.data)
    assert len(vertices) > 200
    assert abs(vertices[:, 2].min()) < 1e-6
    assert 0.3 < np.ptp(vertices, axis=0).max() < 1.3
    assert np.ptp(colors[:, :3].astype(int), axis=0).max() > 60, "the armchair is not of one colour"
    return obj, stamps.stamp_of(obj)


def test_the_backend_starts_and_offers_them_in_order():
    bpy.context.preferences.addons[PACKAGE].preferences.python = os.environ["BACKEND_PROGRAM"]
    settings().picture = bpy.data.images.load(str(PICTURE))
    session.current().open()
    wait(lambda: engines.offered())
    assert list(engines.offered())[:3] == ["one2345", "ouroboros3d", "3dim"]
    for name in ("ouroboros3d", "3dim"):
        assert engines.offered()[name].ready, engines.offered()[name].hint


def test_ouroboros3d_makes_a_mesh_in_few_steps():
    generate("ouroboros3d", steps=6)
    wait(idle)
    _, stamp = result()
    assert stamp.report.pipeline == "ouroboros3d"
    assert stamp.views in bpy.data.images


def test_ouroboros3d_forms_in_the_viewport_and_can_be_kept():
    """Two shapes that differ, from a quarter of the steps on; the kept one becomes the result."""
    generate("ouroboros3d", steps=60)
    shapes = []

    def formed():
        shape = preview.shape(bpy.context.scene)
        vertices = None if shape is None else meshes.vertices_of(shape.data)
        if vertices is not None and not any(np.array_equal(vertices, seen) for seen in shapes):
            shapes.append(vertices)
        return len(shapes) == 2

    wait(formed)
    assert not results()
    job = session.current().job
    assert job.can_keep
    assert job.describe().startswith("Drawing Views, Step "), job.describe()
    assert job.event.step < job.event.total == 60
    assert bpy.ops.turnaround.keep() == {"FINISHED"}
    wait(idle)
    result()


def test_3dim_shows_a_shape_before_it_has_drawn_its_views():
    generate("3dim", views=2, steps=8)
    wait(lambda: preview.shape(bpy.context.scene) is not None)
    assert not results()
    assert session.current().job.can_keep
    wait(idle)
    _, stamp = result()
    assert stamp.report.pipeline == "3dim"
    assert stamp.views in bpy.data.images


def test_3dim_takes_a_second_picture_which_paints_the_back():
    back = np.zeros((128, 128, 4), np.uint8)
    back[24:-24, 32:-32] = (230, 20, 200, 255)
    further = settings().further.add()
    further.picture = images.write("back.png", back)
    generate("3dim", views=1, steps=4)
    wait(idle)
    obj, stamp = result()
    assert stamp.further == ("back.png",)
    vertices, colors = meshes.vertices_of(obj.data), meshes.colors_of(obj.data)[:, :3].astype(int)
    pink = np.abs(colors - (230, 20, 200)).max(axis=1) < 40
    assert pink.sum() > 50
    assert vertices[pink, 1].mean() > vertices[~pink, 1].mean(), "the second picture is not seen from behind"


def test_3dim_looks_from_where_the_viewport_does():
    camera = messages.ViewCamera(elevation_deg=20.0, azimuth_deg=80.0, distance=4.0, fov_deg=40.0)
    rotation = cameras.orbit_rotation(camera)
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = rotation @ cameras.BLENDER_FROM_OPENCV
    world_from_camera[:3, 3] = -camera.distance * rotation[:, 2]
    view = SimpleNamespace(view_matrix=Matrix(world_from_camera.tolist()).inverted(), is_perspective=True)
    session.current().begin(jobs.looking(bpy.context, view))
    wait(idle)
    looked = settings().looked
    assert looked is not None
    azimuth = float(looked.name.split()[-2].rstrip("°"))
    assert math.isclose(azimuth, 80.0, abs_tol=1.0), looked.name
    assert min(looked.size) >= 64
    assert looked.preview is not None
    assert images.read(looked)[..., 3].max() > 200
    assert len(results()) == 1, "a view adds no object"
