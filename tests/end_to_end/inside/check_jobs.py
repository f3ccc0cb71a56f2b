"""Everything that a job can do, driven through the add-on with a quick engine. Runs inside Blender."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from importlib import import_module
from pathlib import Path

import bpy
import msgspec
import numpy as np

PACKAGE = "bl_ext.user_default.turnaround"
session, engines, preview = (import_module(f"{PACKAGE}.{name}") for name in ("session", "engines", "scene.preview"))
cutouts, images, meshes, stamps, subjects = (
    import_module(f"{PACKAGE}.scene.{name}") for name in ("cutouts", "images", "meshes", "stamps", "subjects")
)
connection = import_module(f"{PACKAGE}.protocol.connection")

COLOR = (200, 90, 40)


def wait(done, seconds=60.0):
    """Calls the tick as Blender's timer would until `done()`; the seconds of each call."""
    end, spent = time.monotonic() + seconds, []
    while not done():
        assert time.monotonic() < end, (
            session.current().details() or f"nothing happened; {session.current().link.status()}"
        )
        start = time.perf_counter()
        pause = session.current().tick()
        spent.append(time.perf_counter() - start)
        time.sleep(min(pause, 0.02))
    return spent


def idle():
    return session.current().job is None


def settings():
    return bpy.context.scene.turnaround


def picture():
    rgba = np.zeros((96, 120, 4), np.uint8)
    rgba[10:-10, 10:-10] = (*COLOR, 255)
    return images.write("mug.png", rgba, bpy.data.images.get("mug.png"))


def results():
    return [obj for obj in bpy.data.objects if stamps.stamp_of(obj)]


def engine():
    return getattr(bpy.context.scene, engines.attribute("boxes"))


def generate(**wanted):
    """Presses Generate, with these settings."""
    for name, value in {
        "variants": 1,
        "seed": 0,
        "quality": "DRAFT",
        "camera": "AUTO",
        "placement": "CURSOR",
        **wanted,
    }.items():
        setattr(settings(), name, value)
    settings().picture = picture()
    session.current().dismiss()
    assert bpy.ops.turnaround.generate() == {"FINISHED"}, session.current().details()


def finished():
    wait(idle)
    assert session.current().problem is None, session.current().details()


def clear():
    for mesh in [obj.data for obj in results()]:
        bpy.data.meshes.remove(mesh)  # and its object with it
    engine().steps, engine().end = 2, "well"


def test_first_generate_starts_the_backend_and_leaves_a_mesh():
    bpy.context.preferences.addons[PACKAGE].preferences.python = os.environ["BACKEND_PROGRAM"]
    bpy.context.scene.cursor.location = (1.0, 2.0, 0.5)
    settings().engine_name = "boxes"
    bpy.ops.ed.undo_push(message="Before")
    generate()
    assert session.current().job.describe() == "Starting"
    finished()
    assert session.current().link.status() == "Running"
    (obj,) = results()
    stamp = stamps.stamp_of(obj)
    assert stamp.picture == "mug.png"
    assert stamp.size == (120, 96)
    assert stamp.report.pipeline == "boxes"
    assert tuple(obj.location) == (1.0, 2.0, 0.5)
    assert tuple(obj.rotation_euler) == (0.0, 0.0, 0.0)
    vertices, colors = meshes.vertices_of(obj.data), meshes.colors_of(obj.data)
    assert abs(vertices[:, 2].min()) < 1e-6, "the origin is at the base"
    assert vertices[:, 0].max() > 0.29 > -vertices[:, 0].min() - 0.05, "the foot points to +X"
    assert np.abs(colors[:8, :3].astype(int) - COLOR).max() <= 1
    assert len(obj.data.materials) == 1
    assert bpy.context.view_layer.objects.active == obj
    assert not [o for o in bpy.data.objects if preview.TAG in o]
    assert bpy.data.images[stamp.views].packed_file is not None


def test_undo_takes_back_exactly_one_result():
    name = results()[0].name
    generate(seed=1)
    finished()
    assert len(results()) == 2
    bpy.ops.ed.undo()
    assert [obj.name for obj in results()] == [name]
    bpy.ops.ed.undo()
    assert results() == []
    bpy.ops.ed.redo()
    assert [obj.name for obj in results()] == [name]
    assert stamps.stamp_of(results()[0]) is not None
    clear()


