"""What an artist sets: for the next job on the scene, for the next rebuild on each result."""

from __future__ import annotations

import math

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)
from bpy.types import PropertyGroup

from . import engines, painters, screen
from .protocol.messages import SINGLE_OBJECT
from .scene import images, thumbnails

RESOLUTIONS = {"DRAFT": 64, "STANDARD": 128, "FINE": 192}
"""Marching-cubes cells that each quality asks for."""


def _show_picture(settings: PropertyGroup, context: bpy.types.Context) -> None:
    if settings.picture is not None:
        thumbnails.drop(settings.picture.name)
        settings.picture.preview_ensure()  # here, because drawing must not change anything


def _preview(further: PropertyGroup, context: bpy.types.Context) -> None:
    if further.picture is not None:
        further.picture.preview_ensure()


def _is_source(owner: PropertyGroup, image: bpy.types.Image) -> bool:
    return images.is_source(image)


def _redraw_pictures(settings: PropertyGroup, context: bpy.types.Context) -> None:
    screen.redraw_pictures()


class TURNAROUND_PG_further(PropertyGroup):
    """A further picture of the subject, and from where it was taken."""

    picture: PointerProperty(
        name="Picture",
        description="Another picture of the same subject",
        type=bpy.types.Image,
        poll=_is_source,
        update=_preview,
    )
    azimuth: FloatProperty(
        name="Angle",
        description="How far around the subject its camera stood, counter-clockwise from above: 180° is from behind",
        subtype="ANGLE",
        min=math.radians(-360.0),
        max=math.radians(360.0),
        default=math.radians(180.0),
        precision=1,
    )
    same_elevation: BoolProperty(
        name="Same Elevation", description="It was taken from as far above as the first picture", default=True
    )
    elevation: FloatProperty(
        name="Elevation",
        description="How far above the horizon its camera stood",
        subtype="ANGLE",
        min=math.radians(-90.0),
        max=math.radians(90.0),
        precision=1,
    )


class TURNAROUND_PG_settings(PropertyGroup):
    """Settings of the next job, kept with the scene."""

    source: EnumProperty(
        name="Source",
        description="What the mesh is made from",
        items=[
            ("PICTURE", "Picture", "A picture that is there"),
            ("TEXT", "Text", "A picture that is drawn from a text first"),
        ],
    )
    prompt: StringProperty(
        name="Prompt", description="What to draw, in English: a blue mug with a thin handle", maxlen=1000
    )
    negative_prompt: StringProperty(name="Avoid", description="What the picture shall not show", maxlen=1000)
    single_object: BoolProperty(name="Single Object", description=f"Add to the prompt: {SINGLE_OBJECT}", default=True)
    painter_name: StringProperty(options={"HIDDEN"})
    painter: EnumProperty(
        name="Painter",
        description="What draws the picture",
        items=painters.items,
        get=painters.chosen_number,
        set=painters.choose_number,
    )
    picture: PointerProperty(
        name="Picture",
        description="The picture to work from; it may be unsaved, packed or painted",
        type=bpy.types.Image,
        poll=_is_source,
        update=_show_picture,
    )
    further: CollectionProperty(type=TURNAROUND_PG_further)
    looked: PointerProperty(name="View", description="The latest view from here", type=bpy.types.Image)
    matting: EnumProperty(
        name="Background",
        description="What takes the background off; a picture that is transparent there already stays as it is",
        items=[
            ("AUTO", "Automatic", "The best one that the backend has"),
            ("SAM", "Segment Anything", "A network that knows most things; one of the models in the preferences"),
            ("REMBG", "rembg", "A Python package beside the backend, if it is installed there"),
            ("GRABCUT", "GrabCut", "Always there; best on plain backgrounds, or with a box and points"),
        ],
    )
    show_cutout: BoolProperty(
        name="Show Cutout",
        description="Darken in the Image Editor what was cut away the last time",
        default=True,
        update=_redraw_pictures,
    )
    camera: EnumProperty(
        name="Camera",
        description="Where the picture was taken from",
        items=[
            ("AUTO", "Automatic", "Find the elevation from the picture"),
            ("SCENE", "Scene Camera", "Take elevation and field of view from the scene's camera"),
            ("MANUAL", "Manual", "Set the elevation by hand"),
        ],
    )
    elevation: FloatProperty(
        name="Elevation",
        description="How far above the horizon the picture's camera stood",
        subtype="ANGLE",
        min=math.radians(-90.0),
        max=math.radians(90.0),
        default=math.radians(15.0),
        precision=1,
    )
    engine_name: StringProperty(default="one2345", options={"HIDDEN"})
    engine: EnumProperty(
        name="Engine",
        description="What makes the mesh",
        items=engines.items,
        get=engines.chosen_number,
        set=engines.choose_number,
    )
    quality: EnumProperty(
        name="Quality",
        description="How much work goes into the result",
        items=[
            ("DRAFT", "Draft", f"Fewer views and steps, {RESOLUTIONS['DRAFT']} cells: to see whether a picture works"),
            ("STANDARD", "Standard", f"All views, {RESOLUTIONS['STANDARD']} cells"),
            ("FINE", "Fine", f"All views, more steps, {RESOLUTIONS['FINE']} cells"),
            ("CUSTOM", "Custom", "Set resolution and faces by hand"),
        ],
        default="STANDARD",
    )
    resolution: IntProperty(
        name="Resolution", description="Cells along the longest side of the object", min=16, max=512, default=128
    )
    target_faces: IntProperty(
        name="Faces",
        description="Reduce the mesh to about this many triangles; 0 keeps them all",
        min=0,
        max=4_000_000,
        step=1000,
    )
    seed: IntProperty(
        name="Seed", description="Another seed imagines the unseen sides differently", min=0, max=2**31 - 17
    )
    variants: IntProperty(
        name="Variants", description="How many results to make, each with the next seed", min=1, max=16, default=1
    )
    placement: EnumProperty(
        name="Place",
        description="Where the result stands",
        items=[
            ("CURSOR", "At Cursor", "Upright at the 3D cursor, its front to -Y"),
            ("CAMERA", "Match Camera", "Where it covers the subject in the picture, seen through the scene's camera"),
        ],
    )
    height: FloatProperty(
        name="Height", description="How tall the result is; 0 keeps it as it comes", subtype="DISTANCE", min=0.0
    )
    layout: EnumProperty(
        name="Variants",
        description="How variants stand",
        items=[
            ("SIDE", "Side by Side", "Next to each other along X"),
            ("STACK", "Stacked", "In one place, one of them visible"),
        ],
    )


