"""The networks that ship and the view generator that looks at a coarse shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.elevation.matching import match_views
from backend.elevation.solve import NEAR_MOVES, Estimate, solve_elevation
from backend.generators.xunet.generator import XUNetGenerator
from backend.geometry.cameras import Camera
from backend.geometry.feedback import feedback_maps
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.one2345.selection import moved
from backend.pipelines.shaping import NO_VIEWS
from backend.pipelines.shipped import ShippedNetworks
from backend.pipelines.stage import Stages
from backend.preparation.framing import framed_camera
from backend.weights.store import tiny_path, weights_digest

ASSUMED_DEG = 15.0
"""Elevation at which near views are drawn for matching, before any is known."""


class Networks(ShippedNetworks):
    """View generator, reconstructor and elevation regressor on one device, each loaded when first used.

    Args:
        device: torch device.

    Raises:
        TurnaroundError: weights are missing or damaged.
    """

    @cached_property
    def generator(self) -> XUNetGenerator:
        """The view generator."""
        return XUNetGenerator(tiny_path("xunet"), self.device)

    def match_elevation(self, picture: NDArray[np.uint8], steps: int, seed: int, stages: Stages) -> Estimate:
        """The elevation at which four drawn near views of the input agree (One-2-3-45, section 3.2)."""
        camera = framed_camera(ASSUMED_DEG)
        coarse = self.reconstruct(self.source(picture, camera), stages)
        mesh = self.coarse_mesh(coarse, picture, camera)
        near = moved([camera], NEAR_MOVES)
        views = self.draw(picture, camera, mesh, near, seed=seed, steps=steps, guidance=0.0, stages=stages)
        size = views.images.shape[1]
        return solve_elevation(match_views(views.images), NEAR_MOVES, camera=camera, size=size)

    def draw(
        self,
        picture: NDArray[np.uint8],
        camera: Camera,
        coarse: Mesh,
        cameras: Sequence[Camera],
        *,
        seed: int,
        steps: int,
        guidance: float,
        stages: Stages,
    ) -> ViewSet:
        """The object from each of the cameras, as the generator sees it through the coarse shape."""
        if not cameras:  # without loading the generator
            return NO_VIEWS

        def compute() -> dict[str, NDArray[Any]]:
            size = self.generator.config.size
            maps = feedback_maps(coarse, [camera, *cameras], size)
            views = self.generator.generate(
                picture,
                camera,
                cameras,
                seed=seed,
                steps=steps,
                guidance=guidance,
                progress=stages.progress,
                maps=maps,
            )
            return {"images": views.images}

        arrays = stages.run(
            "views",
            compute,
            picture=picture,
            camera=camera,
            coarse=coarse,
            cameras=tuple(cameras),
            seed=seed,
            steps=steps,
            guidance=guidance,
            weights=weights_digest(tiny_path("xunet")),
        )
        return ViewSet(arrays["images"], tuple(cameras))