def test_progress_previews_and_keep():
    engine().steps = 100
    generate()
    wait(lambda: session.current().job.can_keep and preview.views_image() is not None)
    assert [o for o in bpy.data.objects if preview.TAG in o]
    text = session.current().job.describe()
    assert text.startswith("Drawing Views"), text
    assert "of 100" in text
    assert bpy.ops.turnaround.keep() == {"FINISHED"}
    start = time.monotonic()
    finished()
    assert time.monotonic() - start < 4.0, "the hundred steps were not waited for"
    assert len(results()) == 1
    assert not [o for o in bpy.data.objects if preview.TAG in o]
    assert preview.views_image() is None
    clear()


def test_what_is_wrong_and_the_cutout_are_known_before_the_work_and_the_cutout_can_be_painted():
    engine().steps = 200
    generate(seed=500)
    wait(lambda: session.current().job.notes)
    assert session.current().job.notes == ("Shows 2 separate objects: they become one shape.",)
    assert cutouts.known("mug.png").notes == session.current().job.notes
    bpy.ops.turnaround.cancel()
    finished()
    matte = cutouts.known("mug.png").matte(120, 96) > 127
    assert matte.any()
    assert bpy.ops.turnaround.edit_cutout() == {"FINISHED"}
    copy = settings().picture
    pixels = np.array(copy.pixels[:]).reshape(96, 120, 4)
    pixels[:48, :, 3] = 0.0  # the lower half is taken away
    copy.pixels.foreach_set(pixels.astype(np.float32).ravel())
    engine().steps = 2
    settings().seed = 0
    assert bpy.ops.turnaround.generate() == {"FINISHED"}
    finished()
    (obj,) = results()
    assert stamps.stamp_of(obj).report.warnings == (f"A matte of {matte[:48].sum()} pixels.",)
    assert obj.name == "mug"
    bpy.context.view_layer.objects.active = obj
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    (obj,) = results()
    assert stamps.stamp_of(obj).report.warnings == (f"A matte of {matte[:48].sum()} pixels.",), "it is used again"
    bpy.data.images.remove(copy)
    clear()


def test_marks_are_told_and_kept_with_the_result():
    image = picture()
    subjects.set_box(image, (0.25, 0.25), (0.75, 1.0))
    generate(matting="GRABCUT")
    finished()
    told = stamps.stamp_of(results()[0]).report.settings
    assert (told.matting, told.subject_box) == ("grabcut", (30.0, 0.0, 90.0, 72.0))
    subjects.clear(image)
    settings().matting = "AUTO"
    clear()


def test_cancel_leaves_nothing():
    engine().steps = 200
    generate()
    wait(lambda: session.current().job.event is not None)
    before = {obj.name for obj in bpy.data.objects if preview.TAG not in obj}
    assert bpy.ops.turnaround.cancel() == {"FINISHED"}
    assert session.current().job.describe() == "Cancelling"
    finished()
    assert {obj.name for obj in bpy.data.objects} == before
    assert results() == []
    clear()


def test_variants_come_side_by_side_in_one_collection_or_stacked():
    generate(variants=3, seed=5)
    finished()
    made = results()
    assert sorted(stamps.stamp_of(obj).report.seed for obj in made) == [5, 6, 7]
    (collection,) = {obj.users_collection[0] for obj in made}
    assert collection.name == "mug"
    xs = sorted(obj.location.x for obj in made)
    assert xs[1] - xs[0] > made[0].dimensions.x
    assert bpy.ops.turnaround.step_variant(step=1) == {"FINISHED"}
    assert stamps.stamp_of(bpy.context.view_layer.objects.active).report.seed == 5
    assert bpy.ops.turnaround.keep_only_this() == {"FINISHED"}
    assert [stamps.stamp_of(obj).report.seed for obj in results()] == [5]
    clear()

    generate(variants=2, layout="STACK")
    finished()
    assert [obj.visible_get() for obj in results()].count(True) == 1
    assert len({tuple(obj.location) for obj in results()}) == 1
    shown = next(obj for obj in results() if obj.visible_get())
    bpy.ops.turnaround.step_variant(step=1)
    assert not shown.visible_get()
    assert [obj.visible_get() for obj in results()].count(True) == 1
    settings().layout = "SIDE"
    clear()


