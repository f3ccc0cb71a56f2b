"""Jobs as Blender knows them: what was asked, how it is to stand, and how far it is."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

import bpy
import msgspec
import numpy as np
from numpy.typing import NDArray

from . import engines, painters
from .properties import RESOLUTIONS
from .protocol.errors import TurnaroundError
from .protocol.messages import Direction, Event, Framing, Imagine, PictureReport, PipelineInfo, Settings
from .protocol.options import of_views_alone, still_fitting
from .protocol.validation import check_engine, check_imagine, check_settings
from .scene import cutouts, drawn, images, subjects
from .scene.cameras import picture_view, viewport_direction
from .scene.results import Wish, in_the_way
from .scene.stamps import Stamp, stamp_of, variants_of

SAME_ELEVATION_DEG = 0.05
"""An elevation that differs by less was not touched by the artist."""
DRAWN_SIZE = (512, 512)
"""Of a picture that is not drawn yet, until its true size is known: painters draw squares."""


@dataclass
class Job:
    """One job from its request to its end; with a text, first the backend's job of drawing, then that of meshing.

    Attributes:
        pipeline: the engine's name.
        settings: what is asked of it.
        picture: uint8 [H, W, 4]; None where `picture_of` names a job whose picture is meant, or it is to be drawn.
        extra_pictures: uint8 [H, W, 4] each, one for each of `settings.extra_pictures`; empty with `picture_of`.
        matte: uint8 [H, W], the subject's alpha where the artist has painted one.
        picture_of: see there.
        imagine: the picture that is to be drawn first; None once it is there.
        wish: how the results are to stand.
        scene: name of the scene that they go to.
        undo: what the undo history calls each result.
        request: the client's name for it; "" until it was submitted.
        id: the backend's name for it; "" until it was accepted.
        queue_position: how many are before it.
        event: the newest progress.
        event_time: when it came, in seconds of the monotonic clock.
        cancelling: whether Cancel was pressed.
        keeping: whether Keep This One was pressed.
        waits_for: why results wait to be placed, for people; "" if they do not.
        connected: whether the backend can be reached.
        in_the_way: what stands in the place where the shape appears; "" if nothing does.
        notes: what is wrong with the picture, for people; known before the heavy work.
        framing: of the cutout in the picture; None until it is known.
    """

    pipeline: str
    settings: Settings
    picture: NDArray[Any] | None
    wish: Wish
    scene: str
    undo: str
    extra_pictures: tuple[NDArray[Any], ...] = ()
    matte: NDArray[Any] | None = None
    picture_of: str | None = None
    imagine: Imagine | None = None
    request: str = ""
    id: str = ""
    queue_position: int = 0
    event: Event | None = None
    event_time: float = 0.0
    cancelling: bool = False
    keeping: bool = False
    waits_for: str = ""
    connected: bool = True
    in_the_way: str = ""
    notes: tuple[str, ...] = ()
    framing: Framing | None = None

    def hear(self, event: Event) -> None:
        """Takes note of progress."""
        self.event, self.event_time = event, time.monotonic()
        self.notes, self.framing = event.notes or self.notes, event.framing or self.framing

    @property
    def fraction(self) -> float:
        """How much of it is done, 0..1."""
        return self.event.fraction if self.event else 0.0

    @property
    def can_keep(self) -> bool:
        """Whether *Keep This One* would do something."""
        return bool(self.event and self.event.can_keep) and not self.cancelling and not self.keeping

    def describe(self) -> str:
        """The progress bar's text: stage, count and remaining time, or what it waits for."""
        if self.waits_for:
            return self.waits_for
        if self.cancelling:
            return "Cancelling"
        if not self.connected:
            return "Waiting for the Backend"
        position = self.event.queue_position if self.event else self.queue_position
        if position:
            return f"Waiting, {position} before this"
        if self.event is None:
            return "Starting"
        text = self.event.stage
        if self.event.total > 1:
            text += f", Step {self.event.step} of {self.event.total}"
        remaining = self.event.remaining_seconds
        if remaining is not None:
            remaining -= time.monotonic() - self.event_time  # a stage may be long and tell nothing meanwhile
        if remaining is not None and remaining >= 1.0:
            seconds = round(remaining)
            text += f", {seconds} s left" if seconds < 90 else f", {round(seconds / 60)} min left"
        return text


