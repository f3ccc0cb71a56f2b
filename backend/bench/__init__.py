"""Benchmarks: each module here has a `measure()` that yields `Measurement`s; `turnaround bench` runs them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec


class Measurement(msgspec.Struct, frozen=True):
    """One measured number.

    Attributes:
        name: what was measured, for people.
        value: in `unit`.
        unit: "s", "ms", "MB", "MB/s", "x", ...
        target: what the project aims at; None where it only reports.
        better: which side of the target is good.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


class Benchmark(Protocol):
    """A module of this package."""

    def measure(self) -> Iterator[Measurement]:
        """Measures, one number after the other."""
