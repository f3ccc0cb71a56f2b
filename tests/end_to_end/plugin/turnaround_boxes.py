"""Somebody else's engine, as a package of its own adds one: boxes in the colours of the picture, at once or slowly.
And a painter, whose pictures have one thing on them, in a colour of the seed's.

It does no more than is needed to drive the add-on through everything that a job can do: stages from the cache,
previews, *Keep This One*, cancel, variants, failures, and a worker that dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from backend.generators.text.base import Painting
from backend.geometry.cameras import project
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.registry import Output, Request
from backend.pipelines.stage import KeepError, Preview, Progress, StageCache, Stages
from backend.preparation.framing import framed_camera
from protocol.errors import TurnaroundError
from protocol.messages import (
    Framing,
    Imagine,
    OptionSpec,
    PainterInfo,
    PictureReport,
    PipelineInfo,
    Report,
    ViewCamera,
)

SIZE = 64
BOXES = (((-0.3, -0.05, -0.4), (-0.1, 0.05, 0.4)), ((-0.3, -0.05, -0.4), (0.3, 0.05, -0.2)))
"""An L whose foot points to +X."""
QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def boxes(color: np.ndarray) -> Mesh:
    """The L in one colour [3], its foot darker."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float32)
    triangles = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))], dtype=np.int32)
    vertices = np.concatenate([np.float32(low) + corners * (np.float32(high) - np.float32(low)) for low, high in BOXES])
    colors = np.concatenate([np.tile(color, (8, 1)), np.tile(color // 2, (8, 1))])
    faces = np.concatenate([triangles, triangles + 8]).astype(np.int32)
    return Mesh(vertices, faces, np.concatenate([colors, np.full((16, 1), 255)], axis=1).astype(np.uint8))


EMPTY = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 4), np.uint8))


def mean_color(picture: np.ndarray) -> np.ndarray:
    """Of what is not clear, uint8 [3]."""
    return picture[picture[..., 3] > 127][:, :3].mean(axis=0).astype(np.uint8)


class Boxes:
    """See the module."""

    def info(self) -> PipelineInfo:
        """How it presents itself."""
        options = (
            OptionSpec(name="steps", label="Steps", description="How many.", default=2, minimum=1, maximum=200),
            OptionSpec(name="end", label="End", description="How.", default="well", choices=("well", "badly", "crash")),
        )
        return PipelineInfo(
            name="boxes",
            label="Boxes",
            description="An L of boxes.",
            options=options,
            several_pictures=True,
            novel_views=True,
        )

    def generate(self, request: Request, *, device: str, cache: StageCache, progress: Progress) -> Iterator[Output]:
        """Yields an L in the mean colour of the picture, stretched to its resolution."""
        settings, picture = request.settings, request.picture
        height, width = picture.shape[:2]
        stages = Stages(cache, progress)
        color = mean_color(picture)
        shape = boxes(color)
        elevation = settings.elevation_deg if settings.elevation_deg is not None else 20.0
        camera = framed_camera(elevation, fov_deg=settings.fov_deg or 40.0)
        cutout = self._cutout(shape, camera, color)
        framing = Framing(center_x=width / 2, center_y=height / 2, side=float(min(width, height)))
        told = tuple(
            f"From {direction.azimuth_deg:.0f}°: {mean_color(extra).tolist()}."
            for direction, extra in zip(settings.extra_pictures, request.extra_pictures, strict=True)
        )
        matte = (f"A matte of {int((request.matte > 127).sum())} pixels.",) if request.matte is not None else ()
        for variant in range(settings.variants):
            progress.variant = variant
            notes = ("Shows 2 separate objects: they become one shape.",) if settings.seed == 500 else ()
            first = Preview(mesh=shape, cutout=cutout, framing=framing, notes=notes)
            progress.begin("Drawing Views", (0.0, 0.8), first)
            views = np.repeat(cutout[None], 4, axis=0)

            def draw(views: np.ndarray = views) -> dict[str, np.ndarray]:
                for step in range(1, int(settings.options.get("steps", 2)) + 1):
                    progress.step(step, int(settings.options.get("steps", 2)), Preview(views=views[:2]), can_keep=True)
                    time.sleep(0.05)
                return {"views": views}

            try:
                stages.run("views", draw, picture=picture, seed=settings.seed + variant, options=dict(settings.options))
            except KeepError:
                progress.keep.clear()
            if settings.options.get("end") == "badly":
                raise TurnaroundError("boxes.badly", "The boxes fell over.", "Stack them again.", details="physics")
            if settings.options.get("end") == "crash":
                os._exit(9)
            progress.begin("Meshing", (0.8, 1.0))
            report = Report(
                pipeline="boxes",
                seed=settings.seed + variant,
                settings=settings,
                elevation_deg=elevation,
                elevation_source="given" if settings.elevation_deg is not None else "estimated",
                elevation_spread_deg=0.0 if settings.elevation_deg is not None else 3.0,
                camera=ViewCamera(
                    elevation_deg=elevation, azimuth_deg=0.0, distance=camera.distance, fov_deg=camera.fov_deg
                ),
                framing=framing,
                seconds=dict(progress.seconds),
                cached=tuple(progress.cached),
                warnings=(*notes, *matte, *told),
            )
            if settings.look_from:
                directions = [(d.azimuth_deg, d.elevation_deg) for d in settings.look_from]
                looks = [replace(camera, azimuth_deg=a, elevation_deg=e) for a, e in directions]
                yield Output(EMPTY, ViewSet(views[: len(looks)], tuple(looks)), cutout, report)
                continue
            cameras = tuple(camera.moved(azimuth_deg=90.0 * number) for number in range(4))
            yield Output(shape, ViewSet(views, cameras), cutout, report)

    def _cutout(self, shape: Mesh, camera: object, color: np.ndarray) -> np.ndarray:
        """The L as the camera sees it, by points strewn over its triangles."""
        weights = np.random.default_rng(0).dirichlet((1, 1, 1), 4000)
        points = np.einsum("wk,mkc->mwc", weights, shape.vertices[shape.faces].astype(np.float64)).reshape(-1, 3)
        pixels, _ = project(camera, points, SIZE)
        cutout = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
        columns, rows = np.clip(pixels.astype(int), 0, SIZE - 1).T
        cutout[rows, columns] = (*color, 255)
        return cutout

    def free(self) -> None:
        """Holds nothing."""


class Brush:
    """Paints a rectangle on white; "slow" takes its time and "badly" fails."""

    def info(self) -> PainterInfo:
        """How it presents itself."""
        return PainterInfo(name="brush", label="Brush", licence="CC-BY-NC-4.0", commercial="no")

    def paint(self, request: Imagine, *, device: str, cache: StageCache, progress: Progress) -> Painting:
        """The rectangle."""
        progress.begin("Painting", (0.0, 1.0))
        steps = 200 if request.prompt == "slow" else 4
        for step in range(1, steps + 1):
            progress.step(step, steps)
            time.sleep(0.05)
        if request.prompt == "badly":
            raise TurnaroundError("brush.badly", "The brush fell over.", "Pick it up.")
        picture = np.full((96, 96, 4), 255, np.uint8)
        picture[16:-16, 24:-24, :3] = 200, 90, request.seed % 256
        info = self.info()
        report = PictureReport(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            single_object=request.single_object,
            seed=request.seed,
            steps=steps,
            painter=info.name,
            label=info.label,
            licence=info.licence,
            commercial=info.commercial,
            warnings=("The brush is dry.",),
        )
        return Painting(picture, report)

    def free(self) -> None:
        """Holds nothing."""


PIPELINE = Boxes()
PAINTER = Brush()