class TURNAROUND_PG_result(PropertyGroup):
    """What the next rebuild of an object changes."""

    elevation: FloatProperty(
        name="Elevation",
        description="How far above the horizon the picture's camera stood",
        subtype="ANGLE",
        min=math.radians(-90.0),
        max=math.radians(90.0),
        precision=1,
    )
    resolution: IntProperty(
        name="Resolution", description="Cells along the longest side of the object", min=16, max=512, default=128
    )
    target_faces: IntProperty(
        name="Faces",
        description="Reduce the mesh to about this many triangles; 0 keeps them all",
        min=0,
        max=4_000_000,
        step=1000,
    )


class TURNAROUND_PG_point(PropertyGroup):
    """A point on an image that is on its subject or is not."""

    place: FloatVectorProperty(name="Place", description="From the lower left corner", size=2, min=0.0, max=1.0)
    on_subject: BoolProperty(name="On the Subject", default=True)


class TURNAROUND_PG_subject(PropertyGroup):
    """Where the subject of an image is, if the artist has said so; in fractions of it, so that it may be resized."""

    has_box: BoolProperty(name="Has a Box")
    box: FloatVectorProperty(name="Box", description="Left, bottom, right, top", size=4, min=0.0, max=1.0)
    points: CollectionProperty(type=TURNAROUND_PG_point)


CLASSES = (
    TURNAROUND_PG_further,
    TURNAROUND_PG_settings,
    TURNAROUND_PG_result,
    TURNAROUND_PG_point,
    TURNAROUND_PG_subject,
)


def register() -> None:
    """Adds the settings to scenes, objects and images."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.turnaround = PointerProperty(type=TURNAROUND_PG_settings)
    bpy.types.Object.turnaround = PointerProperty(type=TURNAROUND_PG_result)
    bpy.types.Image.turnaround = PointerProperty(type=TURNAROUND_PG_subject)


def unregister() -> None:
    """Takes them away; what is saved in files stays."""
    del bpy.types.Image.turnaround
    del bpy.types.Object.turnaround
    del bpy.types.Scene.turnaround
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
