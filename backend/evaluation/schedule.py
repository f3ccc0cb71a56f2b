"""What few denoising steps cost: a Zero123's views by the fast schedule and by the paper's, against the true ones.

One-2-3-45 draws its first stage in 77 steps and its second in 50, both with noise added at every step. Each schedule
draws the same views from the same pictures and seeds, so that their differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.elevation.solve import NEAR_MOVES
from backend.evaluation.cells import Cells, as_markdown
from backend.evaluation.examples import make_examples
from backend.evaluation.metrics import psnr
from backend.generators.zero123.generator import PUBLISHED_GUIDANCE, ViewRequest, Zero123Generator
from backend.generators.zero123.preprocessing import SIZE
from backend.generators.zero123.sampling import DEFAULT_SCHEDULE, DEFAULT_STEPS, Schedule
from backend.geometry.export import write_file
from backend.geometry.render import render
from backend.pipelines.one2345.selection import ANCHOR_MOVES, moved
from backend.pipelines.stage import Progress
from backend.training.data.meshes import MeshFile


@dataclass(frozen=True)
class Way:
    """A way to draw both stages: the schedule, and the steps of each."""

    name: str
    schedule: Schedule
    around: int
    near: int


WAYS = (
    Way("paper: DDIM with noise, 77 and 50 steps", "ldm", 75, 50),
    Way("DDIM without noise, 50 steps", "ddim", 50, 50),
    Way("DPM-Solver++, 25 steps", DEFAULT_SCHEDULE, 25, 25),
    Way(f"DPM-Solver++, {DEFAULT_STEPS} steps (default)", DEFAULT_SCHEDULE, DEFAULT_STEPS, DEFAULT_STEPS),
    Way("DPM-Solver++, 8 steps (draft)", DEFAULT_SCHEDULE, 8, 8),
)
"""The first is what the others are compared with."""

TITLE = "PSNR of a Zero123's views"


class ScheduleRow(msgspec.Struct, frozen=True):
    """One way's views, on average.

    Attributes:
        name: of the way.
        around_db: PSNR of views around the object, on white, against the true ones.
        near_db: of views near the true ones that they are drawn from.
        difference_db: mean over all views of this way's PSNR minus that of the first way.
        error_db: standard error of that difference, objects taken as independent.
    """

    name: str
    around_db: float
    near_db: float
    difference_db: float
    error_db: float


def measure_schedules(
    folder: Path,
    files: Iterable[MeshFile],
    device: str,
    *,
    seed: int = 0,
    ways: Sequence[Way] = WAYS,
    on_done: Callable[[], None] = lambda: None,
) -> list[ScheduleRow]:
    """Draws four views around each object and four near one of these, in every way.

    Args:
        folder: of a Zero123 in diffusers' layout.
        files: the meshes.
        device: torch device.
        seed: of the pictures and of the noise.
        ways: to compare, at least one.
        on_done: called after each way of each object.
    """
    generator = Zero123Generator(folder, device)
    scores: list[NDArray[np.float64]] = []  # [ways, 2, 4] of each object
    for example in make_examples(files, size=SIZE, seed=seed):
        stages = [moved([example.camera], moves) for moves in (ANCHOR_MOVES, NEAR_MOVES)]
        truths = [[render(example.scene, camera, SIZE, example.light).rgba for camera in stage] for stage in stages]
        of_object = []
        for way in ways:
            of_way = []
            for cameras, steps, truth in zip(stages, (way.around, way.near), truths, strict=True):
                drawn = generator.draw(
                    [ViewRequest(example.picture, example.camera, camera) for camera in cameras],
                    seed=seed,
                    steps=steps,
                    guidance=PUBLISHED_GUIDANCE,
                    progress=Progress(),
                    schedule=way.schedule,
                )
                of_way.append([psnr(view, true) for view, true in zip(drawn.images, truth, strict=True)])
            of_object.append(of_way)
            on_done()
        scores.append(np.array(of_object))
    return summarise(np.stack(scores), [way.name for way in ways])


def summarise(scores: NDArray[np.float64], names: Sequence[str]) -> list[ScheduleRow]:
    """Rows of PSNRs [objects, ways, 2, views]."""
    differences = (scores - scores[:, :1]).mean(axis=(2, 3))
    count = len(scores)
    errors = differences.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(names), np.nan)
    around, near = scores.mean(axis=(0, 3)).T
    columns = zip(names, around, near, differences.mean(axis=0), errors, strict=True)
    return [ScheduleRow(name, *map(float, values)) for name, *values in columns]


def cells(rows: Sequence[ScheduleRow]) -> Cells:
    """The table: a row for each way."""
    found = [["Schedule", "Around (dB)", "Near (dB)", "Against the paper's (dB)"]]
    for row in rows:
        difference = f"{row.difference_db:+.2f} ± {row.error_db:.2f}" if row is not rows[0] else ""
        found.append([row.name, f"{row.around_db:.2f}", f"{row.near_db:.2f}", difference])
    return found


def write_report(folder: Path, rows: Sequence[ScheduleRow], about: dict[str, Any]) -> None:
    """Writes schedule.json and schedule.md."""
    write_file(folder / "schedule.json", msgspec.json.format(msgspec.json.encode({**about, "rows": list(rows)})))
    write_file(folder / "schedule.md", as_markdown(cells(rows)).encode())