def picture_of(context: bpy.types.Context) -> bpy.types.Image | None:
    """The picture that Generate would take here: of this Image Editor, else the chosen one, else any open one."""

    def open_in(area: bpy.types.Area | None) -> bpy.types.Image | None:
        image = area.spaces.active.image if area is not None and area.type == "IMAGE_EDITOR" else None
        return image if image is not None and images.is_source(image) else None

    areas = context.screen.areas if context.screen else ()
    choices = [open_in(context.area), context.scene.turnaround.picture, *map(open_in, areas)]
    return next((image for image in choices if image is not None), None)


def generation(context: bpy.types.Context) -> Job:
    """The job that Generate starts.

    Raises:
        TurnaroundError: no picture or one that cannot be used, no text or nothing to draw it with, an engine without
            weights, no camera, or a setting out of bounds.
    """
    scene = context.scene
    chosen = scene.turnaround
    imagine, picture, pixels, matte, size = None, None, None, None, DRAWN_SIZE
    if chosen.source == "TEXT":
        imagine = _imagination(scene)
        name = called = drawn.name_of(imagine.prompt) or "Text"
    else:
        picture = picture_of(context)
        if picture is None:
            raise TurnaroundError(
                "picture.missing", "There is no picture to work from.", "Open one under Picture.", field="picture"
            )
        pixels, matte = cutouts.read(picture)
        size = (pixels.shape[1], pixels.shape[0])
        called = picture.name
        name = (cutouts.original(picture) or called).rsplit(".", 1)[0] or called
    match_camera = chosen.placement == "CAMERA"
    if match_camera:
        picture_view(scene, size)  # better to say now than after the work that there is no camera
    wish = Wish(
        name=name,
        picture=called,
        size=size,
        group=uuid.uuid4().hex,
        cursor=tuple(scene.cursor.location),
        height=chosen.height,
        match_camera=match_camera,
        stacked=match_camera or chosen.layout == "STACK",
        drawn=drawn.report_of(picture),
        further=tuple(further.picture.name for further in _further(scene)),
    )
    settings, engine = check_settings(_settings(scene, size, picture)), engines.chosen(scene)
    if engine is not None:
        check_engine(engine.name, settings, engines.offered())
    return Job(
        pipeline=engine.name if engine else chosen.engine_name,
        settings=settings,
        picture=pixels,
        extra_pictures=tuple(images.read(further.picture) for further in _further(scene)),
        matte=matte,
        wish=wish,
        scene=scene.name,
        undo="Generate from Text" if imagine else "Generate from Image",
        imagine=imagine,
        in_the_way="" if match_camera else in_the_way(scene, scene.cursor.location, chosen.height or 1.0),
    )


def _imagination(scene: bpy.types.Scene) -> Imagine:
    chosen = scene.turnaround
    painter = painters.chosen(scene)
    imagine = Imagine(
        request=uuid.uuid4().hex,
        prompt=chosen.prompt,
        negative_prompt=chosen.negative_prompt,
        single_object=chosen.single_object,
        seed=chosen.seed,
        painter=painter.name if painter else "",
    )
    offered = painters.offered()
    return imagine if offered is None else check_imagine(imagine, offered)


def after_drawing(job: Job, image: bpy.types.Image, report: PictureReport) -> Job:
    """The job of meshing the picture that was drawn for it; raises as `images.read`."""
    pixels = images.read(image)
    wish = replace(job.wish, picture=image.name, size=(pixels.shape[1], pixels.shape[0]), drawn=report)
    settings = msgspec.structs.replace(job.settings, **subjects.settings_of(image))
    extras = job.extra_pictures or further_pixels(wish)
    return Job(job.pipeline, settings, pixels, wish, job.scene, job.undo, extras, in_the_way=job.in_the_way)


