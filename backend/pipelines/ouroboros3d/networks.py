"""The networks of Ouroboros3D: the small ones that ship, or the published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.generators.multiview_svd.generator import MultiviewGenerator
from backend.geometry.cameras import Camera
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.polish import polish
from backend.geometry.mesh import ViewSet
from backend.pipelines.ouroboros3d.loop import Feeding, State, draw
from backend.pipelines.stage import KeepError, Stages
from backend.reconstructors.lgm.reconstructor import LGMReconstructor
from backend.reconstructors.sparseneus.reconstructor import resampled
from backend.weights.store import entry_digest, find_entry, tiny_path, weights_digest, weights_folder

GENERATOR, RECONSTRUCTOR = "multiview", "lgm"
"""Shipped weights."""

PUBLISHED, VIDEO = "ouroboros3d", "stable-video-diffusion"
"""Entries of the catalogue; the second is the video model whose autoencoder and image encoder the first goes with."""

OnState = Callable[[State], None]
"""Told of every state while views are drawn; what it raises stops the drawing."""


class Networks:
    """Both networks on one device.

    Args:
        weights: `PUBLISHED`, or anything else for those that ship.
        device: torch device.

    Raises:
        TurnaroundError: weights are missing or damaged.
    """

    def __init__(self, weights: str, device: str) -> None:
        if weights == PUBLISHED:
            entry, video = find_entry(PUBLISHED), find_entry(VIDEO)
            folder = weights_folder(entry)
            unet, shape = folder / "mv_model_unet.safetensors", folder / "recon_model.safetensors"
            self.generator = MultiviewGenerator.published(weights_folder(video), unet, device)
            self.reconstructor = LGMReconstructor(shape, device)
            self.digest = entry_digest(entry) + entry_digest(video)
        else:
            self.generator = MultiviewGenerator.stored(tiny_path(GENERATOR), device)
            self.reconstructor = LGMReconstructor(tiny_path(RECONSTRUCTOR), device)
            self.digest = "".join(weights_digest(tiny_path(name)) for name in (GENERATOR, RECONSTRUCTOR))

    def draw(
        self,
        picture: NDArray[np.uint8],
        camera: Camera,
        *,
        seed: int,
        steps: int,
        guidance: tuple[float, float] | None,
        feeding: Feeding,
        stages: Stages,
        on_state: OnState,
    ) -> tuple[ViewSet, Gaussians]:
        """The views and their shape in the object frame, from the cache if they have been drawn before.

        Where `on_state` raises `KeepError`, they are those of that state, and are not remembered.

        Raises:
            TurnaroundError: `views.diverged`, `shape.broken`, `shape.empty`.
        """
        state: State | None = None

        def compute() -> dict[str, NDArray[Any]]:
            nonlocal state
            for state in draw(
                self.generator,
                self.reconstructor,
                picture,
                camera,
                seed=seed,
                steps=steps,
                guidance=guidance,
                feeding=feeding,
            ):
                on_state(state)
            assert state is not None
            return {"images": state.views.images, **state.shape.arrays()}

        try:
            arrays = stages.run(
                "views",
                compute,
                picture=picture,
                camera=camera,
                seed=seed,
                steps=steps,
                guidance=guidance,
                feeding=feeding,
                weights=self.digest,
            )
        except KeepError:
            assert state is not None
            return state.views, state.shape
        shape = {name: array for name, array in arrays.items() if name != "images"}
        gaussians = Gaussians.from_arrays(shape).to(self.reconstructor.device)  # where they are drawn fastest
        return ViewSet(arrays["images"], self.generator.cameras(camera)), gaussians

    def polish(
        self, shape: Gaussians, picture: NDArray[np.uint8], views: ViewSet, steps: int, stages: Stages
    ) -> Gaussians:
        """The shape brought nearer to the picture and the drawn views, see `geometry.gaussians.polish`."""
        own = resampled(picture, views.images.shape[1])
        seen = ViewSet(np.concatenate([own[None], views.images[1:]]), views.cameras)

        def compute() -> dict[str, NDArray[Any]]:
            return polish(shape, seen, steps, stages.progress.step).arrays()

        arrays = stages.run(
            "polish", compute, shape=shape.arrays(), images=seen.images, cameras=seen.cameras, steps=steps
        )
        return Gaussians.from_arrays(arrays).to(shape.means.device)
