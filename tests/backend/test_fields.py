"""Fields made of fields."""

from __future__ import annotations

import numpy as np
import pytest

from backend.pipelines.one2345.recipe import surface
from backend.pipelines.stage import digest
from backend.reconstructors.base import MixedField


class Ball:
    half = 0.6

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def distance(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(points, axis=1) - self.radius, np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"radius": np.array(self.radius)}


class Sheet:
    """Two plates side by side, one of them thinner than what is taken off."""

    half = 0.6

    def distance(self, points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        thickness = np.where(x > 0, 0.004, 0.1)
        outside = np.maximum(np.abs(np.abs(x) - 0.25) - 0.2, np.abs(y) - 0.4)
        return np.asarray(np.maximum(outside, np.abs(z) - thickness), np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        return {}


def test_a_mixture_has_the_mean_radius() -> None:
    mesh = surface(MixedField(Ball(0.3), Ball(0.5), 0.25), 48, smoothing=0)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.35, abs=2e-3)


def test_a_layer_is_taken_off_but_nothing_vanishes() -> None:
    ball = surface(Ball(0.4), 48, smoothing=0, excess=0.03)
    assert np.linalg.norm(ball.vertices, axis=1) == pytest.approx(0.37, abs=2e-3)
    before, after = (surface(Sheet(), 300, smoothing=0, excess=excess) for excess in (0.0, 0.006))
    assert np.array_equal(before.faces, after.faces)
    middle = (np.abs(np.abs(before.vertices[:, 0]) - 0.25) < 0.1) & (np.abs(before.vertices[:, 1]) < 0.2)
    thick, thin = middle & (before.vertices[:, 0] < 0), middle & (before.vertices[:, 0] > 0)
    assert np.abs(after.vertices[thick, 2]) == pytest.approx(0.094, abs=1e-3)
    assert np.abs(after.vertices[thin, 2]) == pytest.approx(0.002, abs=1e-3)
    assert (np.sign(after.vertices[thin, 2]) == np.sign(before.vertices[thin, 2])).all(), (
        "no side passes through the other"
    )


def test_what_a_field_is_made_of_is_in_its_key() -> None:
    parts = ((0.4, 0.3, 0.2), (0.4, 0.3, 0.3), (0.3, 0.4, 0.2))
    fields = [Ball(0.4), Ball(0.3), *(MixedField(Ball(a), Ball(b), share) for a, b, share in parts)]
    assert len({digest(field.arrays()) for field in fields}) == len(fields)
