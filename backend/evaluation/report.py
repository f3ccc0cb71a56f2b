"""An evaluation's results for people: a table, JSON, and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from backend.evaluation.cells import Cells
from backend.evaluation.differences import Difference
from backend.evaluation.evaluate import Prediction, Scores, Summary, summarise
from backend.evaluation.examples import Example
from backend.evaluation.sheet import Picture, four_sides, sheet
from backend.geometry.export import write_file

COLUMNS = {
    "f_score": ("F-score @ 0.05", "{:.3f}"),
    "chamfer": ("Chamfer", "{:.4f}"),
    "iou": ("Volume IoU", "{:.3f}"),
    "f_score_unaligned": ("F-score, unaligned", "{:.3f}"),
    "chamfer_unaligned": ("Chamfer, unaligned", "{:.4f}"),
    "iou_unaligned": ("IoU, unaligned", "{:.3f}"),
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "views_psnr": ("PSNR of drawn views (dB)", "{:.2f}"),
    "elevation_error_deg": ("Elevation error (°)", "{:.1f}"),
    "clip": ("CLIP similarity", "{:.3f}"),
    "seconds": ("Seconds", "{:.2f}"),
}


TITLE = "mean / median"


def cells(summaries: Sequence[Summary]) -> Cells:
    """The table: metrics down, methods across."""
    rows = [
        [label, *(_cell(summary, metric, form) for summary in summaries)]
        for metric, (label, form) in _measured(summaries)
    ]
    counts = [f"{summary.count} ({summary.failures})" for summary in summaries]
    return [[TITLE, *(summary.method for summary in summaries)], *rows, ["Objects (failed)", *counts]]


def write_json(path: Path, results: Sequence[Scores], compared: Sequence[Difference], about: dict[str, Any]) -> None:
    """Writes the summary, what was run, and every object's scores."""
    content = {
        "turnaround": version("turnaround"),
        **about,
        "summary": summarise(results),
        "differences": list(compared),
        "objects": list(results),
    }
    write_file(path, msgspec.json.format(msgspec.json.encode(content)))


class ContactSheet:
    """Collects chosen objects while they are evaluated: a row per method, the picture beside it, the truth last."""

    def __init__(self, names: Sequence[str], cell: int = 160) -> None:
        self._names, self._cell = set(names), cell
        self._rows: dict[str, list[list[tuple[str, Picture]]]] = {}
        self._truths: dict[str, list[tuple[str, Picture]]] = {}

    def add(self, example: Example, method: str, prediction: Prediction | None, scores: Scores) -> None:
        """Takes in one result, if the object is among the chosen ones; fits `evaluate`'s `on_done`."""
        if example.name not in self._names:
            return
        rows = self._rows.setdefault(example.name, [])
        first = ("", _blank()) if rows else (Path(example.name).stem[:24], example.picture)
        if prediction is None:
            rows.append([first, (f"{method}: {scores.failure}", _blank())])
        else:
            sides = four_sides(prediction.mesh, self._cell)
            label = f"{method}, IoU {scores.iou:.2f}"
            rows.append([first, *((label if i == 0 else name, side) for i, (name, side) in enumerate(sides))])
        if example.name not in self._truths:
            sides = four_sides(example.truth, self._cell)
            truth = [("ground truth" if i == 0 else name, side) for i, (name, side) in enumerate(sides)]
            self._truths[example.name] = [("", _blank()), *truth]

    def write(self, path: Path) -> None:
        """Writes the sheet as PNG; nothing if no object was seen."""
        rows = [row for name in self._rows for row in (*self._rows[name], self._truths[name])]
        if rows:
            content = io.BytesIO()
            sheet(rows, self._cell).save(content, "PNG")
            write_file(path, content.getvalue())


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` names evenly spaced over the list, so that nobody can choose the good ones."""
    if count >= len(names):
        return list(names)
    return [names[int(i)] for i in np.linspace(0, len(names) - 1, count).round()] if count else []


def _measured(summaries: Sequence[Summary]) -> list[tuple[str, tuple[str, str]]]:
    """The columns of all metrics but those that no method has, such as the similarity where there is no CLIP."""
    return [(metric, how) for metric, how in COLUMNS.items() if any(metric in s.metrics for s in summaries)]


def _cell(summary: Summary, metric: str, form: str) -> str:
    if metric not in summary.metrics:
        return ""
    mean, median = summary.metrics[metric]
    return f"{form.format(mean)} / {form.format(median)}"


def _blank() -> Picture:
    return np.zeros((1, 1, 4), np.uint8)
