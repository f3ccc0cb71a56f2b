"""From a result's arrays to an ordinary object that carries its story, and back out of the way again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

from ..protocol.errors import TurnaroundError
from ..protocol.messages import PictureReport, Result
from . import images, materials, meshes, placement
from .cameras import picture_view
from .stamps import Stamp, pack_matte, stamp_of, stamped, variants_of

SAME_PLACE = 1e-4
"""Metres."""
GROUP_KEY = "turnaround_group"
"""Marks a collection that was made for variants."""


@dataclass(frozen=True)
class Wish:
    """How the artist wants her result to stand; read from the scene when the job is asked for.

    Attributes:
        name: of the picture, for the objects.
        picture: name of the picture's datablock.
        size: of the picture as it was sent, in pixels.
        group: of the variants; see `Stamp`.
        cursor: where it stands, world.
        height: metres, 0 as it comes.
        match_camera: cover the subject in the picture instead of standing at the cursor.
        stacked: variants in one place with one visible, instead of side by side.
        drawn: how the picture was drawn, if that was from a text.
        further: names of the further pictures' datablocks.
        replaces: `session_uid` of the object whose mesh this is a new version of, or None.
    """

    name: str
    picture: str
    size: tuple[int, int]
    group: str
    cursor: tuple[float, float, float]
    height: float = 0.0
    match_camera: bool = False
    stacked: bool = False
    drawn: PictureReport | None = None
    further: tuple[str, ...] = ()
    replaces: int | None = None


def add(message: Result, arrays: Mapping[str, NDArray[Any]], wish: Wish, scene: bpy.types.Scene) -> bpy.types.Object:
    """Puts a result into the scene, at the cursor or in the place of the one it replaces; pushes no undo step.

    Raises:
        TurnaroundError: `result.invalid`. Nothing has been added then.
    """
    vertices, faces, colors = (arrays.get(name) for name in ("vertices", "faces", "colors"))
    if vertices is None or faces is None:
        raise TurnaroundError("result.invalid", "The backend sent a result without a mesh.", "Generate again.")
    meshes.check(vertices, faces, colors)
    base = meshes.base_of(vertices, wish.height)
    target = find(wish.replaces)
    if target is not None:
        old = stamp_of(target)
        if old is not None and wish.height <= 0.0:
            base = meshes.Base(old.scale, base.bottom)
    mesh = meshes.build(wish.name, base.local(vertices), faces, colors)
    mesh.materials.append(materials.shared_material())
    cutout = arrays.get("cutout")
    stamp = Stamp(
        job=message.job,
        index=message.index,
        group=wish.group,
        picture=wish.picture,
        size=wish.size,
        report=message.report,
        matte=pack_matte(cutout) if cutout is not None else pack_matte(np.zeros((1, 1, 4), np.uint8)),
        scale=base.scale,
        bottom=base.bottom,
        drawn=wish.drawn,
        further=wish.further,
    )
    obj = _replace(target, mesh) if target is not None else _stand(mesh, message, wish, scene)
    stamp.views = _keep_views(obj.name, arrays, target)
    stamp.put(obj)
    _offer(obj, message)
    return obj


def in_the_way(scene: bpy.types.Scene, cursor: Vector, size: float) -> str:
    """Name of an earlier result at the cursor, or of what would hide a result of this size there; or ""."""
    for obj in scene.objects:
        if (
            stamp_of(obj) is not None
            and obj.visible_get()
            and (obj.matrix_world.translation - cursor).length < SAME_PLACE
        ):
            return obj.name
    return placement.hiding(scene, cursor, size)


def find(session_uid: int | None) -> bpy.types.Object | None:
    """The object with this id, which undo does not change, unlike its address."""
    return next((obj for obj in bpy.data.objects if session_uid and obj.session_uid == session_uid), None)


def _replace(obj: bpy.types.Object, mesh: bpy.types.Mesh) -> bpy.types.Object:
    """Gives an object its new mesh and keeps its materials, place and modifiers."""
    old = obj.data
    mesh.materials.clear()
    for material in old.materials:
        mesh.materials.append(material)
    obj.data = mesh
    name = old.name
    if old.users == 0:
        bpy.data.meshes.remove(old)
    mesh.name = name
    return obj


def _stand(mesh: bpy.types.Mesh, message: Result, wish: Wish, scene: bpy.types.Scene) -> bpy.types.Object:
    """A new object at the cursor, beside the variants that stand already, selected and active."""
    siblings = variants_of(wish.group)
    obj = bpy.data.objects.new(wish.name, mesh)
    _collection(wish, message.count, siblings, scene).objects.link(obj)
    if siblings and not wish.stacked:
        width = max(map(placement.width, [*siblings, obj]))
        obj.matrix_world = placement.at_cursor(Vector(wish.cursor), len(siblings), width)
    else:
        obj.matrix_world = placement.at_cursor(Vector(wish.cursor))
    layer = view_layer(scene)
    layer.update()  # a view layer learns of a new object only then
    if wish.stacked:
        for sibling in siblings:
            show(sibling, False, layer)
    for other in layer.objects:
        other.select_set(False, view_layer=layer)
    if obj.name in layer.objects:
        obj.select_set(True, view_layer=layer)
        layer.objects.active = obj
    return obj


def view_layer(scene: bpy.types.Scene) -> bpy.types.ViewLayer:
    """The view layer of a window that shows the scene, else its first; a timer has no context to ask."""
    windows = bpy.context.window_manager.windows
    shown = (window.view_layer for window in windows if window.scene == scene)
    return next(shown, scene.view_layers[0])


def _collection(
    wish: Wish, count: int, siblings: list[bpy.types.Object], scene: bpy.types.Scene
) -> bpy.types.Collection:
    """Where a result goes: with its siblings; else, if it will have some, into a collection of their own."""
    for sibling in siblings:
        if sibling.users_collection:
            return sibling.users_collection[0]
    parent = view_layer(scene).active_layer_collection.collection
    if count == 1:
        return parent
    own = bpy.data.collections.new(wish.name)
    own[GROUP_KEY] = wish.group
    parent.children.link(own)
    return own


def _keep_views(name: str, arrays: Mapping[str, NDArray[Any]], target: bpy.types.Object | None) -> str:
    """The drawn views as one packed image, which is saved with the file; its name, or "" if there are none."""
    views = arrays.get("views")
    if views is None or not len(views):
        return ""
    old = stamp_of(target)
    image = bpy.data.images.get(old.views) if old else None
    image = images.write(f"{name} Views", images.contact_sheet(views, arrays.get("cutout")), image)
    image[images.SHEET_TAG] = True
    image.pack()
    image.use_fake_user = True
    image.preview_ensure()
    return image.name


def _offer(obj: bpy.types.Object, message: Result) -> None:
    """Sets what the *Result* panel offers to change to what it is."""
    settings = message.report.settings
    offered = obj.turnaround
    offered.elevation = np.radians(message.report.elevation_deg)
    offered.resolution = settings.resolution
    offered.target_faces = settings.target_faces or 0


def match(obj: bpy.types.Object, scene: bpy.types.Scene, *, at_cursor: bool = False) -> float:
    """Places a result where it covers its subject through the scene's camera; returns the overlap, 0..1.

    Raises:
        TurnaroundError: `camera.none`, `camera.panoramic`, `object.foreign`.
    """
    stamp = stamped(obj)
    view = picture_view(scene, stamp.size)
    solved = placement.match_camera(
        meshes.vertices_of(obj.data),
        meshes.triangles_of(obj.data),
        stamp.base,
        stamp.report,
        stamp.matte_mask(),
        view,
        cursor=scene.cursor.location if at_cursor else None,
    )
    obj.matrix_world = solved.matrix
    stamp.overlap = solved.overlap
    stamp.put(obj)
    return solved.overlap


def show(obj: bpy.types.Object, visible: bool, layer: bpy.types.ViewLayer) -> None:
    """Shows or hides an object, in the viewport and in renders alike."""
    obj.hide_render = not visible
    if obj.name in layer.objects:
        obj.hide_set(not visible, view_layer=layer)


def discard(obj: bpy.types.Object) -> None:
    """Removes an object with what only it uses: its mesh, its views, its emptied collection."""
    stamp, mesh, collections = stamp_of(obj), obj.data, obj.users_collection
    bpy.data.objects.remove(obj)
    if mesh.users == 0:
        bpy.data.meshes.remove(mesh)
    views = bpy.data.images.get(stamp.views) if stamp else None
    if views is not None:
        bpy.data.images.remove(views)
    for collection in collections:
        if GROUP_KEY in collection and not collection.all_objects and not collection.children:
            bpy.data.collections.remove(collection)
