"""How fast the add-on is; run by `python tests/end_to_end/bench.py`. Runs inside Blender."""

from __future__ import annotations

import json
import math
import os
import time
from importlib import import_module

import bpy
import numpy as np

PACKAGE = "bl_ext.user_default.turnaround"
session, engines = (import_module(f"{PACKAGE}.{name}") for name in ("session", "engines"))
images, meshes = (import_module(f"{PACKAGE}.scene.{name}") for name in ("images", "meshes"))


def say(**measured):
    print("@@measured " + json.dumps(measured), flush=True)


def test_import_speed():
    """Seconds that a mesh of this size takes into the scene, beside the bare `foreach_set` calls."""
    side = math.isqrt(1_000_000)
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32) / side
    vertices = np.stack([xs, ys, np.sin(9 * xs) * ys], axis=-1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + side], -1),
            np.stack([corner + 1, corner + side + 1, corner + side], -1),
        ]
    )
    faces = faces.astype(np.int32)
    colours = np.full((len(vertices), 4), 128, np.uint8)
    start = time.perf_counter()
    meshes.build("measured", vertices, faces, colours)
    built = time.perf_counter() - start

    linear = np.ones((len(vertices), 4), np.float32)
    starts = np.arange(0, faces.size, 3, dtype=np.int32)
    start = time.perf_counter()
    mesh = bpy.data.meshes.new("bare")
    mesh.vertices.add(len(vertices))
    mesh.loops.add(faces.size)
    mesh.polygons.add(len(faces))
    mesh.attributes["position"].data.foreach_set("vector", vertices.ravel())
    mesh.attributes[".corner_vert"].data.foreach_set("value", faces.ravel())
    mesh.polygons.foreach_set("loop_start", starts)
    mesh.color_attributes.new("Color", "FLOAT_COLOR", "POINT").data.foreach_set("color", linear.ravel())
    mesh.update(calc_edges=True)
    bare = time.perf_counter() - start
    say(vertices=len(vertices), import_s=built, bare_foreach_set_s=bare, import_over_bare=built / bare)


def test_tick_times():
    """How long Blender's main thread is held by each tick while a job runs, and by the click that starts it."""
    bpy.context.preferences.addons[PACKAGE].preferences.python = os.environ["BACKEND_PROGRAM"]
    settings = bpy.context.scene.turnaround
    settings.engine_name = "boxes"
    rgba = np.random.default_rng(0).integers(0, 255, (1024, 1024, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    settings.picture = images.write("noise.png", rgba)
    for steps in (2, 100):
        clicked = time.perf_counter()
        bpy.ops.turnaround.generate()
        clicked = time.perf_counter() - clicked
        ticks = []
        while session.current().job is not None:
            placed = len(bpy.data.objects)
            start = time.perf_counter()
            pause = session.current().tick()
            if session.current().job is not None and len(bpy.data.objects) <= placed + 1:
                ticks.append(time.perf_counter() - start)
            time.sleep(pause)
        if steps == 2:
            getattr(bpy.context.scene, engines.attribute("boxes")).steps = 100
            settings.seed = 1
    ticks.sort()
    median, worst = 1000 * ticks[len(ticks) // 2], 1000 * ticks[-1]
    say(ticks=len(ticks), tick_median_ms=median, tick_worst_ms=worst, click_ms=1000 * clicked)
