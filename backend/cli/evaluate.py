"""`turnaround evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo, Settings
from protocol.options import check_options
from protocol.validation import check_settings

from .console import Bar, Verbose, error_console, output_console, warn
from .device import Device, DeviceChoice, choose

if TYPE_CHECKING:
    from backend.evaluation.evaluate import Method, Prediction, Scores
    from backend.evaluation.examples import Example
    from backend.evaluation.similarity import Similarity
    from backend.training.data.meshes import MeshFile

INPUT_ALONE = ("views", 0)
"""The option by which a pipeline builds from the input picture alone, where it has one."""


class Experiment(StrEnum):
    """What is measured."""

    SHAPES = "shapes"
    ELEVATION = "elevation"
    SCHEDULE = "schedule"
    CONSISTENCY = "consistency"


def evaluate(
    what: Annotated[
        Experiment,
        typer.Argument(
            help="Shapes that an engine makes of pictures; the elevations that are found of pictures; what few "
            "denoising steps cost a Zero123's views; or whether an engine's views agree."
        ),
    ] = Experiment.SHAPES,
    *,
    meshes: Annotated[
        Path,
        typer.Option(
            help="Folder of meshes; a props.csv in or beside it names the val split.", exists=True, file_okay=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results: a table, JSON and a picture.")
    ] = Path("out/evaluation"),
    pipeline: Annotated[str, typer.Option(help="The engine.")] = "one2345",
    limit: Annotated[int | None, typer.Option(help="Measure on this many val meshes, evenly spaced.", min=1)] = None,
    shown: Annotated[int, typer.Option(help="Objects on the contact sheet.", min=0, max=100)] = 12,
    alone: Annotated[bool, typer.Option("--alone/--no-alone", help="Also from the input picture alone.")] = True,
    retrieval: Annotated[
        bool, typer.Option("--retrieval/--no-retrieval", help="Also the most similar training mesh.")
    ] = True,
    clip: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a CLIP or its image encoder, by default an installed Zero123's.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    poses: Annotated[int, typer.Option(help="Of the elevation experiment: pictures of each mesh.", min=1)] = 2,
    drawn: Annotated[
        bool, typer.Option("--drawn/--no-drawn", help="Of the elevation experiment: also match drawn views.")
    ] = True,
    zero123: Annotated[
        Path | None,
        typer.Option(
            help="Of the schedules: folder of the Zero123, by default an installed one's.", exists=True, file_okay=False
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A setting of the engine's own; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the pictures and of the engine.")] = 0,
    resolution: Annotated[int, typer.Option(help="Marching-cubes cells along a side.")] = 128,
    device: Device = DeviceChoice.AUTO,
    cache: Annotated[Path, typer.Option(help="Where rendered training pictures are kept.")] = Path(".cache"),
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of shapes and consistency: also with this setting of the engine's; may be repeated.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Of consistency: print JSON instead of a table.")] = False,
    verbose: Verbose = False,
) -> None:
    """Measure on the val meshes of a folder.

    Shapes: an engine's F-score, Chamfer, IoU, novel views, CLIP similarity, elevation and seconds. Elevation: pictures
    from random sides, and how far off the regression and the matching of near views are. Schedule: PSNR of a Zero123's
    views by the paper's steps and by fewer. Consistency: how well a field that is fitted to half of an engine's views
    shows the other half, beside true views and views of different objects.
    """
    from backend.training.data.meshes import find_meshes

    files = find_meshes(meshes)
    val = _picked(files, limit)
    if what is Experiment.ELEVATION:
        _evaluate_elevation(val, output, poses, choose(device), drawn=drawn, seed=seed)
        return
    if what is Experiment.SCHEDULE:
        _evaluate_schedule(val, output, zero123, choose(device), seed=seed)
        return
    if what is Experiment.CONSISTENCY:
        from .consistency import evaluate_consistency

        known = [file for file in files if file.split == "val"] or files
        evaluate_consistency(
            val, known, output, pipeline, option or [], compare or [], choose(device), seed=seed, shown=shown, json=json
        )
        return

    from backend.evaluation.cells import as_table, page
    from backend.evaluation.differences import beside, differences
    from backend.evaluation.evaluate import evaluate as run
    from backend.evaluation.evaluate import measured, pipeline_method, summarise
    from backend.evaluation.examples import make_examples
    from backend.evaluation.report import COLUMNS, TITLE, ContactSheet, cells, spread, write_json
    from backend.geometry.export import write_file
    from backend.pipelines import registry

    from .generate import parse_options

    chosen = registry.pipeline(pipeline)
    info = chosen.info()
    settings = check_settings(Settings(seed=seed, resolution=resolution, options=parse_options(option or [], info)))
    check_options(settings.options, info)

    where = choose(device)
    similarity = _similarity(clip, where)
    methods = {"full": pipeline_method(chosen, settings, where)}
    if alone and _has_input_alone(info):
        name, value = INPUT_ALONE
        simpler = Settings(seed=seed, resolution=resolution, options={**settings.options, name: value})
        methods["input view alone"] = pipeline_method(chosen, simpler, where)
    for pair in compare or []:
        other = Settings(seed=seed, resolution=resolution, options={**settings.options, **parse_options([pair], info)})
        check_options(other.options, info)
        methods[pair] = pipeline_method(chosen, other, where)
    if retrieval and not _others(val, files):
        error_console().print("Retrieval is left out: all meshes are measured, and none is left to find.")
    elif retrieval:
        error_console().print("Comparing with the training pictures ...")
        methods["retrieval"] = _retrieval(val, files, meshes, cache, seed)

    sheet = ContactSheet(spread([file.name for file in val], shown))
    total, done = len(val) * len(methods), 0
    with Bar() as bar:

        def on_done(example: Example, method: str, prediction: Prediction | None, scores: Scores) -> None:
            nonlocal done
            done += 1
            sheet.add(example, method, prediction, scores)
            bar.update("Evaluating", done, total, done / total)

        results = run(methods, make_examples(val, seed=seed), similarity=similarity, on_done=on_done)
    summaries = summarise(results)
    about: dict[str, Any] = {"pipeline": pipeline, "settings": settings, "device": where, "objects_measured": len(val)}
    compared = differences(measured(results), list(methods))
    write_json(output / "results.json", results, compared, about)
    tables = beside(TITLE, cells(summaries), compared, COLUMNS)
    write_file(output / "results.md", page(tables).encode())
    sheet.write(output / "sheet.png")
    for title, table in tables.items():
        output_console().print(as_table(title, table))
    output_console().print(str(output), markup=False)


def _has_input_alone(info: PipelineInfo) -> bool:
    return any(spec.name == INPUT_ALONE[0] for spec in info.options)


def _picked(files: list[MeshFile], limit: int | None) -> list[MeshFile]:
    """What is measured on: the val meshes, or all where none is marked so; at most `limit`, evenly spaced."""
    from backend.evaluation.report import spread

    val = [file for file in files if file.split == "val"]
    if not val:
        warn("No mesh is marked val in a props.csv: any of them may be measured.")
        val = files
    names = set(spread([file.name for file in val], limit or len(val)))
    return [file for file in val if file.name in names]


def _similarity(folder: Path | None, device: str) -> Similarity | None:
    from backend.evaluation.similarity import ClipSimilarity, installed_encoder

    folder = folder or installed_encoder()
    if folder is None:
        error_console().print("CLIP similarity is left out: there is no Zero123 installed, and no --clip is given.")
        return None
    return ClipSimilarity(folder, device)


def _evaluate_elevation(val: list[MeshFile], output: Path, poses: int, device: str, *, drawn: bool, seed: int) -> None:
    from backend.evaluation.cells import as_table
    from backend.evaluation.elevation import estimators, make_poses, score
    from backend.evaluation.elevation_report import TITLE, cells, write_report

    methods = estimators(device, drawn=drawn, seed=seed)
    total, done = len(val) * poses * len(methods), 0
    with Bar() as bar:

        def on_done() -> None:
            nonlocal done
            done += 1
            bar.update("Evaluating", done, total, done / total)

        scores = score(methods, make_poses(val, poses=poses, seed=seed), on_done)
    about: dict[str, Any] = {"device": device, "meshes": len(val), "poses_each": poses, "seed": seed}
    output_console().print(as_table(TITLE, cells(write_report(output, scores, about))))
    output_console().print(str(output), markup=False)


def _evaluate_schedule(val: list[MeshFile], output: Path, zero123: Path | None, device: str, *, seed: int) -> None:
    from backend.evaluation.cells import as_table
    from backend.evaluation.schedule import TITLE, WAYS, cells, measure_schedules, write_report
    from backend.training.published import installed_zero123

    folder = zero123 or installed_zero123()
    if folder is None:
        raise TurnaroundError(
            "evaluate.zero123",
            "There is no Zero123 to measure.",
            "Install one with turnaround models install, or give a folder with --zero123.",
            field="zero123",
        )
    total, done = len(val) * len(WAYS), 0
    with Bar() as bar:

        def on_done() -> None:
            nonlocal done
            done += 1
            bar.update("Evaluating", done, total, done / total)

        rows = measure_schedules(folder, val, device, seed=seed, on_done=on_done)
    write_report(output, rows, {"device": device, "meshes": len(val), "seed": seed, "weights": str(folder.name)})
    output_console().print(as_table(TITLE, cells(rows)))
    output_console().print(str(output), markup=False)


def _others(val: list[MeshFile], files: list[MeshFile]) -> list[MeshFile]:
    """Training meshes that are not measured."""
    measured = {file.name for file in val}
    return [file for file in files if file.split == "train" and file.name not in measured]


def _retrieval(val: list[MeshFile], files: list[MeshFile], folder: Path, cache: Path, seed: int) -> Method:
    from backend.evaluation.evaluate import Prediction
    from backend.evaluation.examples import QUERY_SIZE, make_examples
    from backend.evaluation.retrieval import find_matches, matched_mesh
    from backend.training.data.episodes import EpisodeSpec, build

    spec = EpisodeSpec()
    assert spec.size == QUERY_SIZE
    training = build(_others(val, files), spec, cache)
    queries = np.stack([example.query for example in make_examples(val, size=QUERY_SIZE, seed=seed)])
    matches = dict(zip((file.name for file in val), find_matches(queries, training), strict=True))
    return lambda example: Prediction(matched_mesh(matches[example.name], training, folder), lit=False)