def test_rebuild_keeps_the_object_and_comes_from_the_cache():
    generate(height=0.1)
    finished()
    (obj,) = results()
    assert abs(obj.dimensions.z - 0.1) < 1e-6
    obj.location = (4.0, 5.0, 6.0)
    uid, first = obj.session_uid, stamps.stamp_of(obj)
    obj.turnaround.elevation = math.radians(33.0)
    obj.turnaround.resolution = 48
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    (obj,) = results()
    stamp = stamps.stamp_of(obj)
    assert obj.session_uid == uid
    assert tuple(obj.location) == (4.0, 5.0, 6.0)
    assert abs(obj.dimensions.z - 0.1) < 1e-6
    assert abs(stamp.report.elevation_deg - 33.0) < 1e-3
    assert stamp.report.elevation_source == "given"
    assert stamp.report.settings.resolution == 48
    assert stamp.report.seed == first.report.seed
    assert "views" in stamp.report.cached, "the views were not drawn again"
    assert [mesh.name for mesh in bpy.data.meshes] == [obj.data.name], "no mesh is left over"
    settings().height = 0.0
    clear()


def test_rebuild_bears_settings_that_the_engine_has_no_longer():
    generate()
    finished()
    (obj,) = results()
    stamp = stamps.stamp_of(obj)
    options = stamp.report.settings.options | {"steps": -1, "end": "oddly", "sharpness": 0.5}
    stamp.report = msgspec.structs.replace(
        stamp.report, settings=msgspec.structs.replace(stamp.report.settings, options=options)
    )
    stamp.put(obj)
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    (obj,) = results()
    assert not {"steps", "end", "sharpness"} & stamps.stamp_of(obj).report.settings.options.keys()
    clear()


def test_rebuild_sends_the_picture_again_to_a_backend_that_has_forgotten_it():
    generate()
    finished()
    (obj,) = results()
    stamp = stamps.stamp_of(obj)
    stamp.job = "forgotten-job"
    stamp.put(obj)
    bpy.context.view_layer.objects.active = obj
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    (obj,) = results()
    assert stamps.stamp_of(obj).job not in ("forgotten-job", "")

    stamp.put(obj)
    bpy.data.images.remove(bpy.data.images["mug.png"])
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    wait(idle)
    assert session.current().problem.code == "job.unknown"
    assert stamps.stamp_of(obj) == stamp, "nothing is lost"
    clear()


def test_regenerate_stands_beside_the_first_with_the_next_seed():
    generate(seed=3)
    finished()
    assert bpy.ops.turnaround.regenerate() == {"FINISHED"}
    finished()
    first, second = sorted(results(), key=lambda obj: stamps.stamp_of(obj).report.seed)
    assert [stamps.stamp_of(obj).report.seed for obj in (first, second)] == [3, 4]
    assert second.location.x > first.location.x + first.dimensions.x
    assert stamps.stamp_of(first).group == stamps.stamp_of(second).group
    clear()


def test_match_camera_covers_the_subject():
    scene = bpy.context.scene
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (3.0, -3.0, 2.0), (math.radians(68), 0.0, math.radians(45))
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = 1200, 960
    bpy.context.view_layer.update()
    generate(camera="SCENE", placement="CAMERA")
    finished()
    (obj,) = results()
    stamp = stamps.stamp_of(obj)
    assert abs(stamp.report.elevation_deg - 22.0) < 0.1
    assert stamp.overlap > 0.85, stamp.overlap
    obj.matrix_world.identity()
    assert bpy.ops.turnaround.match_camera() == {"FINISHED"}
    assert stamps.stamp_of(obj).overlap > 0.85
    assert bpy.ops.turnaround.match_camera(at_cursor=True) == {"FINISHED"}
    assert stamps.stamp_of(obj).overlap > 0.85
    clear()


def test_story_survives_saving_and_reopening():
    generate(seed=9)
    finished()
    name, stamp = results()[0].name, stamps.stamp_of(results()[0])
    with tempfile.TemporaryDirectory() as folder:
        bpy.ops.wm.save_as_mainfile(filepath=str(Path(folder) / "kept.blend"))
        bpy.ops.wm.open_mainfile(filepath=str(Path(folder) / "kept.blend"))
    obj = bpy.data.objects[name]
    assert stamps.stamp_of(obj) == stamp
    assert bpy.data.images[stamp.views].size[0] > 0
    bpy.context.view_layer.objects.active = obj
    assert bpy.ops.turnaround.rebuild() == {"FINISHED"}
    finished()
    clear()


def test_job_goes_on_while_another_mode_is_on_and_waits_to_be_placed():
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    generate()
    wait(lambda: session.current().job.waits_for)
    assert "Edit Mode" in session.current().job.describe()
    assert results() == []
    bpy.ops.object.mode_set(mode="OBJECT")
    finished()
    assert len(results()) == 1
    clear()


