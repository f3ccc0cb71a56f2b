"""The elevation experiment for people: a table, JSON and a histogram."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image, ImageDraw

from backend.evaluation.cells import Cells, as_markdown
from backend.evaluation.elevation import CLOSE_DEG, ElevationScore, ElevationSummary, summarise
from backend.evaluation.sheet import BACKGROUND, INK, MARGIN
from backend.geometry.export import write_file

TITLE = "Absolute error of the elevation"

BIN_DEG, END_DEG = 5, 60
"""Width of a bar, and the error from which all are in the last one."""

PANEL_WIDTH, PANEL_HEIGHT = 640, 90
BAR = (86, 128, 172)


def cells(summaries: Sequence[ElevationSummary]) -> Cells:
    """The table: a row for each method."""
    return [
        ("Method", "Mean (°)", "Median (°)", f"Below {CLOSE_DEG:.0f}°", "Assumed", "Poses"),
        *(
            (s.method, f"{s.mean_deg:.1f}", f"{s.median_deg:.1f}", f"{s.close:.0%}", str(s.assumed), str(s.count))
            for s in summaries
        ),
    ]


def write_report(folder: Path, scores: Sequence[ElevationScore], about: dict[str, Any]) -> list[ElevationSummary]:
    """Writes elevation.json, elevation.md and elevation.png; returns what the table shows."""
    summaries = summarise(scores)
    content = {"turnaround": version("turnaround"), **about, "summary": summaries, "poses": list(scores)}
    write_file(folder / "elevation.json", msgspec.json.format(msgspec.json.encode(content)))
    write_file(folder / "elevation.md", as_markdown(cells(summaries)).encode())
    page = io.BytesIO()
    histogram(scores).save(page, "PNG")
    write_file(folder / "elevation.png", page.getvalue())
    return summaries


def counts(errors: Sequence[float]) -> list[int]:
    """Errors in each bar, from -END_DEG to END_DEG; what lies beyond is in the last on its side."""
    inside = np.clip(errors, -END_DEG + 1e-6, END_DEG - 1e-6)
    return np.histogram(inside, np.arange(-END_DEG, END_DEG + BIN_DEG, BIN_DEG))[0].tolist()


def histogram(scores: Sequence[ElevationScore]) -> Image.Image:
    """Signed errors of each method, one panel below the other, all to one scale."""
    summaries = summarise(scores)
    bars = {s.method: counts([score.error_deg for score in scores if score.method == s.method]) for s in summaries}
    highest = max((max(values) for values in bars.values()), default=1) or 1
    step = PANEL_HEIGHT + 2 * MARGIN + 20
    page = Image.new("RGB", (PANEL_WIDTH + 2 * MARGIN, len(summaries) * step + 30), BACKGROUND)
    draw = ImageDraw.Draw(page)
    width = PANEL_WIDTH / (2 * END_DEG / BIN_DEG)
    for panel, summary in enumerate(summaries):
        base = panel * step + MARGIN + 20 + PANEL_HEIGHT
        title = f"{summary.method}: mean {summary.mean_deg:.1f}°, median {summary.median_deg:.1f}°"
        draw.text((MARGIN, base - PANEL_HEIGHT - 8), title, INK, anchor="lb", font_size=13)
        for number, count in enumerate(bars[summary.method]):
            left, top = MARGIN + number * width, base - PANEL_HEIGHT * count / highest
            if count:
                draw.rectangle((left + 1, top, left + width - 1, base), BAR)
        draw.line((MARGIN, base, MARGIN + PANEL_WIDTH, base), INK)
    for degrees in range(-END_DEG, END_DEG + 1, 20):
        x = MARGIN + PANEL_WIDTH * (degrees + END_DEG) / (2 * END_DEG)
        anchor = {-END_DEG: "lm", END_DEG: "rm"}.get(degrees, "mm")
        draw.text((x, page.height - 15), f"{degrees}°", INK, anchor=anchor, font_size=13)
    return page
