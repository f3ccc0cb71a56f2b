"""What the numbers are by definition: both sides of a Chamfer distance count, and an F-score is at the paper's 0.05."""

from __future__ import annotations

import numpy as np
import pytest

from backend.evaluation import metrics


def test_both_sides_of_a_chamfer_distance_count() -> None:
    truth = np.column_stack([np.arange(10.0), np.zeros(10), np.zeros(10)])
    part = truth[:1]  # lies on the truth, which is 4.5 away from it on average
    assert metrics.chamfer(part, truth) == pytest.approx((0 + 4.5) / 2)
    assert metrics.chamfer(truth, part) == pytest.approx((4.5 + 0) / 2)


@pytest.mark.parametrize(("offset", "expected"), [(0.049, 1.0), (0.051, 0.0)])
def test_an_f_score_is_at_a_twentieth(offset: float, expected: float) -> None:
    truth = np.column_stack([np.arange(10.0), np.zeros(10), np.zeros(10)])
    assert metrics.f_score(truth + np.array([0, 0, offset]), truth) == expected
    assert metrics.F_SCORE_THRESHOLD == 0.05