def test_failure_is_a_sentence_with_details_and_the_next_one_works():
    generate()
    finished()
    clear()
    engine().end = "badly"
    generate(seed=77)
    wait(idle)
    problem = session.current().problem
    assert (problem.code, problem.sentence) == ("boxes.badly", "The boxes fell over.")
    assert "physics" in session.current().details()
    engine().end = "crash"
    generate(seed=78)
    wait(idle)
    assert session.current().problem.sentence, "a dead worker is explained"
    engine().end = "well"
    generate(seed=79)
    finished()
    assert len(results()) == 1
    clear()


def test_killed_backend_is_explained_and_the_next_generate_works():
    engine().steps = 200
    generate(seed=100)
    wait(lambda: session.current().job.event is not None)
    os.kill(connection.find().pid, signal.SIGKILL)
    wait(idle)
    assert session.current().problem.code in {"backend.ended", "backend.lost"}, session.current().details()
    assert results() == []
    assert not [o for o in bpy.data.objects if preview.TAG in o]
    engine().steps = 2
    generate(seed=101)
    finished()
    assert len(results()) == 1
    clear()


def test_backend_stops_and_starts_on_request():
    pid = connection.find().pid
    assert bpy.ops.turnaround.stop_backend() == {"FINISHED"}
    wait(lambda: session.current().link.status() == "Not Running")
    wait(lambda: not connection.alive(pid))
    assert session.current().problem is None, session.current().details()
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    for python in (os.environ["BACKEND_PYTHON"], os.environ["BACKEND_PROGRAM"]):
        preferences.python = python
        assert bpy.ops.turnaround.start_backend() == {"FINISHED"}
        wait(lambda: session.current().ready)
        if python != os.environ["BACKEND_PROGRAM"]:
            bpy.ops.turnaround.stop_backend()
            wait(lambda: session.current().link.status() == "Not Running")
    wait(lambda: session.current().link.devices)
    assert bpy.ops.turnaround.free_memory() == {"FINISHED"}


def test_backend_can_be_reached_by_its_connection_string():
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    running = connection.find()
    address = connection.remote_address(running.host, running.port, running.server_key)
    preferences.connection_string = address.string()
    preferences.place = "REMOTE"
    generate(seed=200)
    finished()
    assert session.current().link.status() == "Connected to Another Computer"
    assert len(results()) == 1
    clear()
    preferences.place = "LOCAL"
    wait(lambda: session.current().ready)


def test_devices_of_a_backend_that_has_gone_are_not_shown():
    link = session.current().link
    wait(lambda: link.devices)
    process, link._process = link._process, None  # as if somebody else had started it
    os.kill(connection.find().pid, signal.SIGKILL)
    wait(lambda: not link.devices)
    assert link.status() == "Not Running"
    wait(lambda: not process.running())


def test_job_of_a_blender_that_was_closed_can_be_fetched():
    pending = import_module(f"{PACKAGE}.pending")
    current = session.current()
    folder = import_module(f"{PACKAGE}.settings").own_folder()
    engine().steps = 40
    generate(seed=300)
    wait(lambda: current.job.event is not None)
    (noted,) = folder.glob("job-*.json")
    assert pending.take_left_over(folder) is None, "a Blender that runs keeps its own"
    gone = noted.rename(folder / "job-999999999.json")  # as if another Blender had asked for it and crashed
    job, current.job = current.job, None
    current.link.client.followed.pop(job.request)
    current.link.reset()
    preview.clear()
    current.left_over = pending.take_left_over(folder)
    assert current.left_over.wish == job.wish
    assert not gone.exists()
    assert bpy.ops.turnaround.fetch_result() == {"FINISHED"}
    finished()
    (obj,) = results()
    assert stamps.stamp_of(obj).job == job.id
    assert current.left_over is None
    assert not list(folder.glob("job-*.json"))
    clear()


def test_disabling_stops_what_was_started():
    pid = connection.find().pid
    bpy.ops.preferences.addon_disable(module=PACKAGE)
    end = time.monotonic() + 20
    while connection.alive(pid):
        assert time.monotonic() < end
        time.sleep(0.1)
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            break
    assert not hasattr(bpy.types.Scene, "turnaround")
    assert not [name for name in dir(bpy.types.Scene) if name.startswith("turnaround")]
