"""From a text to a mesh by way of a picture, driven through the add-on with a quick painter. Runs inside Blender."""

from __future__ import annotations

import os
import tempfile
import time
from importlib import import_module
from pathlib import Path

import bpy
import numpy as np

PACKAGE = "bl_ext.user_default.turnaround"
session, painters, jobs = (import_module(f"{PACKAGE}.{name}") for name in ("session", "painters", "jobs"))
drawn, images, stamps = (import_module(f"{PACKAGE}.scene.{name}") for name in ("drawn", "images", "stamps"))
label = import_module(f"{PACKAGE}.operators.generate").label

SAID = "a blue mug, with a handle"


def wait(done, seconds=60.0):
    """Calls the tick as Blender's timer would until `done()`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, (
            session.current().details() or f"nothing happened; {session.current().link.status()}"
        )
        time.sleep(min(session.current().tick(), 0.02))


def idle():
    return session.current().job is None


def settings():
    return bpy.context.scene.turnaround


def results():
    return [obj for obj in bpy.data.objects if stamps.stamp_of(obj)]


def generate(prompt=SAID, **wanted):
    """Presses Generate, with this text."""
    asked = {"source": "TEXT", "seed": 0, "quality": "DRAFT", "variants": 1, "prompt": prompt} | wanted
    for name, value in asked.items():
        setattr(settings(), name, value)
    session.current().dismiss()
    assert bpy.ops.turnaround.generate() == {"FINISHED"}, session.current().details()


def finished():
    wait(idle)
    assert session.current().problem is None, session.current().details()


def clear():
    for mesh in [obj.data for obj in results()]:
        bpy.data.meshes.remove(mesh)
    for image in [image for image in bpy.data.images if drawn.report_of(image)]:
        bpy.data.images.remove(image)


def test_text_becomes_a_picture_and_the_picture_a_mesh():
    bpy.context.preferences.addons[PACKAGE].preferences.python = os.environ["BACKEND_PROGRAM"]
    settings().engine_name = "boxes"
    settings().source = "TEXT"
    assert label(bpy.context) == "Generate from Text"
    assert not bpy.ops.turnaround.generate.poll(), "there is nothing to draw yet"
    bpy.ops.ed.undo_push(message="Before")
    generate(seed=40)
    assert session.current().job.describe() == "Starting"
    wait(lambda: settings().picture is not None)
    picture = settings().picture
    assert picture.name == SAID
    assert picture.packed_file is not None
    np.testing.assert_array_equal(images.read(picture)[48, 48], [200, 90, 40, 255])
    assert results() == [], "the picture is there first"
    assert session.current().job is not None, "the mesh follows by itself"
    finished()
    (obj,) = results()
    assert obj.name == SAID
    stamp = stamps.stamp_of(obj)
    assert (stamp.picture, stamp.size) == (SAID, (96, 96))
    assert stamp.drawn == drawn.report_of(picture)
    assert (stamp.drawn.prompt, stamp.drawn.painter, stamp.drawn.seed) == (SAID, "brush", 40)
    assert "no commercial use" in painters.licence_line(stamp.drawn)
    assert list(painters.ready()) == ["brush"]
    assert settings().painter == "brush"


def test_undo_takes_back_the_mesh_and_then_the_picture():
    bpy.ops.ed.undo()
    assert results() == []
    assert settings().picture.name == SAID
    bpy.ops.ed.undo()
    assert settings().picture is None
    assert SAID not in bpy.data.images
    bpy.ops.ed.redo()
    bpy.ops.ed.redo()
    assert stamps.stamp_of(results()[0]).drawn.prompt == SAID


def test_same_words_again_use_the_same_picture_unless_it_was_painted_on():
    generate(seed=40)
    finished()
    assert [image.name for image in bpy.data.images if drawn.report_of(image)] == [SAID]
    assert len(results()) == 2
    pixels = np.ones(96 * 96 * 4, np.float32)
    bpy.data.images[SAID].pixels.foreach_set(pixels)
    generate(seed=40)
    finished()
    assert sorted(image.name for image in bpy.data.images if drawn.report_of(image)) == [SAID, f"{SAID}.001"]
    assert images.read(bpy.data.images[SAID]).all(), "her own is untouched"
    clear()


def test_drawn_picture_is_an_ordinary_source():
    generate(seed=41, negative_prompt="red", single_object=False)
    finished()
    picture = settings().picture
    assert (drawn.report_of(picture).negative_prompt, drawn.report_of(picture).single_object) == ("red", False)
    settings().source = "PICTURE"
    assert label(bpy.context) == "Generate from Image"
    assert jobs.picture_of(bpy.context) == picture
    assert bpy.ops.turnaround.generate() == {"FINISHED"}
    assert session.current().job.imagine is None
    finished()
    assert bpy.ops.turnaround.regenerate() == {"FINISHED"}
    finished()
    assert [stamps.stamp_of(obj).drawn for obj in results()] == [drawn.report_of(picture)] * 3
    with tempfile.TemporaryDirectory() as folder:
        bpy.ops.wm.save_as_mainfile(filepath=str(Path(folder) / "kept.blend"))
        bpy.ops.wm.open_mainfile(filepath=str(Path(folder) / "kept.blend"))
    picture = settings().picture
    assert drawn.report_of(picture).prompt == SAID
    assert images.read(picture)[48, 48].tolist() == [200, 90, 41, 255]
    assert stamps.stamp_of(results()[0]).drawn == drawn.report_of(picture)
    settings().negative_prompt, settings().single_object = "", True
    clear()


def test_further_pictures_go_with_the_one_that_is_drawn():
    clear()
    place = settings().further.add()
    place.picture = images.write("behind.png", np.full((32, 32, 4), (20, 200, 20, 255), np.uint8))
    generate()
    finished()
    (obj,) = results()
    assert "From 180°: [20, 200, 20]." in stamps.stamp_of(obj).report.warnings

    generate("another mug", seed=1)
    session.current().job.extra_pictures = ()  # as in a Blender that fetches the job which an earlier one left
    bpy.data.images.remove(place.picture)
    wait(idle)
    assert session.current().problem.code == "picture.missing", session.current().details()
    session.current().dismiss()
    settings().further.clear()
    clear()


def test_cancel_while_drawing_leaves_nothing():
    before = len(bpy.data.images)
    generate("slow")
    wait(lambda: session.current().job.event is not None and session.current().job.event.step > 0)
    assert session.current().job.describe().startswith("Painting")
    assert not bpy.ops.turnaround.keep.poll()
    assert bpy.ops.turnaround.cancel() == {"FINISHED"}
    finished()
    assert len(bpy.data.images) == before
    assert results() == []


def test_cancel_in_the_last_moment_keeps_the_picture_and_makes_no_mesh():
    generate(seed=42)
    wait(lambda: session.current().job.event is not None and session.current().job.event.step > 0)
    session.current().job.cancelling = True  # pressed, but the backend was done when it heard of it
    finished()
    assert settings().picture.name == SAID
    assert results() == []
    clear()


def test_failure_is_a_sentence():
    generate("badly")
    wait(idle)
    assert session.current().problem.sentence == "The brush fell over."
    generate(painter="brush")
    finished()
    assert len(results()) == 1
    clear()


def test_picture_arrives_while_another_mode_is_on_and_the_mesh_waits():
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    generate(seed=43)
    wait(lambda: session.current().job.waits_for)
    assert settings().picture.name == SAID
    bpy.ops.object.mode_set(mode="OBJECT")
    finished()
    assert len(results()) == 1
    clear()


def test_job_of_a_blender_that_was_closed_while_drawing_is_fetched_to_its_mesh():
    pending = import_module(f"{PACKAGE}.pending")
    current = session.current()
    folder = import_module(f"{PACKAGE}.settings").own_folder()
    generate(seed=44)
    wait(lambda: current.job.event is not None)
    (noted,) = folder.glob("job-*.json")
    noted.rename(folder / "job-999999999.json")  # as if another Blender had asked for it and crashed
    job, current.job = current.job, None
    current.link.client.followed.pop(job.request)
    current.link.reset()
    current.left_over = pending.take_left_over(folder)
    assert current.left_over.imagine == job.imagine
    assert bpy.ops.turnaround.fetch_result() == {"FINISHED"}
    finished()
    (obj,) = results()
    assert stamps.stamp_of(obj).drawn.seed == 44
    clear()


def test_without_a_painter_the_panel_says_what_to_install():
    messages = import_module(f"{PACKAGE}.protocol.messages")
    hint = "Install it: turnaround models install sd-turbo"
    painters.offer((messages.PainterInfo(name="sd-turbo", label="SD-Turbo", ready=False, hint=hint),))
    assert not bpy.ops.turnaround.generate.poll()
    assert "No painter" in painters.problem().sentence
    assert painters.problem().hint == hint
    assert settings().painter == ""
    code = ""
    try:
        jobs.generation(bpy.context)
    except import_module(f"{PACKAGE}.protocol.errors").TurnaroundError as error:
        code = error.code
    assert code == "painter.missing"
    settings().source = "PICTURE"
    settings().picture = images.write("mug.png", np.full((32, 32, 4), 255, np.uint8))
    assert bpy.ops.turnaround.generate.poll()
    painters.withdraw()
    settings().source = "TEXT"
    assert bpy.ops.turnaround.generate.poll(), "a backend that has not answered may have one"


def test_one_of_several_painters_is_chosen_by_name():
    messages = import_module(f"{PACKAGE}.protocol.messages")
    first, second, third = (
        messages.PainterInfo(name=name, label=name.title(), ready=name != "first")
        for name in ("first", "second", "third")
    )
    painters.offer((first, second, third))
    settings().prompt = SAID
    assert settings().painter == "second"
    settings().painter = "third"
    painters.offer((third, first, second))
    assert settings().painter == "third"
    assert jobs.generation(bpy.context).imagine.painter == "third"
    painters.offer((first, second))
    assert jobs.generation(bpy.context).imagine.painter == "second", "the one that was chosen is gone"
    painters.withdraw()


def test_names_are_short_and_whole_words():
    assert drawn.name_of("  a   blue\nmug. ") == "a blue mug"
    long = drawn.name_of("a very " * 30 + "big mug")
    assert len(long.encode()) <= drawn.LONGEST_NAME
    assert long.endswith("very") or long.endswith("a")
    assert 0 < len(drawn.name_of("ä" * 100).encode()) <= drawn.LONGEST_NAME
    bpy.ops.preferences.addon_disable(module=PACKAGE)
