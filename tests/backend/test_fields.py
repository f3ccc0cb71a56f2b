"""Fields made of fields."""

from __future__ import annotations

import numpy as np
import pytest

from backend.pipelines.shaping import surface
from backend.pipelines.stage import digest
from backend.reconstructors.base import MixedField, ThinnedField


class Ball:
    half = 0.6

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def distance(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(points, axis=1) - self.radius, np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"radius": np.array(self.radius)}


def test_mixed_and_thinned_balls_have_the_radius_that_they_should() -> None:
    mixed = MixedField(Ball(0.3), Ball(0.5), 0.25)
    for field, radius in ((mixed, 0.35), (ThinnedField(mixed, 0.02), 0.33), (ThinnedField(Ball(0.4), 0.1), 0.3)):
        mesh = surface(field, 48, smoothing=0)
        assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(radius, abs=2e-3)


def test_what_a_field_is_made_of_is_in_its_key() -> None:
    fields = [Ball(0.4), ThinnedField(Ball(0.4), 0.1), ThinnedField(Ball(0.4), 0.2), ThinnedField(Ball(0.3), 0.1)]
    fields += [MixedField(Ball(0.4), Ball(0.3), share) for share in (0.2, 0.3)] + [
        MixedField(Ball(0.3), Ball(0.4), 0.2)
    ]
    assert len({digest(field.arrays()) for field in fields}) == len(fields)