def further_pixels(wish: Wish) -> tuple[NDArray[Any], ...]:
    """The pixels of a result's further pictures, as they are now.

    Raises:
        TurnaroundError: `picture.missing`; as `images.read`.
    """
    gone = next((name for name in wish.further if name not in bpy.data.images), None)
    if gone is not None:
        raise TurnaroundError(
            "picture.missing",
            f'The picture "{gone}" is gone.',
            "Choose it again, and generate.",
            field="extra_pictures",
        )
    return tuple(images.read(bpy.data.images[name]) for name in wish.further)


def _settings(scene: bpy.types.Scene, size: tuple[int, int], picture: bpy.types.Image | None) -> Settings:
    chosen = scene.turnaround
    elevation, fov = None, None
    if chosen.camera == "MANUAL":
        elevation = math.degrees(chosen.elevation)
    elif chosen.camera == "SCENE":
        view = picture_view(scene, size)
        elevation = view.elevation_deg
        fov = min(max(view.fov_deg, 1.0), 120.0) if not view.orthographic else None
    custom = chosen.quality == "CUSTOM"
    engine = engines.chosen(scene)
    return Settings(
        seed=chosen.seed,
        variants=chosen.variants,
        elevation_deg=elevation,
        fov_deg=fov,
        resolution=chosen.resolution if custom else RESOLUTIONS[chosen.quality],
        target_faces=(chosen.target_faces or None) if custom else None,
        quality="standard" if custom else chosen.quality.lower(),
        matting=chosen.matting.lower(),
        **(subjects.settings_of(picture) if picture is not None else {}),
        extra_pictures=tuple(
            Direction(
                azimuth_deg=math.degrees(further.azimuth),
                elevation_deg=None if further.same_elevation else math.degrees(further.elevation),
            )
            for further in _further(scene)
        ),
        options=engines.options_of(scene, engine) if engine else {},
    )


def _further(scene: bpy.types.Scene) -> list[Any]:
    """The further pictures that are chosen, if the engine takes them."""
    engine = engines.chosen(scene)
    if engine is None or not engine.several_pictures:
        return []
    return [further for further in scene.turnaround.further if further.picture is not None]


def looked_at(context: bpy.types.Context) -> Stamp | None:
    """The result that Look from Here looks at, if one is selected."""
    return stamp_of(context.active_object)


def looking_engine(context: bpy.types.Context) -> PipelineInfo | None:
    """The engine that draws the view: the one that made the selected result if it can, else the chosen one."""
    stamp = looked_at(context)
    own = engines.offered().get(stamp.report.pipeline) if stamp is not None else None
    choices = (own, engines.chosen(context.scene))
    return next((engine for engine in choices if engine is not None and engine.novel_views), None)


def looking(context: bpy.types.Context, view: bpy.types.RegionView3D) -> Job:
    """The job that draws the view from where a 3D View looks: at the selected result, else at what it would make.

    With the settings of the result's own engine, the views that it was made of come from the cache, and the new one
    agrees with them. Without a result it is the only one that is drawn.

    Raises:
        TurnaroundError: as `generation`; `engine.views`, the engine cannot.
    """
    stamp, engine, scene = looked_at(context), looking_engine(context), context.scene
    if engine is None:
        raise TurnaroundError(
            "engine.views", "No engine is there that draws views from anywhere.", "Choose another engine, such as 3DiM."
        )
    frame_from_world = None
    if stamp is None:
        job = generation(context)
        job.settings = msgspec.structs.replace(job.settings, options=of_views_alone(job.settings.options, engine))
    else:
        obj = context.active_object
        frame_from_world = np.array(obj.matrix_world.inverted())
        frame_from_world[:3] /= stamp.scale
        frame_from_world[2, 3] += stamp.bottom
        settings = _asked_before(stamp)
        if engine.name != stamp.report.pipeline:
            settings = msgspec.structs.replace(
                settings, elevation_deg=stamp.report.elevation_deg, options=engines.options_of(scene, engine)
            )
        job = _from_earlier(stamp, settings, _wish_like(obj, stamp), scene, "")
    looks = (viewport_direction(view, frame_from_world),)
    settings = check_settings(msgspec.structs.replace(job.settings, variants=1, look_from=looks))
    return replace(job, pipeline=engine.name, settings=settings, undo="Look from Here", in_the_way="")


