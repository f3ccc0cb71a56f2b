"""Further pictures beside the first, and views from where the artist looks. Runs inside Blender."""

from __future__ import annotations

import math
import os
import time
from importlib import import_module
from types import SimpleNamespace

import bpy
import numpy as np
from mathutils import Matrix

PACKAGE = "bl_ext.user_default.turnaround"
session, engines, jobs = (import_module(f"{PACKAGE}.{name}") for name in ("session", "engines", "jobs"))
cameras, images, stamps = (import_module(f"{PACKAGE}.scene.{name}") for name in ("cameras", "images", "stamps"))
messages = import_module(f"{PACKAGE}.protocol.messages")
notes = import_module(f"{PACKAGE}.panels.further").notes

FRONT, BACK = (200, 90, 40), (20, 60, 220)


def finished(seconds=60.0):
    end = time.monotonic() + seconds
    while session.current().job is not None:
        assert time.monotonic() < end, session.current().details() or session.current().link.status()
        time.sleep(min(session.current().tick(), 0.02))
    assert session.current().problem is None, session.current().details()


def settings():
    return bpy.context.scene.turnaround


def picture(name, color):
    rgba = np.zeros((96, 96, 4), np.uint8)
    rgba[10:-10, 10:-10] = (*color, 255)
    return images.write(name, rgba, bpy.data.images.get(name))


def results():
    return [obj for obj in bpy.data.objects if stamps.stamp_of(obj)]


def viewport(azimuth, elevation, *, distance=5.0, towards=(0.0, 0.0, 0.0), perspective=True):
    """What a 3D View knows of itself, looking at a point."""
    camera = messages.ViewCamera(elevation_deg=elevation, azimuth_deg=azimuth, distance=distance, fov_deg=40.0)
    rotation = cameras.orbit_rotation(camera)
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = rotation @ cameras.BLENDER_FROM_OPENCV
    world_from_camera[:3, 3] = np.array(towards) - distance * rotation[:, 2]
    return SimpleNamespace(view_matrix=Matrix(world_from_camera.tolist()).inverted(), is_perspective=perspective)


def looked():
    return {image.name for image in bpy.data.images if "°" in image.name}


def test_further_pictures_are_sent_with_their_directions():
    bpy.context.preferences.addons[PACKAGE].preferences.python = os.environ["BACKEND_PROGRAM"]
    settings().engine_name, settings().quality = "boxes", "DRAFT"
    settings().picture = picture("front.png", FRONT)
    assert bpy.ops.turnaround.generate() == {"FINISHED"}
    finished()  # now the engine is known to take several
    for obj in results():
        bpy.data.objects.remove(obj)

    for _ in range(messages.MAX_EXTRA_PICTURES):
        assert bpy.ops.turnaround.add_picture() == {"FINISHED"}
    assert not bpy.ops.turnaround.add_picture.poll()
    assert [round(math.degrees(place.azimuth)) for place in settings().further] == [180, 90, -90, 45]
    for index in (3, 2):
        bpy.ops.turnaround.remove_picture(index=index)
    first, empty = settings().further
    assert abs(math.degrees(first.azimuth) - 180.0) < 1e-3
    first.picture = picture("back.png", BACK)
    assert empty.picture is None  # and is left out
    assert bpy.ops.turnaround.generate() == {"FINISHED"}
    finished()
    (obj,) = results()
    stamp = stamps.stamp_of(obj)
    (direction,) = stamp.report.settings.extra_pictures
    assert abs(direction.azimuth_deg - 180.0) < 1e-3
    assert direction.elevation_deg is None
    assert stamp.further == ("back.png",)
    assert f"From 180°: {list(BACK)}." in stamp.report.warnings


