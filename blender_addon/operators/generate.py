"""Generate from Image, and what can be done while it runs."""

from __future__ import annotations

import random
from collections.abc import Callable

import bpy

from .. import jobs, painters, session
from ..protocol.errors import TurnaroundError


class TURNAROUND_OT_generate(bpy.types.Operator):
    """Make a coloured mesh from the picture, or from one that is drawn from the text first"""

    bl_idname = "turnaround.generate"
    bl_label = "Generate from Image"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a source and nothing else runs."""
        return idle(cls) and has_source(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Starts the job; its results arrive by the timer."""
        return begin(self, lambda: jobs.generation(context))


def label(context: bpy.types.Context) -> str:
    """What the button for Generate says."""
    return f"Generate from {'Text' if context.scene.turnaround.source == 'TEXT' else 'Image'}"


class TURNAROUND_OT_cancel(bpy.types.Operator):
    """Stop the job and put nothing into the scene"""

    bl_idname = "turnaround.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether a job runs that is not being cancelled."""
        job = session.current().job
        return job is not None and not job.cancelling

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend to stop."""
        session.current().cancel()
        return {"FINISHED"}


class TURNAROUND_OT_keep(bpy.types.Operator):
    """End the drawing now and build the result from what there is"""

    bl_idname = "turnaround.keep"
    bl_label = "Keep This One"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is something to keep."""
        job = session.current().job
        if job is None or not job.can_keep:
            cls.poll_message_set("There is no shape to keep yet, or the result is being built from it already")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend to finish early."""
        session.current().keep()
        return {"FINISHED"}


class TURNAROUND_OT_fetch_result(bpy.types.Operator):
    """Fetch the result of the job that was running when Blender was closed"""

    bl_idname = "turnaround.fetch_result"
    bl_label = "Fetch Result"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is one, and no other job runs."""
        return session.current().left_over is not None and idle(cls)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend for it."""
        try:
            session.current().fetch_left_over()
        except TurnaroundError as error:
            session.current().fail(error)
            return {"CANCELLED"}
        return {"FINISHED"}


class TURNAROUND_OT_forget_result(bpy.types.Operator):
    """Give up the job that was running when Blender was closed"""

    bl_idname = "turnaround.forget_result"
    bl_label = "Forget It"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Gives it up."""
        session.current().forget_left_over()
        return {"FINISHED"}


class TURNAROUND_OT_roll_seed(bpy.types.Operator):
    """Choose another seed by chance"""

    bl_idname = "turnaround.roll_seed"
    bl_label = "Roll Seed"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}  # noqa: RUF012  (Blender reads it from the class)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Sets it."""
        context.scene.turnaround.seed = random.randrange(10_000)
        return {"FINISHED"}


def idle(operator: type[bpy.types.Operator]) -> bool:
    """Whether no job runs; else says so in the operator's tooltip."""
    if session.current().job is not None:
        operator.poll_message_set("A job is running")
        return False
    return True


def has_source(operator: type[bpy.types.Operator], context: bpy.types.Context) -> bool:
    """Whether there is a picture, or a text and what draws it; else says in the operator's tooltip what is missing."""
    settings = context.scene.turnaround
    if settings.source == "TEXT":
        problem = painters.problem()
        missing = (
            problem.sentence if problem is not None else "" if settings.prompt.strip() else "Write what to draw first"
        )
    else:
        missing = "" if jobs.picture_of(context) is not None else "Choose a picture first"
    if missing:
        operator.poll_message_set(missing)
    return not missing


def begin(operator: bpy.types.Operator, make: Callable[[], jobs.Job]) -> set[str]:
    """Starts the job that `make` returns; what goes wrong is shown in the panel."""
    current = session.current()
    try:
        current.begin(make())
    except TurnaroundError as error:
        current.fail(error)
        operator.report({"WARNING"}, error.sentence)
        return {"CANCELLED"}
    return {"FINISHED"}


CLASSES = (
    TURNAROUND_OT_generate,
    TURNAROUND_OT_cancel,
    TURNAROUND_OT_keep,
    TURNAROUND_OT_fetch_result,
    TURNAROUND_OT_forget_result,
    TURNAROUND_OT_roll_seed,
)
