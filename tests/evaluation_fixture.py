"""What tests of the evaluation measure: chairs, and a pipeline that takes everything for a block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import trimesh

from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines import registry
from backend.preparation.framing import framed_camera
from protocol.messages import Framing, OptionSpec, PipelineInfo, Report, ViewCamera


def chair(width: float, depth: float, height: float, color: tuple[int, int, int]) -> trimesh.Trimesh:
    """A seat with a back and one arm: no two of its sides are alike."""
    move = trimesh.transformations.translation_matrix
    parts = [
        trimesh.creation.box((width, depth, 0.15)),
        trimesh.creation.box((width, 0.1, height), transform=move((0, depth / 2, height / 2))),
        trimesh.creation.box((0.1, depth, height / 2), transform=move((width / 2, 0, height / 4))),
    ]
    for part, shade in zip(parts, (1.0, 0.7, 0.4), strict=True):
        part.visual.vertex_colors = [*(int(c * shade) for c in color), 255]
    return trimesh.util.concatenate(parts)


class Blocks:
    """A pipeline that takes everything for a block, and needs `views` to be right about its size."""

    def info(self) -> PipelineInfo:
        views = OptionSpec(name="views", label="Views", description="", default=-1, minimum=-1, maximum=9)
        return PipelineInfo(name="one2345", label="Blocks", description="", options=(views,))

    def generate(self, request: registry.Request, **_: object) -> Iterator[registry.Output]:
        side = 0.1 if request.settings.options.get("views") == 0 else 0.6
        box = trimesh.creation.box((side, side, side))
        colors = np.full((8, 4), 200, np.uint8)
        camera = framed_camera(15.0)
        view = ViewCamera(elevation_deg=15.0, azimuth_deg=0.0, distance=camera.distance, fov_deg=camera.fov_deg)
        report = Report(
            pipeline="one2345",
            seed=0,
            settings=request.settings,
            elevation_deg=15.0,
            elevation_source="assumed",
            elevation_spread_deg=0.0,
            camera=view,
            framing=Framing(center_x=0, center_y=0, side=1),
            seconds={},
        )
        mesh = Mesh(np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32), colors)
        yield registry.Output(mesh, ViewSet(np.zeros((1, 8, 8, 4), np.uint8), (camera,)), request.picture, report)

    def free(self) -> None:
        pass
