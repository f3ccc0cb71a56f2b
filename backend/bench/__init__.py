"""Benchmarks: `turnaround bench` runs the `measure()` of every module here whose name does not begin with `_`.

`measure` gives numbers by name; a name ends in its unit (`round_trip_milliseconds`). A module may have `TARGETS`: for
some of these names, on which side of what value the project wants to be, e.g. `{"share_of_bare": (">=", 0.8)}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

Target = tuple[Literal["<=", ">="], float]


class Benchmark(Protocol):
    """A module of this package."""

    def measure(self) -> dict[str, float]:
        """Measures on this machine."""


class Row(msgspec.Struct, frozen=True):
    """One measured number.

    Attributes:
        benchmark: the module.
        name: what was measured.
        value: in the unit that the name ends in.
        target: what the project aims at; None where it only reports.
    """

    benchmark: str
    name: str
    value: float
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        sign, value = self.target
        return self.value <= value if sign == "<=" else self.value >= value


def run(name: str, module: Benchmark) -> list[Row]:
    """What a benchmark measures, in its order."""
    targets: Mapping[str, Target] = getattr(module, "TARGETS", {})
    return [Row(name, key, float(value), targets.get(key)) for key, value in module.measure().items()]
