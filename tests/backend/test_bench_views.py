"""The benchmark of drawn views runs; how fast that is, is no test's business."""

from __future__ import annotations

import dataclasses

import pytest

from backend.bench import views


def test_every_figure_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(views.TINY_3DIM, size=16, channels=16, emb_channels=32, groups=8)
    monkeypatch.setattr(views, "TINY_3DIM", small)
    monkeypatch.setattr(views, "VIEWS", 3)
    monkeypatch.setattr(views, "STEPS", 2)
    found = views.measure()
    assert found.keys() >= views.TARGETS.keys()
    assert len(found) == 3
    assert all(seconds > 0 for seconds in found.values())
