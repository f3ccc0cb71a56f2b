"""Is one method better than another? Differences on the same objects, and how far chance may have moved them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from backend.evaluation.cells import Cells

Columns = Mapping[str, tuple[str, str]]
"""Of each metric its heading and form."""


TITLE = "On the same objects: mean difference ± its standard error (objects on which it is positive)"


class Measured(msgspec.Struct, frozen=True):
    """What one method has reached on one object: metric -> value, of those metrics that it has."""

    method: str
    name: str
    values: dict[str, float]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One method minus another in one metric, over the objects on which both have it.

    Attributes:
        mean: of the differences.
        error: the mean's standard error, objects taken as independent.
        higher: objects on which the method is higher than the other.
        count: objects.
    """

    method: str
    minus: str
    metric: str
    mean: float
    error: float
    higher: int
    count: int


def differences(measured: Iterable[Measured], methods: Sequence[str]) -> list[Difference]:
    """The first of some methods minus each of the others, in every metric that both have on at least two objects."""
    values: dict[str, dict[str, dict[str, float]]] = {method: {} for method in methods}
    for row in measured:
        if row.method in values:
            values[row.method][row.name] = row.values
    first, *others = methods
    found = []
    for other in others:
        shared = [(own, values[other][name]) for name, own in values[first].items() if name in values[other]]
        for metric in dict.fromkeys(metric for own, _ in shared for metric in own):
            pairs = [(own[metric], its[metric]) for own, its in shared if metric in own and metric in its]
            if len(pairs) > 1:
                found.append(_difference(first, other, metric, np.subtract(*np.array(pairs).T)))
    return found


def _difference(method: str, minus: str, metric: str, values: np.ndarray) -> Difference:
    return Difference(
        method=method,
        minus=minus,
        metric=metric,
        mean=float(values.mean()),
        error=float(values.std(ddof=1)) / math.sqrt(len(values)),
        higher=int((values > 0).sum()),
        count=len(values),
    )


def cells(found: Sequence[Difference], columns: Columns) -> Cells:
    """Metrics down, and across the methods that were subtracted."""
    methods = list(dict.fromkeys(d.minus for d in found))
    of = {(d.metric, d.minus): d for d in found}
    rows = [
        [heading, *(_cell(of.get((metric, minus)), form) for minus in methods)]
        for metric, (heading, form) in columns.items()
        if any(d.metric == metric for d in found)
    ]
    return [[f"{found[0].method} minus", *methods], *rows]


def beside(title: str, table: Cells, found: Sequence[Difference], columns: Columns) -> dict[str, Cells]:
    """A table of methods, and one of their differences if there are any, by their titles."""
    return {title: table} | ({TITLE: cells(found, columns)} if found else {})


def _cell(difference: Difference | None, form: str) -> str:
    if difference is None:
        return ""
    mean = form.replace(":", ":+").format(difference.mean)
    return f"{mean} ± {form.format(difference.error)} ({difference.higher} of {difference.count})"
