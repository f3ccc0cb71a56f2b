"""What an artist says of a picture's subject, and its cutout: kept, converted, painted, sent. Runs inside Blender."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

import bpy
import numpy as np

PACKAGE = "bl_ext.user_default.turnaround"
jobs, engines = (import_module(f"{PACKAGE}.{name}") for name in ("jobs", "engines"))
cutouts, images, subjects = (import_module(f"{PACKAGE}.scene.{name}") for name in ("cutouts", "images", "subjects"))
messages = import_module(f"{PACKAGE}.protocol.messages")
validation = import_module(f"{PACKAGE}.protocol.validation")

WIDTH, HEIGHT = 200, 100


def picture(name="mug.png", width=WIDTH, height=HEIGHT):
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[10:30, 20:60, :3] = 200, 30, 30  # rows 10-30 from the top
    image = images.write(name, rgba)
    bpy.context.scene.turnaround.picture = image
    return image


def asked():
    return jobs.generation(bpy.context)


def test_marks_reach_the_backend_in_pixels_with_the_top_row_first():
    image = picture()
    bpy.context.scene.turnaround.matting = "GRABCUT"
    assert bpy.ops.turnaround.mark_box(corner=(0.1, 0.9), opposite=(0.3, 0.7)) == {"FINISHED"}
    assert bpy.ops.turnaround.mark_point(place=(0.2, 0.8)) == {"FINISHED"}
    assert bpy.ops.turnaround.mark_point(place=(1.0, 0.0), on_subject=False) == {"FINISHED"}
    assert subjects.describe(image) == "Box, 2 points"
    job = asked()
    assert job.settings.matting == "grabcut"
    left, top, right, bottom = job.settings.subject_box
    assert np.allclose([left, top, right, bottom], [20, 10, 60, 30], atol=1e-3)
    assert (job.picture[round(top) : round(bottom), round(left) : round(right), 1] == 30).all(), "it is the red part"
    on, off = job.settings.subject_points
    assert np.allclose([on.x, on.y, off.x, off.y], [40, 20, 200, 100], atol=1e-3)
    assert (on.subject, off.subject) == (True, False)
    validation.check_subject(job.settings, job.picture)
    assert job.matte is None
    assert bpy.ops.turnaround.clear_marks() == {"FINISHED"}
    assert not bpy.ops.turnaround.clear_marks.poll()
    assert (asked().settings.subject_box, asked().settings.subject_points) == (None, ())
    bpy.context.scene.turnaround.matting = "AUTO"


def test_marks_fit_a_picture_that_is_sent_smaller():
    image = bpy.data.images.new("wide", images.LARGEST_SENT_SIDE * 2 + 3, 32)
    subjects.set_box(image, (0.0, 0.0), (1.0, 1.0))
    subjects.add_point(image, (0.5, 0.25), on_subject=True)
    rgba = images.read(image)
    settings = subjects.settings_of(image)
    validation.check_subject(messages.Settings(**settings), rgba)
    assert settings["subject_box"] == (0.0, 0.0, rgba.shape[1], rgba.shape[0])
    (point,) = settings["subject_points"]
    assert rgba.shape == (10, 2731, 4), "a third, without the two rows at the bottom and the column at the right"
    assert np.allclose([point.x * 3, point.y * 3], [0.5 * image.size[0], 24.0], atol=1e-2)
    bpy.data.images.remove(image)


def test_marks_outside_and_too_many_are_refused():
    image = picture()
    assert bpy.ops.turnaround.mark_box(corner=(1.2, 0.0), opposite=(2.0, 1.0)) == {"CANCELLED"}
    assert bpy.ops.turnaround.mark_point(place=(-0.1, 0.5)) == {"CANCELLED"}
    assert not subjects.is_marked(image)
    for _ in range(subjects.MOST_POINTS):
        assert subjects.add_point(image, (0.5, 0.5), on_subject=True)
    assert not subjects.add_point(image, (0.5, 0.5), on_subject=True)
    asked()
    assert bpy.ops.turnaround.remove_point(number=3) == {"FINISHED"}
    assert len(image.turnaround.points) == subjects.MOST_POINTS - 1
    subjects.clear(image)


def test_each_mark_is_one_step_of_undo():
    name = picture().name
    bpy.ops.ed.undo_push(message="Before")
    bpy.ops.turnaround.mark_box("EXEC_DEFAULT", True, corner=(0.1, 0.1), opposite=(0.4, 0.4))
    bpy.ops.turnaround.mark_point("EXEC_DEFAULT", True, place=(0.3, 0.3))
    assert subjects.describe(bpy.data.images[name]) == "Box, 1 point"
    bpy.ops.ed.undo()
    assert subjects.describe(bpy.data.images[name]) == "Box"
    bpy.ops.ed.undo()
    assert not subjects.is_marked(bpy.data.images[name])
    bpy.ops.ed.redo()
    assert subjects.describe(bpy.data.images[name]) == "Box"


def test_marks_are_saved_with_the_image():
    image = picture("kept")
    image.pack()
    subjects.set_box(image, (0.25, 0.5), (0.75, 1.0))
    subjects.add_point(image, (0.5, 0.75), on_subject=False)
    before = subjects.settings_of(image)
    with tempfile.TemporaryDirectory() as folder:
        bpy.ops.wm.save_as_mainfile(filepath=str(Path(folder) / "kept.blend"))
        bpy.ops.wm.open_mainfile(filepath=str(Path(folder) / "kept.blend"))
    assert subjects.settings_of(bpy.data.images["kept"]) == before


# ---------------------------------------------------------------------------------------------------------- cutouts


def cutout_of(image):
    """A cutout whose subject is the right half of a square that reaches beyond the picture."""
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, 32:] = 255
    framing = messages.Framing(center_x=40.0, center_y=20.0, side=128.0)
    cutout = cutouts.Cutout(alpha, framing, tuple(image.size), ("It is dark.",))
    cutouts.keep(image.name, cutout)
    return cutout


def test_matte_lies_where_the_framing_says_at_any_size():
    cutout = cutout_of(picture())
    matte = cutout.matte(WIDTH, HEIGHT)
    assert matte.shape == (HEIGHT, WIDTH)
    assert (matte[:80, 42:102] == 255).all(), "it begins in the middle of the square"
    assert not matte[:, :38].any()
    assert not matte[86:].any(), "the square ends at row 84"
    assert not matte[:, 106:].any(), "and at column 104"
    small = cutout.matte(WIDTH // 4, HEIGHT // 4)
    assert abs(int(small.sum()) * 16 / int(matte.sum()) - 1.0) < 0.03
    edge = cutout.matte(WIDTH * 4, HEIGHT * 4)[100, 120:200]
    assert (np.diff(edge.astype(int)) >= 0).all(), "the edge is smooth, whatever the size"


def test_painted_cutout_is_the_matte_of_the_next_job():
    image = picture("lamp.png")
    assert cutouts.known(image.name) is None
    cutout_of(image)
    assert bpy.ops.turnaround.edit_cutout() == {"FINISHED"}
    copy = bpy.context.scene.turnaround.picture
    assert copy.name == "lamp Cutout"
    assert cutouts.original(copy) == image.name
    assert copy.packed_file is not None
    job = asked()
    assert np.array_equal(job.matte, cutouts.known(image.name).matte(WIDTH, HEIGHT))
    assert np.array_equal(job.picture, images.read(image)), "what is clear keeps its colours"
    assert job.wish.name == "lamp"
    assert job.wish.picture == copy.name
    validation.check_picture(job.picture, job.matte)

    pixels = np.array(copy.pixels[:]).reshape(HEIGHT, WIDTH, 4)
    pixels[..., 3] = 0.0
    pixels[70:90, 20:60, 3] = 1.0  # rows from the bottom
    copy.pixels.foreach_set(pixels.astype(np.float32).ravel())
    again = asked()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:30, 20:60] = 255
    assert np.array_equal(again.matte, expected)
    assert np.array_equal(again.picture, job.picture)
    assert not bpy.ops.turnaround.mark_box.poll(), "a cutout is painted, not marked"
    assert not bpy.ops.turnaround.edit_cutout.poll()


def test_alpha_painted_on_any_picture_is_sent():
    image = picture()
    pixels = np.array(image.pixels[:]).reshape(HEIGHT, WIDTH, 4)
    pixels[:50, :, 3] = 0.0  # the lower half is erased
    image.pixels.foreach_set(pixels.astype(np.float32).ravel())
    sent = asked().picture
    assert (sent[:50, :, 3] == 255).all()
    assert not sent[50:, :, 3].any()


def test_what_is_known_of_old_pictures_is_bounded_and_goes_with_the_file():
    image = picture()
    cutout = cutout_of(image)
    for number in range(cutouts.MOST_KNOWN + 3):
        cutouts.keep(f"other {number}", cutout)
    assert cutouts.known(image.name) is None
    assert cutouts.known(f"other {cutouts.MOST_KNOWN + 2}") is cutout
    bpy.ops.wm.read_homefile(use_empty=True)
    assert cutouts.known(f"other {cutouts.MOST_KNOWN + 2}") is None
