"""Models and renders the example pictures: `.venv-bpy-5.0.1/bin/python examples/make_examples.py [NAME ...]`.

The objects are the project's own and no network was trained on them. Each stands in the object frame (Z up, front to
-Y, within radius 0.5) and is seen by an orbit camera of the project's convention. Writes NAME.png next to this file:
512x512, RGBA with a transparent background, or RGB on a table where the shot says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import cos, pi, radians, sin, tan
from pathlib import Path
from typing import NamedTuple

import bpy
from mathutils import Vector

HERE = Path(__file__).parent
SIZE = 512
FOV_DEG = 40.0
HALF_WIDTH = 0.58
"""How far the camera sees to each side of the origin, in object units."""


class Shot(NamedTuple):
    """One picture: who models its object, from where it is seen, and whether it stands on a table."""

    model: Callable[[], None]
    azimuth_deg: float
    elevation_deg: float
    on_table: bool = False


# ------------------------------------------------------------------------------------------------------ modelling


def material(name: str, rgb: tuple[float, float, float], roughness: float = 0.55) -> bpy.types.Material:
    """A plain material, made once per name; colour in linear light."""
    if name in bpy.data.materials:
        return bpy.data.materials[name]
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    surface = made.node_tree.nodes["Principled BSDF"]
    surface.inputs["Base Color"].default_value = (*rgb, 1.0)
    surface.inputs["Roughness"].default_value = roughness
    return made


def srgb(code: str) -> tuple[float, float, float]:
    """Linear light of a colour written as `rrggbb`."""
    values = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return r, g, b


def finish(color: str, bevel: float, smooth: bool = False) -> bpy.types.Object:
    """Colours, bevels and shades the active object."""
    made = bpy.context.object
    made.data.materials.append(material(color, srgb(color)))
    if bevel:
        modifier = made.modifiers.new("Bevel", "BEVEL")
        modifier.width, modifier.segments, modifier.limit_method = bevel, 3, "ANGLE"
    if smooth or bevel:
        bpy.ops.object.shade_auto_smooth(angle=radians(40))
    return made


def box(
    color: str,
    center: tuple[float, float, float],
    size: tuple[float, float, float],
    *,
    bevel: float = 0.012,
    turn_deg: tuple[float, float, float] = (0, 0, 0),
) -> bpy.types.Object:
    """A box of `size` about `center`."""
    bpy.ops.mesh.primitive_cube_add(size=1, location=center, rotation=[radians(d) for d in turn_deg])
    bpy.context.object.scale = size
    bpy.ops.object.transform_apply(location=False, rotation=False, scale=True)
    return finish(color, bevel)


def cylinder(
    color: str,
    center: tuple[float, float, float],
    radius: float,
    depth: float,
    *,
    axis: str = "Z",
    top: float | None = None,
    bevel: float = 0.01,
) -> bpy.types.Object:
    """A cylinder along an axis, or a cone when the radius at its far end is another."""
    turn = {"X": (0, pi / 2, 0), "Y": (pi / 2, 0, 0), "Z": (0, 0, 0)}[axis]
    bpy.ops.mesh.primitive_cone_add(
        vertices=32, radius1=radius, radius2=radius if top is None else top, depth=depth, location=center, rotation=turn
    )
    return finish(color, bevel)


def ball(
    color: str, center: tuple[float, float, float], radii: tuple[float, float, float], above: float | None = None
) -> bpy.types.Object:
    """An ellipsoid; cut flat below the height `above`, if given."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=32, radius=1, location=center)
    made = bpy.context.object
    made.scale = radii
    bpy.ops.object.transform_apply(location=True, rotation=False, scale=True)
    if above is not None:
        bpy.ops.object.mode_set(mode="EDIT")
        bpy.ops.mesh.select_all(action="SELECT")
        bpy.ops.mesh.bisect(plane_co=(0, 0, above), plane_no=(0, 0, 1), use_fill=True, clear_inner=True)
        bpy.ops.object.mode_set(mode="OBJECT")
    return finish(color, 0.0, smooth=True)


