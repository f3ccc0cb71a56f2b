"""The published code's numbers: a few in tests/data, all of them in the folder that GOLDENS names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[1] / "data"


class Golden:
    """Arrays by name, which remembers what has not been asked for: a comparison that is left out shows."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.unread = set(self.arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        return self.arrays[name]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self[name]))

    def close(self, name: str, actual: torch.Tensor | np.ndarray, atol: float) -> None:
        """Asserts that an array is reproduced within a tolerance, in the golden's shape."""
        expected, actual = self[name], np.asarray(actual)
        assert actual.shape == expected.shape, name
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        assert difference.max() <= atol, f"{name}: {difference.max():.2e} > {atol:.0e}"

    def equal(self, name: str, actual: torch.Tensor | np.ndarray) -> None:
        assert np.array_equal(np.asarray(actual), self[name]), name


def full(name: str) -> Golden:
    """One of the complete files; the test is skipped where they are not at hand."""
    return Golden(folder() / f"{name}.npz")


def folder() -> Path:
    """Where the complete files lie."""
    path = Path(os.environ.get("GOLDENS") or "/nowhere")
    if not path.is_dir():
        pytest.skip("The published code's complete numbers are not here; run: make parity GOLDENS=FOLDER")
    return path
