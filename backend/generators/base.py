"""What a view generator is: one picture in, pictures of the same object from other cameras out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress


class ViewGenerator(Protocol):
    """Draws an object from cameras that have not seen it."""

    def generate(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        cameras: Sequence[Camera],
        *,
        seed: int,
        steps: int,
        guidance: float,
        progress: Progress,
    ) -> ViewSet:
        """The object of `image` from each of `cameras`.

        Args:
            image: uint8 [S, S, 4], straight-alpha sRGB, framed.
            camera: the camera of `image`.
            cameras: where to draw it from. A view depends on its own camera alone, not on which others are asked for.
            seed: the same seed draws the same views.
            steps: denoising steps.
            guidance: classifier-free guidance weight; 0 is none.
            progress: reported to, and asked whether to stop, at every denoising step.

        Raises:
            CancelledError: the job was cancelled.
        """