def prism(
    color: str, outline: list[tuple[float, float]], x: tuple[float, float], bevel: float = 0.012
) -> bpy.types.Object:
    """An outline in (y, z), counter-clockwise seen from +X, drawn out along X."""
    n = len(outline)
    points = [(x[0], y, z) for y, z in outline] + [(x[1], y, z) for y, z in outline]
    sides = [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]
    mesh = bpy.data.meshes.new("prism")
    mesh.from_pydata(points, [], [tuple(reversed(range(n))), tuple(range(n, 2 * n)), *sides])
    made = bpy.data.objects.new("prism", mesh)
    bpy.context.collection.objects.link(made)
    bpy.context.view_layer.objects.active = made
    bpy.ops.object.select_all(action="DESELECT")
    made.select_set(True)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.normals_make_consistent(inside=False)
    bpy.ops.object.mode_set(mode="OBJECT")
    return finish(color, bevel)


# -------------------------------------------------------------------------------------------------------- objects


def house() -> None:
    """A cottage: gable to the front, chimney on the +X side, door left of the middle, round window above."""
    wall, trim, roof = "f2dfb8", "8a4f2b", "cf3b2e"
    box("7d7f86", (0, 0, -0.36), (0.62, 0.66, 0.06))
    box(wall, (0, 0, -0.16), (0.54, 0.58, 0.38))
    gable = [(-0.27, 0.0), (0.27, 0.0), (0.0, 0.30)]
    prism(wall, gable, (-0.28, 0.28)).rotation_euler = (0, 0, pi / 2)
    for side in (-1, 1):
        slab = box(roof, (side * 0.172, 0, 0.145), (0.50, 0.70, 0.055), bevel=0.015)
        slab.rotation_euler = (0, side * radians(48), 0)
    box("9b9fa8", (0.20, 0.12, 0.26), (0.12, 0.12, 0.30))
    box("6a6d75", (0.20, 0.12, 0.41), (0.155, 0.155, 0.04))
    box(trim, (-0.09, -0.295, -0.205), (0.16, 0.03, 0.26))
    box("3d7a4a", (-0.09, -0.31, -0.21), (0.12, 0.03, 0.23))
    ball("f5c542", (-0.05, -0.33, -0.21), (0.012, 0.012, 0.012))
    box("ffffff", (0.14, -0.295, -0.15), (0.16, 0.03, 0.16))
    box("4aa3df", (0.14, -0.305, -0.15), (0.125, 0.025, 0.125), bevel=0.004)
    cylinder("ffffff", (0, -0.287, 0.09), 0.065, 0.03, axis="Y")
    cylinder("4aa3df", (0, -0.297, 0.09), 0.047, 0.03, axis="Y", bevel=0.004)
    for y in (-0.13, 0.14):
        box("ffffff", (0.275, y, -0.15), (0.03, 0.16, 0.16))
        box("4aa3df", (0.285, y, -0.15), (0.025, 0.125, 0.125), bevel=0.004)
    box("9b9fa8", (-0.09, -0.36, -0.365), (0.2, 0.12, 0.05))


