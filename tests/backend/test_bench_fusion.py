from backend.bench.fusion import TARGETS, measure


def test_it_measures_the_whole_mesh_and_the_coarse_one():
    result = measure(many=600, few=300, cells=24)
    assert set(TARGETS) <= set(result)
    assert all(value > 0 for value in result.values())
