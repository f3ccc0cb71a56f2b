"""`turnaround evaluate consistency`: see `backend.evaluation.consistency`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.messages import Settings
from protocol.options import check_options
from protocol.validation import check_settings

from .console import Bar, error_console, output_console
from .generate import parse_options

if TYPE_CHECKING:
    from backend.evaluation.consistency_methods import Measures, ObjectScore, Pictures
    from backend.evaluation.examples import Example
    from backend.training.data.meshes import MeshFile

OBJECTS = 16
"""Different objects of the lower bound, at most; as many as a set of views commonly has."""


def evaluate_consistency(
    measured: list[MeshFile],
    known: list[MeshFile],
    output: Path,
    pipeline: str,
    options: list[str],
    compare: list[str],
    device: str,
    *,
    seed: int,
    shown: int,
    json: bool,
) -> None:
    """Scores the views that a pipeline draws of each mesh, beside the two bounds at the same cameras.

    Args:
        measured: the meshes.
        known: meshes that the lower bound may show.
        output: folder for a table, JSON and a sheet.
        pipeline: its name.
        options: NAME=VALUE, the pipeline's own.
        compare: the same; with each of them instead, the pipeline is scored once more.
        device: torch device.
        seed: of the pictures, the pipeline and the fits.
        shown: objects on the sheet.
        json: print JSON instead of a table.
    """
    from backend.evaluation.cells import as_table, page
    from backend.evaluation.consistency_methods import measured as measured_by
    from backend.evaluation.consistency_methods import pipeline_views, run
    from backend.evaluation.consistency_report import COLUMNS, TITLE, ComparisonSheet, as_json, cells
    from backend.evaluation.differences import beside, differences
    from backend.evaluation.examples import make_examples
    from backend.evaluation.report import spread
    from backend.geometry.export import write_file
    from backend.pipelines import registry

    chosen = registry.pipeline(pipeline)
    info = chosen.info()
    methods = {}
    for name, changed in {pipeline: [], **{f"{pipeline}, {text}": [text] for text in compare}}.items():
        settings = check_settings(Settings(seed=seed, options=parse_options([*options, *changed], info)))
        check_options(settings.options, info)
        methods[name] = pipeline_views(chosen, settings, device)

    names = set(spread([file.name for file in known], OBJECTS))
    objects = list(make_examples([file for file in known if file.name in names], seed=seed))
    if len(objects) < 2:
        error_console().print("The lower bound is left out: there is only one mesh.")
    sheet = ComparisonSheet(spread([file.name for file in measured], shown))
    total, done = len(measured) * (len(methods) + (2 if len(objects) > 1 else 1)), 0
    with Bar() as bar:

        def on_done(example: Example, score: ObjectScore, pictures: Pictures | None) -> None:
            nonlocal done
            done += 1
            sheet.add(example, score, pictures)
            bar.update("Evaluating", done, total, done / total)

        scores, summaries = run(
            methods,
            make_examples(measured, seed=seed),
            objects,
            measures=measures(seed, device),
            on_done=on_done,
        )
    about: dict[str, Any] = {
        "pipeline": pipeline,
        "options": options,
        "device": device,
        "meshes": len(measured),
        "seed": seed,
    }
    compared = differences(measured_by(scores), list(methods))
    content = as_json(scores, summaries, compared, about)
    tables = beside(TITLE, cells(summaries), compared, COLUMNS)
    write_file(output / "consistency.json", content)
    write_file(output / "consistency.md", page(tables).encode())
    sheet.write(output / "consistency.png")
    for code in sorted({score.failure for score in scores} - {""}):
        failed = [score.name for score in scores if score.failure == code]
        named = ", ".join(failed[:3]) + (" and others" if len(failed) > 3 else "")
        error_console().print(f"{code}: no score of {named}.", markup=False)
    if json:
        output_console().print(content.decode(), markup=False, soft_wrap=True)
        return
    for title, table in tables.items():
        output_console().print(as_table(title, table))
    output_console().print(str(output), markup=False)


def measures(seed: int, device: str) -> Measures:
    """What can be measured with the weights that are installed; a word about what cannot."""
    from backend.evaluation.consistency_methods import Measures
    from backend.evaluation.fid import FidDistance, installed_fid
    from backend.evaluation.lpips import LpipsDistance, installed_lpips

    lpips, fid = installed_lpips(), installed_fid()
    for path, title, name in ((lpips, "LPIPS", "lpips-alex"), (fid, "FID", "fid-inception")):
        if path is None:
            error_console().print(f"{title} is left out: {name} is not among the installed models.")
    return Measures(
        distance=None if lpips is None else LpipsDistance(lpips, device),
        set_distance=None if fid is None else FidDistance(fid, device),
        seed=seed,
        device=device,
    )
