"""`turnaround evaluate consistency`: see `backend.evaluation.consistency`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import Verbose, error_console, output_console, warn
from ..device import Device, DeviceChoice, choose
from .common import (
    OUTPUT,
    Compare,
    Engine,
    Limit,
    Meshes,
    Options,
    Output,
    Seed,
    Shown,
    asked,
    counted,
    made_folder,
    measured_meshes,
    show,
)

if TYPE_CHECKING:
    from backend.evaluation.consistency_methods import Measures, ObjectScore, Pictures
    from backend.evaluation.examples import Example

OBJECTS = 16
"""Different objects of the lower bound, at most; as many as a set of views commonly has."""


def consistency(
    meshes: Meshes,
    output: Output = OUTPUT,
    pipeline: Engine = "one2345",
    option: Options = None,
    compare: Compare = None,
    limit: Limit = None,
    shown: Shown = 12,
    seed: Seed = 0,
    device: Device = DeviceChoice.AUTO,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    verbose: Verbose = False,
) -> None:
    """Whether an engine's views agree: how well a field that is fitted to half of them shows the other half.

    Beside that stand true views, and views of different objects.
    """
    from backend.evaluation.cells import page
    from backend.evaluation.consistency_methods import measured as measured_by
    from backend.evaluation.consistency_methods import pipeline_views, run
    from backend.evaluation.consistency_report import COLUMNS, TITLE, ComparisonSheet, as_json, cells
    from backend.evaluation.differences import beside, differences
    from backend.evaluation.examples import make_examples, usable
    from backend.evaluation.report import spread
    from backend.geometry.export import write_file
    from backend.pipelines import registry
    from backend.training.data.meshes import find_meshes

    made_folder(output)
    files, where = find_meshes(meshes), choose(device)
    told = cache(warn)  # a mesh may be measured and stand in the lower bound too
    measured, known = measured_meshes(files, limit, told), [file for file in files if file.split == "val"] or files
    chosen, own, methods = registry.pipeline(pipeline), option or [], {}
    for name, changed in {pipeline: [], **{f"{pipeline}, {pair}": [pair] for pair in compare or []}}.items():
        settings = asked(chosen.info(), [*own, *changed], seed=seed)
        methods[name] = pipeline_views(chosen, settings, where)

    names = set(spread([file.name for file in known], OBJECTS))
    objects = list(make_examples(usable([file for file in known if file.name in names], told), seed=seed))
    if len(objects) < 2:
        error_console().print("The lower bound is left out: there is only one mesh.")
    sheet = ComparisonSheet(spread([file.name for file in measured], shown))
    with counted(len(measured) * (len(methods) + (2 if len(objects) > 1 else 1))) as advance:

        def on_done(example: Example, score: ObjectScore, pictures: Pictures | None) -> None:
            sheet.add(example, score, pictures)
            advance()

        scores, summaries = run(
            methods,
            make_examples(measured, seed=seed),
            objects,
            measures=measures(seed, where),
            on_done=on_done,
        )
    about: dict[str, Any] = {
        "pipeline": pipeline,
        "options": own,
        "device": where,
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
    else:
        show(tables, output)


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
