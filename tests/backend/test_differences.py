"""Differences between methods: on the same objects, with what chance may have done."""

from __future__ import annotations

import pytest

from backend.evaluation.cells import as_markdown, page
from backend.evaluation.differences import Measured, beside, differences

COLUMNS = {"psnr": ("PSNR (dB)", "{:.2f}"), "lpips": ("LPIPS", "{:.3f}"), "fid": ("FID", "{:.1f}")}


def measured(method: str, **psnr: float) -> list[Measured]:
    return [Measured(method, name, {"psnr": value}) for name, value in psnr.items()]


def test_differences_are_of_the_objects_that_both_methods_have() -> None:
    rows = [
        *measured("new", a=20.0, b=15.0, c=31.0, d=7.0),
        *measured("old", b=16.0, c=28.0, a=19.0, failed=0.0),
        *measured("once", a=3.0),
        *measured("truth", a=40.0, b=41.0),
        Measured("old", "d", {"lpips": 0.5}),
    ]
    (found,) = differences(rows, ["new", "old", "once"])
    assert (found.method, found.minus, found.metric) == ("new", "old", "psnr")
    assert (found.mean, found.higher, found.count) == (1.0, 2, 3)
    assert found.error == pytest.approx(2 / 3**0.5)
    tables = beside("All", [["Method", "PSNR"], ["new", "18"]], [found], COLUMNS)
    assert page(tables) == (
        "| Method | PSNR |\n|---|---|\n| new | 18 |\n\n| new minus | old |\n|---|---|\n"
        "| PSNR (dB) | +1.00 ± 1.15 (2 of 3) |\n"
    )


def test_what_cannot_be_compared_leaves_the_table_alone() -> None:
    assert differences(measured("new", a=1.0, b=2.0), ["new"]) == []
    assert differences([*measured("new", a=1.0, b=2.0), *measured("old", a=1.0)], ["new", "old"]) == []
    table = [["Method", "PSNR"], ["new", "18"]]
    assert beside("All", table, [], COLUMNS) == {"All": table}


def test_every_metric_has_its_own_objects_and_form() -> None:
    values = [("a", 0.25, 1.0), ("b", 0.75, 2.0)]
    rows = [Measured("new", name, {"lpips": lpips, "psnr": psnr}) for name, lpips, psnr in values]
    rows += [Measured("old", name, {"lpips": 0.5}) for name in "ab"]
    rows += [Measured("older", name, {"lpips": 0.0, "psnr": 2.0}) for name in "ab"]
    lines = as_markdown(beside("", [["x"]], differences(rows, ["new", "old", "older"]), COLUMNS).popitem()[1])
    assert lines.splitlines()[2:] == [
        "| PSNR (dB) |  | -0.50 ± 0.50 (0 of 2) |",
        "| LPIPS | +0.000 ± 0.250 (1 of 2) | +0.500 ± 0.250 (2 of 2) |",
    ]
