"""What every reconstructor gives: a field over the object's cube."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.geometry.mesh import ViewSet
from backend.geometry.outline import Outline
from backend.pipelines.stage import Progress


class Field(Protocol):
    """A shape as a signed distance."""

    @property
    def half(self) -> float:
        """The shape lies within [-half, half]^3 of the object frame."""

    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Signed distance [N] in object units, positive outside, at points [N, 3] of the object frame."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that the field depends on beside weights; for the stage cache."""


@dataclass(frozen=True)
class MixedField:
    """Two opinions of one shape, averaged: where they differ, neither is believed wholly.

    Attributes:
        first, second: of the same cube.
        share: of the second's distances in the mean, 0..1.
    """

    first: Field
    second: Field
    share: float

    @property
    def half(self) -> float:
        """Half the cube's side."""
        return self.first.half

    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Field`."""
        return (1 - self.share) * self.first.distance(points) + self.share * self.second.distance(points)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `Field`."""
        first = {f"first.{name}": array for name, array in self.first.arrays().items()}
        second = {f"second.{name}": array for name, array in self.second.arrays().items()}
        return {**first, **second, "share": np.array(self.share)}


@dataclass(frozen=True)
class ThinnedField:
    """A shape with a layer taken off its surface.

    Attributes:
        field: the shape.
        layer: thickness in object units.
    """

    field: Field
    layer: float

    @property
    def half(self) -> float:
        """Half the cube's side."""
        return self.field.half

    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Field`."""
        return self.field.distance(points) + np.float32(self.layer)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `Field`."""
        return {**self.field.arrays(), "layer": np.array(self.layer)}


@dataclass(frozen=True)
class OutlinedField:
    """A shape that keeps to its picture's outline.

    Attributes:
        field: the shape.
        outline: of the picture, as it was traced for this shape.
    """

    field: Field
    outline: Outline

    @property
    def half(self) -> float:
        """Half the cube's side."""
        return self.field.half

    def distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Field`."""
        return self.outline.keep(points, self.field.distance(points))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `Field`; all of the outline follows from these."""
        return {**self.field.arrays(), "outline": self.outline.beside}


class Reconstructor(Protocol):
    """From views to a field."""

    def reconstruct(self, views: ViewSet, *, progress: Progress) -> Field:
        """The shape that the views show; the first view is the input picture."""
