"""From the backend into the scene: when a result may be placed, and everything that comes with placing it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from . import screen
from .jobs import Job, after_drawing
from .protocol.errors import TurnaroundError
from .protocol.messages import Framing, Imagined, Result
from .scene import cutouts, drawn, images, preview, results, thumbnails

log = logging.getLogger(__name__)


def must_wait(job: Job) -> bool:
    """Whether this is no moment to change the scene: she is editing, so that undo is not ours, or a render reads it.

    A picture that was drawn, and a view, need no step of undo.
    """
    active = results.view_layer(_scene(job)).objects.active
    needs_undo = job.imagine is None and not job.settings.look_from
    if needs_undo and active is not None and active.mode != "OBJECT":
        job.waits_for = "Done: Leave " + active.mode.replace("_", " ").title() + " Mode to See It"
    elif bpy.app.is_job_running("RENDER"):
        job.waits_for = "Done: Waiting for the Render"
    else:
        job.waits_for = ""
    return bool(job.waits_for)


def deliver(job: Job, message: Result, arrays: Mapping[str, NDArray[Any]]) -> TurnaroundError | None:
    """Puts a result into the scene as one step of undo; returns what went wrong, if anything did."""
    preview.clear()
    if job.settings.look_from:
        return _deliver_views(job, message, arrays)
    scene = _scene(job)
    problem = None
    try:
        obj = results.add(message, arrays, job.wish, scene)
    except TurnaroundError as error:
        return error
    if job.wish.match_camera:
        try:
            results.match(obj, scene)
        except TurnaroundError as error:  # the camera may be gone by now; the result stays at the cursor
            problem = error
    if job.picture is not None and "cutout" in arrays:
        _show_cutout(job, job.picture, arrays["cutout"], message.report.framing, message.report.warnings)
    screen.show_colors()
    screen.push_undo(job.undo)
    return problem


def _deliver_views(job: Job, message: Result, arrays: Mapping[str, NDArray[Any]]) -> TurnaroundError | None:
    """Keeps views that were asked for as images; shows the last in the panel and in an Image Editor, if one is open."""
    views = arrays.get("views")
    if views is None or views.ndim != 4 or not len(views) or len(views) != len(message.view_cameras):
        return TurnaroundError("result.invalid", "The backend sent no view.", "Look again.")
    for view, camera in zip(views, message.view_cameras, strict=True):
        turned, raised = round(camera.azimuth_deg), round(camera.elevation_deg)
        shown = np.where(view[..., 3:] < images.FAINTEST, np.uint8(0), view)  # thumbnails show even clear pixels
        image = images.write(f"{job.wish.name} {turned}° {raised}°", shown)
        image.pack()
        image.use_fake_user = True
        image.preview_ensure()
    _scene(job).turnaround.looked = image
    screen.show_in_open_editor(image)
    return None


def deliver_picture(job: Job, message: Imagined, arrays: Mapping[str, NDArray[Any]]) -> Job:
    """Makes the picture that was drawn the source, as one step of undo; returns the job that goes on from there.

    Raises:
        TurnaroundError: `result.invalid`, `picture.form`, `picture.small`, `picture.transparent`.
    """
    if "picture" not in arrays:
        raise TurnaroundError("result.invalid", "The backend sent no picture.", "Generate again.")
    image = drawn.keep(message.report, arrays["picture"])
    scene = _scene(job)
    scene.turnaround.picture = image
    active = results.view_layer(scene).objects.active
    if active is None or active.mode == "OBJECT":  # the undo history of another mode is not ours
        screen.push_undo("Draw Picture")
    return after_drawing(job, image, message.report)


def show_preview(job: Job, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Shows what a progress event brought; one that cannot be shown is left out, because the job goes on."""
    scene = bpy.data.scenes.get(job.scene)
    if scene is None:
        return
    if job.picture is not None and job.framing is not None and "cutout" in arrays:
        _show_cutout(job, job.picture, arrays["cutout"], job.framing, job.notes)
    try:
        if preview.show(arrays, scene, job.wish):
            screen.show_colors()
    except TurnaroundError as error:
        log.warning("preview: %s", error)


def _show_cutout(
    job: Job, picture: NDArray[np.uint8], cutout: NDArray[np.uint8], framing: Framing, notes: tuple[str, ...]
) -> None:
    """Shows what was cut out of the job's picture, in its thumbnail and over it in Image Editors."""
    name, matte = job.wish.picture, cutout[..., 3].copy()
    thumbnails.show(name, thumbnails.compose(picture, matte, framing))
    cutouts.keep(name, cutouts.Cutout(matte, framing, job.wish.size, notes))
    screen.redraw_pictures()


def _scene(job: Job) -> bpy.types.Scene:
    """The job's scene, or the one at hand if that is gone."""
    return bpy.data.scenes.get(job.scene) or bpy.context.scene or bpy.data.scenes[0]