def car() -> None:
    """A toy pickup that drives towards -Y: cab in front, open bed behind, a spare wheel on the -X side only."""
    body, dark, glass = "2f6fd6", "2a2c33", "a9dcf5"
    for x in (-0.185, 0.185):
        for y in (-0.27, 0.27):
            cylinder(dark, (x, y, -0.17), 0.105, 0.09, axis="X", bevel=0.02)
            cylinder("e8e8ea", (x * 1.16, y, -0.17), 0.05, 0.04, axis="X")
    box("4a4d57", (0, 0, -0.13), (0.32, 0.86, 0.07))
    hood = [(-0.46, -0.13), (-0.02, -0.13), (-0.02, 0.05), (-0.42, 0.02), (-0.46, -0.02)]
    prism(body, hood, (-0.2, 0.2), bevel=0.025)
    cab = [(-0.21, 0.0), (0.06, 0.0), (0.06, 0.24), (-0.1, 0.24)]
    prism(body, cab, (-0.19, 0.19), bevel=0.03)
    windscreen = [(-0.212, 0.055), (-0.185, 0.055), (-0.105, 0.205), (-0.132, 0.205)]
    prism(glass, windscreen, (-0.15, 0.15), bevel=0.006)
    window = [(-0.14, 0.06), (0.02, 0.06), (0.02, 0.2), (-0.085, 0.2)]
    prism(glass, window, (-0.198, 0.198), bevel=0.006)
    box(body, (0, 0.24, -0.09), (0.4, 0.44, 0.05))
    for x in (-0.185, 0.185):
        box(body, (x, 0.24, -0.01), (0.035, 0.44, 0.14))
    box(body, (0, 0.445, -0.01), (0.4, 0.035, 0.14))
    box("b98a55", (0.03, 0.2, 0.0), (0.17, 0.17, 0.15))
    box("8a5f33", (0.03, 0.2, 0.0), (0.18, 0.045, 0.16), bevel=0.006)
    box("e8e8ea", (0, -0.465, -0.115), (0.42, 0.045, 0.06), bevel=0.02)
    box(dark, (0, -0.462, -0.045), (0.18, 0.02, 0.05), bevel=0.008)
    for x in (-0.145, 0.145):
        cylinder("ffe27a", (x, -0.46, -0.04), 0.038, 0.03, axis="Y")
        box("e33d34", (x, 0.465, -0.03), (0.06, 0.02, 0.05), bevel=0.006)
    cylinder(dark, (-0.225, 0.22, 0.0), 0.075, 0.05, axis="X", bevel=0.015)


def armchair() -> None:
    """A deep armchair that faces -Y: a cushion, a pillow towards the -X arm, wooden legs."""
    cloth, seat, wood = "1f9e8f", "f1b53d", "7a4a2a"
    for x in (-0.27, 0.27):
        for y in (-0.24, 0.24):
            cylinder(wood, (x, y, -0.36), 0.03, 0.12, top=0.045)
    box(cloth, (0, 0.0, -0.24), (0.66, 0.6, 0.16), bevel=0.035)
    back = box(cloth, (0, 0.26, 0.08), (0.60, 0.15, 0.64), bevel=0.06)
    back.rotation_euler = (radians(-8), 0, 0)
    for x in (-0.31, 0.31):
        box(cloth, (x, -0.01, -0.13), (0.14, 0.58, 0.32), bevel=0.055)
    box(seat, (0, -0.05, -0.125), (0.47, 0.5, 0.12), bevel=0.045)
    pillow = box("e2574c", (-0.12, 0.10, 0.06), (0.25, 0.1, 0.25), bevel=0.045)
    pillow.rotation_euler = (radians(-16), radians(14), 0)


def mushroom() -> None:
    """A toadstool with a small one on its +X side, on a patch of moss."""
    cap, stem, spot = "d8322c", "f4e8d2", "fff6ea"
    ball("4f9a3d", (0, 0, -0.44), (0.36, 0.34, 0.13), above=-0.44)
    cylinder(stem, (0, 0, -0.17), 0.145, 0.48, top=0.1, bevel=0.02)
    ball(stem, (0, 0, -0.34), (0.165, 0.165, 0.1))
    cylinder("e9d5b0", (0, 0, 0.005), 0.15, 0.035, top=0.11, bevel=0.01)
    ball(cap, (0, 0, 0.03), (0.41, 0.41, 0.36), above=0.05)
    cylinder("f0dcba", (0, 0, 0.045), 0.3, 0.03, top=0.385, bevel=0.008)
    spots = [(-90, 35, 0.075), (-40, 22, 0.05), (-135, 20, 0.055), (-25, 52, 0.06), (-150, 55, 0.06), (-75, 68, 0.05)]
    spots += [(20, 28, 0.065), (70, 45, 0.07), (130, 25, 0.06), (165, 30, 0.05), (-65, 12, 0.035), (-110, 10, 0.03)]
    for around, up, radius in spots:
        a, u = radians(around), radians(up)
        outward = Vector((0.41 * cos(a) * cos(u), 0.41 * sin(a) * cos(u), 0.36 * sin(u)))
        made = ball(spot, (0, 0, 0), (radius, radius, 0.022))
        made.location = outward + Vector((0, 0, 0.03))
        normal = Vector((outward.x / 0.41**2, outward.y / 0.41**2, outward.z / 0.36**2))
        made.rotation_euler = normal.to_track_quat("Z", "Y").to_euler()
    cylinder(stem, (0.24, -0.12, -0.29), 0.05, 0.2, top=0.038)
    ball(cap, (0.24, -0.12, -0.21), (0.125, 0.125, 0.12), above=-0.2)
    for around, up in ((-100, 40), (-30, 25), (100, 40), (-150, 15)):
        a, u = radians(around), radians(up)
        ball(
            spot,
            (0.24 + 0.122 * cos(a) * cos(u), -0.12 + 0.122 * sin(a) * cos(u), -0.21 + 0.117 * sin(u)),
            (0.02,) * 3,
        )


