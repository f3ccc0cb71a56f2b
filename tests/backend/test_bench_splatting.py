from backend.bench.splatting import TARGETS, Size, measure


def test_it_measures_both_ways_and_they_agree():
    result = measure(Size(200, 2, 24, 0.05), Size(300, 1, 70, 0.03))
    assert set(TARGETS) - {"cuda_share_of_bare_gsplat"} <= set(result)
    names = {"forward_seconds", "forward_and_backward_seconds"}
    assert {name for name in result if not name.startswith("cuda")} == {
        prefix + name for prefix in ("", "plain_", "large_") for name in names
    } | {"same_pictures"}
    assert result["same_pictures"] == 1.0
    assert all(value > 0 for value in result.values())
