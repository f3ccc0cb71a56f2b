"""Stages: keys that change with what matters, a bounded cache, progress that stops a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.geometry.cameras import Camera
from backend.pipelines.stage import CancelledError, KeepError, Progress, StageCache, Stages, digest

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@given(VALUES, VALUES)
def test_digest_tells_values_apart(a: object, b: object) -> None:
    # repr distinguishes 1, 1.0 and True as the digest does
    assert (digest(a) == digest(b)) == (repr(normal(a)) == repr(normal(b)))


def normal(value: object) -> object:
    if isinstance(value, dict):
        return {"dict": sorted((k, repr(normal(v))) for k, v in value.items())}
    return [normal(v) for v in value] if isinstance(value, list) else value


def test_digest_sees_arrays_and_cameras() -> None:
    a = np.arange(6, dtype=np.float32)
    others = [a.reshape(2, 3), a.astype(np.float64), a + 1, a[::-1], Camera(0, 0, 1, 40), Camera(0, 0, 1, 41)]
    assert len({digest(x) for x in [a, *others]}) == 7
    assert digest(a) == digest(a.copy())
    with pytest.raises(TypeError):
        digest(object())


def test_stage_runs_once_for_the_same_parts_and_survives_on_disk(tmp_path: Path) -> None:
    runs = []

    def compute() -> dict[str, np.ndarray]:
        runs.append(1)
        return {"x": np.arange(5)[::-1]}

    cache = StageCache(folder=tmp_path)
    stages = Stages(cache, Progress())
    first = stages.run("double", compute, seed=1)
    again = stages.run("double", compute, seed=1)
    cache.clear_memory()
    stored = stages.run("double", compute, seed=1)
    stages.run("double", compute, seed=2)
    assert len(runs) == 2
    assert stages.progress.cached == ["double", "double"]
    for result in (again, stored):
        np.testing.assert_array_equal(result["x"], first["x"])
    assert StageCache(folder=tmp_path).get(digest("double", {"seed": 1})) is not None


def test_cache_is_bounded_and_a_torn_file_is_as_good_as_none(tmp_path: Path) -> None:
    size = 100_000
    cache = StageCache(memory_bytes=3 * size, folder=tmp_path, disk_bytes=4 * size)
    for key in "abcdefgh":
        cache.put(key, {"x": np.zeros(size - 1000, np.uint8)})
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 4 * size
    assert cache.get("a") is None
    assert cache.get("h") is not None
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    assert cache.get("torn") is None
    assert not (tmp_path / "torn.safetensors").exists()


def test_full_disk_costs_only_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.pipelines.stage.save_file", full)
    cache = StageCache(folder=tmp_path)
    cache.put("key", {"x": np.ones(3)})
    assert cache.get("key") is not None
    assert not list(tmp_path.iterdir())


def test_progress_fills_its_span_and_stops_the_job() -> None:
    seen = []
    progress = Progress(report=seen.append)
    progress.begin("Drawing Views", (0.2, 0.6))
    progress.step(1, 4)
    progress.step(4, 4, can_keep=True)
    assert [round(u.fraction, 6) for u in seen] == [0.2, 0.3, 0.6]
    progress.keep.set()
    progress.step(1, 4)  # cannot be kept here
    with pytest.raises(KeepError):
        progress.step(2, 4, can_keep=True)
    with pytest.raises(KeepError):
        progress.begin("Drawing Views", (0.2, 0.6), can_keep=True)
    progress.cancel.set()
    with pytest.raises(CancelledError):
        progress.step(3, 4)
