"""What every reconstructor gives: a field over the object's cube."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import Progress


class Field(Protocol):
    """A shape as a signed distance."""

    half: float
    """The shape lies within [-half, half]^3 of the object frame."""

    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Signed distance [N] in object units, positive outside, at points [N, 3] of the object frame."""


class Reconstructor(Protocol):
    """From views to a field."""

    def reconstruct(self, views: ViewSet, *, progress: Progress) -> Field:
        """The shape that the views show; the first view is the input picture."""