def rebuilding(obj: bpy.types.Object, stamp: Stamp, scene: bpy.types.Scene) -> Job:
    """The job that gives an object a new mesh; all that its changes leave alone comes from the backend's cache.

    Raises:
        TurnaroundError: a setting out of bounds.
    """
    offered, report = obj.turnaround, stamp.report
    elevation = math.degrees(offered.elevation)
    touched = abs(elevation - report.elevation_deg) > SAME_ELEVATION_DEG
    settings = msgspec.structs.replace(
        _asked_before(stamp),
        elevation_deg=elevation if touched else report.settings.elevation_deg,
        resolution=offered.resolution,
        target_faces=offered.target_faces or None,
    )
    wish = replace(_wish_like(obj, stamp), replaces=obj.session_uid)
    return _from_earlier(stamp, settings, wish, scene, "Rebuild")


def regenerating(obj: bpy.types.Object, stamp: Stamp, scene: bpy.types.Scene) -> Job:
    """The job that imagines the same picture with the next seed, beside the results that there are."""
    siblings = variants_of(stamp.group)
    seeds = [other.report.seed for sibling in siblings if (other := stamp_of(sibling))]
    settings = msgspec.structs.replace(_asked_before(stamp), seed=max(seeds) + 1)
    first = siblings[0]
    stacked = stamp.overlap is not None or scene.turnaround.layout == "STACK"
    wish = replace(_wish_like(obj, stamp), cursor=tuple(first.matrix_world.translation), stacked=stacked)
    return _from_earlier(stamp, settings, wish, scene, "Regenerate")


def _asked_before(stamp: Stamp) -> Settings:
    """What made a result: one variant with its own seed, without settings that its engine does not have any more."""
    settings, engine = stamp.report.settings, engines.offered().get(stamp.report.pipeline)
    options = settings.options if engine is None else still_fitting(settings.options, engine)
    return msgspec.structs.replace(settings, seed=stamp.report.seed, variants=1, options=options)


def _wish_like(obj: bpy.types.Object, stamp: Stamp) -> Wish:
    heights = [corner[2] for corner in obj.bound_box]
    return Wish(
        name=obj.name.rsplit(".", 1)[0],
        picture=stamp.picture,
        size=stamp.size,
        group=stamp.group,
        cursor=tuple(obj.matrix_world.translation),
        height=max(heights) - min(heights) if stamp.scale != 1.0 else 0.0,
        match_camera=stamp.overlap is not None,
        drawn=stamp.drawn,
        further=stamp.further,
    )


def _from_earlier(stamp: Stamp, settings: Settings, wish: Wish, scene: bpy.types.Scene, undo: str) -> Job:
    checked = check_settings(settings)
    return Job(stamp.report.pipeline, checked, None, wish, scene.name, undo, picture_of=stamp.job)


def with_its_picture(job: Job) -> Job | None:
    """The same job with the pixels themselves, for a backend that has forgotten the earlier job; None without them."""
    picture = bpy.data.images.get(job.wish.picture)
    if job.picture_of is None or picture is None:
        return None
    try:
        pixels, matte = cutouts.read(picture)
        extras = further_pixels(job.wish)
    except TurnaroundError:
        return None
    wish = replace(job.wish, size=(pixels.shape[1], pixels.shape[0]))
    return replace(
        job,
        picture=pixels,
        extra_pictures=extras,
        matte=matte,
        picture_of=None,
        wish=wish,
        request="",
        id="",
        event=None,
    )
