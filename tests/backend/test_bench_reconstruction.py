import numpy as np

from backend.bench.reconstruction import TARGETS, Size, measure


def test_it_measures_both_ways_and_they_agree():
    result = measure(Size(views=3, picture=32, volume=16, samples=50, points=100))
    assert set(TARGETS) <= set(result)
    assert {f"plain_{name}" for name in TARGETS if name != "same_mesh"} <= set(result)
    assert result["same_mesh"] == 1.0
    assert all(np.isnan(value) or value > 0 for value in result.values())
