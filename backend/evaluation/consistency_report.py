"""The 3D consistency of methods for people: a table, JSON, and a sheet of what was compared."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from backend.evaluation.cells import Cells
from backend.evaluation.consistency_methods import ObjectScore, Pictures, Summary
from backend.evaluation.differences import Difference
from backend.evaluation.examples import Example
from backend.evaluation.sheet import Picture, sheet
from backend.geometry.export import write_file

COLUMNS = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "fid": ("FID", "{:.1f}"),
    "truth_psnr": ("To the truth (dB)", "{:.2f}"),
    "seconds": ("Seconds", "{:.1f}"),
    "views": ("Views", "{:.0f}"),
}
"""Heading and form; a column that no method has a number in is left out."""

SHOWN = 8
"""Held-out views of each method on the sheet."""


TITLE = "3D consistency: held-out views beside a field of the others"


def cells(summaries: Sequence[Summary]) -> Cells:
    """The table: a row for each method."""
    columns = {name: how for name, how in COLUMNS.items() if any(getattr(s, name) is not None for s in summaries)}
    found = [["Views by", *(heading for heading, _ in columns.values()), "Objects (failed)"]]
    for s in summaries:
        values = [(getattr(s, name), form) for name, (_, form) in columns.items()]
        numbers = ["" if value is None else form.format(value) for value, form in values]
        found.append([s.method, *numbers, f"{s.count} ({s.failures})"])
    return found


def as_json(
    scores: Sequence[ObjectScore],
    summaries: Sequence[Summary],
    compared: Sequence[Difference],
    about: dict[str, Any],
) -> bytes:
    """All of it for programs."""
    content = {
        "turnaround": version("turnaround"),
        **about,
        "summary": list(summaries),
        "differences": list(compared),
        "objects": list(scores),
    }
    return msgspec.json.format(msgspec.json.encode(content))


class ComparisonSheet:
    """Collects chosen objects while they are scored: for each method held-out views, and below them the field's."""

    def __init__(self, names: Sequence[str], cell: int = 128) -> None:
        self._names, self._cell = set(names), cell
        self._rows: dict[str, list[list[tuple[str, Picture]]]] = {}

    def add(self, example: Example, score: ObjectScore, pictures: Pictures | None) -> None:
        """Takes in one score, if the object is among the chosen ones; fits `run`'s `on_done`."""
        if example.name not in self._names or pictures is None or score.score is None:
            return
        own = self._rows.setdefault(example.name, [[(Path(example.name).stem[:20], example.picture)]])
        caption = f"{score.method}, {score.score.psnr:.1f} dB"
        for title, images in ((caption, pictures.held), ("its field", pictures.drawn)):
            own.append([(title if number == 0 else "", image) for number, image in enumerate(images[:SHOWN])])

    def write(self, path: Path) -> None:
        """Writes the sheet as PNG; nothing if no object was seen."""
        lines = [row for own in self._rows.values() for row in own]
        if lines:
            content = io.BytesIO()
            sheet(lines, self._cell).save(content, "PNG")
            write_file(path, content.getvalue())