def test_what_is_likely_a_slip_is_said_at_the_further_picture():
    place, empty = settings().further
    assert notes(bpy.context, 0) == notes(bpy.context, 1) == []
    empty.picture, empty.azimuth = place.picture, math.radians(-180.0)
    assert [note.startswith("From the same direction") for note in notes(bpy.context, 1)] == [True]
    empty.azimuth = math.radians(90.0)
    assert [note.startswith("The same picture again") for note in notes(bpy.context, 1)] == [True]
    empty.picture, empty.azimuth = settings().picture, 0.0
    assert [note.startswith("From the same direction") for note in notes(bpy.context, 1)] == [True]
    empty.picture, empty.azimuth = images.write("dot.png", np.full((8, 8, 4), 255, np.uint8)), math.radians(90.0)
    assert notes(bpy.context, 1) == ["The picture is only 8 x 8 pixels."]
    assert notes(bpy.context, 0) == []
    empty.picture = None


def test_a_rebuild_takes_them_from_the_earlier_job_or_from_here():
    (obj,) = results()
    obj.turnaround.resolution = 40
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    assert f"From 180°: {list(BACK)}." in stamps.stamp_of(obj).report.warnings

    stamp = stamps.stamp_of(obj)
    stamp.job = "0" * 32  # one that the backend has forgotten
    stamp.put(obj)
    picture("back.png", (20, 200, 20))
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    assert "From 180°: [20, 200, 20]." in stamps.stamp_of(obj).report.warnings


def test_a_view_is_drawn_from_where_the_viewport_looks():
    (obj,) = results()
    obj.location, obj.rotation_euler, obj.scale = (3.0, -1.0, 2.0), (0.0, 0.0, math.radians(50.0)), (2.0, 2.0, 2.0)
    bpy.context.view_layer.update()
    stamp = stamps.stamp_of(obj)
    middle = obj.matrix_world @ Matrix.Translation((0.0, 0.0, -stamp.bottom * stamp.scale)).translation
    for perspective in (True, False):
        view = viewport(80.0, 25.0, distance=7.0, towards=middle, perspective=perspective)
        job = jobs.looking(bpy.context, view)
        (direction,) = job.settings.look_from
        assert abs(direction.azimuth_deg - 30.0) < 1e-2, direction  # the object is turned by the rest
        assert abs(direction.elevation_deg - 25.0) < 1e-2, direction
    assert job.picture_of == stamp.job
    assert job.settings.seed == stamp.report.seed
    assert len(job.settings.extra_pictures) == 1

    before, undone = len(bpy.data.objects), bpy.context.view_layer.objects.active
    session.current().begin(job)
    finished()
    assert len(bpy.data.objects) == before
    assert bpy.context.view_layer.objects.active == undone
    (name,) = looked()
    assert name.endswith(" 30° 25°")
    image = bpy.data.images[name]
    assert image.packed_file is not None
    assert tuple(image.size) == (64, 64)
    assert images.is_source(image)  # it can be worked from in its turn
    assert settings().looked == image  # the panel shows it


def test_without_a_result_it_is_of_the_chosen_picture_wherever_the_viewport_is():
    for obj in results():
        bpy.data.objects.remove(obj)
    bpy.context.scene.cursor.location = (1.0, 2.0, 3.0)
    job = jobs.looking(bpy.context, viewport(-120.0, 60.0, towards=(0.0, -4.0, 0.5)))
    (direction,) = job.settings.look_from
    assert abs(direction.azimuth_deg + 120.0) < 1e-2
    assert abs(direction.elevation_deg - 60.0) < 1e-2
    assert job.picture is not None
    assert len(job.extra_pictures) == 1
    session.current().begin(job)
    finished()
    assert len(looked()) == 2
    assert not results()


def test_no_other_view_is_drawn_with_it_unless_the_artist_asks_for_some():
    settings().engine_name = "3dim"
    view = viewport(30.0, 20.0, towards=(1.0, 2.0, 3.0))
    assert jobs.looking(bpy.context, view).settings.options["views"] == 0
    getattr(bpy.context.scene, engines.attribute("3dim")).views = 3
    assert jobs.looking(bpy.context, view).settings.options["views"] == 3


def test_engines_of_one_picture_are_sent_one():
    settings().engine_name = "one2345"
    assert not engines.chosen(bpy.context.scene).several_pictures
    assert jobs.looking_engine(bpy.context) is None
    job = jobs.generation(bpy.context)
    assert job.extra_pictures == ()
    assert job.settings.extra_pictures == ()
    settings().engine_name = "boxes"