SHOTS = {
    "house": Shot(house, 30.0, 18.0),
    "armchair": Shot(armchair, 28.0, 16.0),
    "armchair_back": Shot(armchair, 208.0, 16.0),
    "mushroom": Shot(mushroom, 25.0, 15.0),
    "car_on_table": Shot(car, 35.0, 24.0, on_table=True),
}

# ------------------------------------------------------------------------------------------------------ rendering


def fit() -> float:
    """Centres the box of everything modelled and scales its farthest point to 0.5; returns the height of its base."""
    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    objects = [o for o in bpy.context.scene.objects if o.type == "MESH"]
    points = []
    for made in objects:
        mesh = made.evaluated_get(depsgraph).to_mesh()
        points += [made.matrix_world @ v.co for v in mesh.vertices]
    low, high = (Vector(f(p[i] for p in points) for i in range(3)) for f in (min, max))
    center = (low + high) / 2
    scale = 0.5 / max((p - center).length for p in points)
    root = bpy.data.objects.new("Root", None)
    bpy.context.collection.objects.link(root)
    for made in objects:
        made.parent = root
    root.scale = (scale,) * 3
    root.location = -center * scale
    return (low.z - center.z) * scale


def light() -> None:
    """A soft key from the camera's left, a large fill, and an even sky: colours stay themselves."""
    for name, position, size, power in (
        ("Key", (-1.6, -2.2, 2.6), 1.5, 95),
        ("Fill", (2.6, -1.4, 1.2), 3.0, 40),
        ("Rim", (0.6, 2.4, 2.2), 1.5, 45),
    ):
        lamp = bpy.data.lights.new(name, "AREA")
        lamp.size, lamp.energy = size, power
        made = bpy.data.objects.new(name, lamp)
        made.location = position
        made.rotation_euler = (-Vector(position)).to_track_quat("-Z", "Y").to_euler()
        bpy.context.collection.objects.link(made)
    world = bpy.data.worlds.new("Sky")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = 0.55
    bpy.context.scene.world = world


def camera(shot: Shot) -> None:
    """The orbit camera: azimuth 0 on -Y, positive towards +X, looking at the origin."""
    data = bpy.data.cameras.new("Camera")
    data.sensor_fit, data.angle = "VERTICAL", radians(FOV_DEG)
    made = bpy.data.objects.new("Camera", data)
    a, e = radians(shot.azimuth_deg), radians(shot.elevation_deg)
    distance = HALF_WIDTH / tan(radians(FOV_DEG / 2))
    made.location = distance * Vector((sin(a) * cos(e), -cos(a) * cos(e), sin(e)))
    made.rotation_euler = (-made.location).to_track_quat("-Z", "Y").to_euler()
    bpy.context.collection.objects.link(made)
    bpy.context.scene.camera = made


def render(name: str, shot: Shot, samples: int = 64) -> None:
    """Models one object in an empty file and writes its picture."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    shot.model()
    base = fit()
    if shot.on_table:
        bpy.ops.mesh.primitive_plane_add(size=200, location=(0, 0, base))
        bpy.context.object.data.materials.append(material("table", srgb("8f9194"), roughness=0.9))
    light()
    camera(shot)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", samples, 0
    scene.cycles.use_denoising = True
    scene.view_settings.view_transform = "Standard"
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.render.film_transparent = not shot.on_table
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.compression = "PNG", "RGB" if shot.on_table else "RGBA", 100
    scene.render.filepath = str(HERE / f"{name}.png")
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SHOTS:
        render(chosen, SHOTS[chosen])
