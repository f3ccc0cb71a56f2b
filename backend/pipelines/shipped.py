"""The shipped elevation regressor and reconstructor, answered by the cache where they were asked before."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backend.elevation.regressor import ElevationConfig, ElevationNet
from backend.elevation.solve import Estimate
from backend.geometry.cameras import Camera
from backend.geometry.colors import paint
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.shaping import Elevation, outlined, surface
from backend.pipelines.stage import Stages
from backend.reconstructors.base import Field
from backend.reconstructors.sparseneus.adapter import network_images
from backend.reconstructors.sparseneus.reconstructor import SdfField, SparseNeuSReconstructor, resampled
from backend.weights.store import load_into, read_typed_config, tiny_path, weights_digest
from protocol.messages import Settings

COARSE_CELLS = 48
"""Resolution of the preview, which is also what the view generator is shown."""

EXCESS = 0.006
"""How much thicker, in object units, the solids are that our reconstructor learnt from than the meshes that they were
made of: every cell that a surface touches is solid, which puts it half a cell (0.0063) further out, so that sheets have
an inside. It is taken off the result alone: the generator has learnt from renders of shapes that have it."""


class ShippedNetworks:
    """Reconstructor and elevation regressor on one device, each loaded when first used.

    Args:
        device: torch device.

    Raises:
        TurnaroundError: weights are missing or damaged.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    @cached_property
    def reconstructor(self) -> SparseNeuSReconstructor:
        """Views to a shape."""
        return SparseNeuSReconstructor(tiny_path("sparseneus"), self.device)

    @cached_property
    def regressor(self) -> ElevationNet:
        """A picture to its elevation."""
        path = tiny_path("elevation")
        network = ElevationNet(read_typed_config(path, ElevationConfig, "an elevation regressor"))
        load_into(network, path)
        return network.eval().to(self.device)

    # ------------------------------------------------------------------------------------------------- elevation

    def elevation(self, picture: NDArray[np.uint8], settings: Settings, stages: Stages) -> Elevation:
        """The artist's elevation, or the one that the framed picture seems to have."""
        if settings.elevation_deg is not None:
            return Elevation.given(settings.elevation_deg)
        return Elevation.found(self.regress_elevation(picture, stages))

    @torch.inference_mode()
    def regress_elevation(self, picture: NDArray[np.uint8], stages: Stages) -> Estimate:
        """The elevation read from the framed picture alone."""

        def compute() -> dict[str, NDArray[Any]]:
            small = resampled(picture, self.regressor.config.image_size)
            x = network_images(torch.from_numpy(small)[None].to(self.device), self.reconstructor.config)
            both = torch.stack([x, x.flip(-1)]).flatten(0, 1)  # a mirrored picture has the same elevation
            mean, spread = self.regressor(both)
            return {"estimate": np.array([float(mean.mean()), float(spread.mean())])}

        weights = weights_digest(tiny_path("elevation"))
        mean, spread = stages.run("elevation", compute, picture=picture, weights=weights)["estimate"]
        confidence = 1 / (1 + (spread / 10) ** 2)
        elevation = float(np.clip(mean, -89, 89))
        return Estimate(elevation, float(spread), float(confidence), "estimated", np.empty(0), np.empty(0))

    # ----------------------------------------------------------------------------------------------------- shape

    def source(self, picture: NDArray[np.uint8], camera: Camera) -> ViewSet:
        """The input picture as a view, at the size that the reconstructor looks at and views are drawn in."""
        return ViewSet(resampled(picture, self.reconstructor.config.image_size)[None], (camera,))

    def reconstruct(self, views: ViewSet, stages: Stages) -> SdfField:
        """The shape that the views show; the first is the input."""

        def compute() -> dict[str, NDArray[Any]]:
            return self.reconstructor.reconstruct(views, progress=stages.progress).arrays()

        name = "shape" if len(views) > 1 else "preview"
        arrays = stages.run(
            name, compute, images=views.images, cameras=views.cameras, weights=weights_digest(tiny_path("sparseneus"))
        )
        return self.reconstructor.restored(arrays)

    def coarse_mesh(self, field: Field, picture: NDArray[np.uint8], camera: Camera, *, outline: bool = False) -> Mesh:
        """The preview: few triangles, in the picture's colours and, if that is wanted, in its outline."""
        shape = outlined(field, picture, camera) if outline else field
        return paint(surface(shape, COARSE_CELLS), picture, camera)
