"""One module per layout: what was published in, and the one form that is stored.

Each has `convert(source, folder, entry, report)` and `expected(folder)`, see `Layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from backend.weights.lazy import Shapes
from backend.weights.store import WeightsEntry

Fraction = Callable[[int, int], None]
"""Told the bytes written so far and in all; raises to stop."""


class Layout(Protocol):
    """What a module of this package offers."""

    def convert(self, source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
        """Writes the stored form of what was published.

        Args:
            source: the published file or folder.
            folder: an empty folder.
            entry: whose weights these are to be.
            report: told how far it is.

        Raises:
            TurnaroundError: `weights.damaged`, `weights.mismatch`, `weights.unsafe`, `weights.legacy`.
        """

    def expected(self, folder: Path) -> dict[str, Shapes]:
        """What a stored folder has to hold: file name -> keys and shapes.

        Raises:
            TurnaroundError: `weights.damaged`, if its configuration cannot be read.
        """


def layout(name: str) -> Layout:
    """The layout called `name` in the catalogue."""
    return cast(Layout, import_module(f"{__name__}.{name}"))
