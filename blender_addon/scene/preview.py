"""What stands in the viewport while a job runs: one coarse object and one image, both gone at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

from . import images, materials, meshes, placement
from .results import Wish
from .stamps import variants_of

TAG = "turnaround_preview"
OBJECT_NAME = "Turnaround Preview"
IMAGE_NAME = "Turnaround Views"
MOST_VERTICES = 60_000
"""A larger preview is left out, so that showing it never holds Blender for more than a frame."""
MOST_VIEW_PIXELS = 1 << 18


def merged(older: Mapping[str, NDArray[Any]], newer: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What two progress events show together; a mesh replaces the other one whole."""
    mesh = {"vertices", "faces", "colors"} if "vertices" in newer else set()
    return {name: array for name, array in older.items() if name not in mesh} | dict(newer)


def show(arrays: Mapping[str, NDArray[Any]], scene: bpy.types.Scene, wish: Wish) -> bool:
    """Shows what a progress event brought: a coarse mesh where the result will stand, and the views drawn so far.

    Returns:
        Whether a preview object has appeared that was not there before.

    Raises:
        TurnaroundError: `result.invalid`.
    """
    appeared = False
    vertices = arrays.get("vertices")
    if vertices is not None and wish.replaces is None and 0 < len(vertices) <= MOST_VERTICES:
        faces = arrays.get("faces", np.empty((0, 3), dtype=np.int32))
        appeared = _show_mesh(vertices, faces, arrays.get("colors"), scene, wish)
    views = arrays.get("views")
    if views is not None and len(views):
        side = max(16, int(np.sqrt(MOST_VIEW_PIXELS / (len(views) + 1))))
        step = max(1, -(-views.shape[1] // side))
        cutout = arrays.get("cutout")
        sheet = images.contact_sheet(views[:, ::step, ::step], cutout)
        image = images.write(IMAGE_NAME, sheet, views_image())
        image[images.SHEET_TAG] = True
        image.preview_ensure().reload()
    return appeared


def _show_mesh(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    colors: NDArray[np.uint8] | None,
    scene: bpy.types.Scene,
    wish: Wish,
) -> bool:
    meshes.check(vertices, faces, colors)
    mesh = meshes.build(OBJECT_NAME, meshes.base_of(vertices, wish.height).local(vertices), faces, colors)
    mesh.materials.append(materials.shared_material())
    obj = shape(scene)
    if obj is None:
        obj = bpy.data.objects.new(OBJECT_NAME, mesh)
        obj[TAG] = True
        obj.hide_select = True
        obj.hide_render = True
        scene.collection.objects.link(obj)
        siblings = variants_of(wish.group)  # they stand already; the shape appears beside them, never inside
        width = max(map(placement.width, [*siblings, obj]))
        obj.matrix_world = placement.at_cursor(Vector(wish.cursor), len(siblings), width)
        return True
    old, obj.data = obj.data, mesh
    bpy.data.meshes.remove(old)
    return False


def shape(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The coarse object, if one stands in the scene."""
    return next((obj for obj in scene.objects if TAG in obj), None)


def views_image() -> bpy.types.Image | None:
    """The image of the views drawn so far, while a job runs."""
    return bpy.data.images.get(IMAGE_NAME)


def clear() -> None:
    """Removes every preview; also one that undo or an opened file brought back."""
    for obj in [obj for obj in bpy.data.objects if TAG in obj]:
        mesh = obj.data
        bpy.data.objects.remove(obj)
        if mesh is not None and mesh.users == 0:
            bpy.data.meshes.remove(mesh)
    image = views_image()
    if image is not None:
        bpy.data.images.remove(image)
