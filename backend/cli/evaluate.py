"""`turnaround evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo, Settings
from protocol.validation import check_options, check_settings

from .console import Bar, Verbose, error_console, output_console
from .device import Device, DeviceChoice, choose

if TYPE_CHECKING:
    from backend.evaluation.evaluate import Method, Prediction, Scores
    from backend.evaluation.examples import Example
    from backend.training.data.meshes import MeshFile

INPUT_ALONE = ("views", 0)
"""The option by which a pipeline builds from the input picture alone, where it has one."""


def evaluate(
    meshes: Annotated[
        Path,
        typer.Option(
            help="Folder of meshes; a props.csv in or beside it names the val split.", exists=True, file_okay=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for results.json, results.md and the contact sheet.")
    ] = Path("out/evaluation"),
    pipeline: Annotated[str, typer.Option(help="The engine.")] = "one2345",
    limit: Annotated[int | None, typer.Option(help="Measure on this many val meshes, evenly spaced.", min=1)] = None,
    shown: Annotated[int, typer.Option(help="Objects on the contact sheet.", min=0, max=100)] = 12,
    alone: Annotated[bool, typer.Option("--alone/--no-alone", help="Also from the input picture alone.")] = True,
    retrieval: Annotated[
        bool, typer.Option("--retrieval/--no-retrieval", help="Also the most similar training mesh.")
    ] = True,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A setting of the engine's own; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the pictures and of the engine.")] = 0,
    resolution: Annotated[int, typer.Option(help="Marching-cubes cells along a side.")] = 128,
    device: Device = DeviceChoice.AUTO,
    cache: Annotated[Path, typer.Option(help="Where rendered training pictures are kept.")] = Path(".cache"),
    verbose: Verbose = False,
) -> None:
    """Measure an engine on the val meshes of a folder: F-score, Chamfer, IoU, novel views, elevation, seconds."""
    from backend.evaluation.evaluate import evaluate as run
    from backend.evaluation.evaluate import pipeline_method, summarise
    from backend.evaluation.examples import make_examples
    from backend.evaluation.report import ContactSheet, markdown, spread, table, write_json
    from backend.geometry.export import write_file
    from backend.pipelines import registry
    from backend.training.data.meshes import find_meshes

    from .generate import parse_options

    chosen = registry.pipeline(pipeline)
    info = chosen.info()
    settings = check_settings(Settings(seed=seed, resolution=resolution, options=parse_options(option or [], info)))
    check_options(settings, info)
    files = find_meshes(meshes)
    val = [file for file in files if file.split == "val"]
    val = [file for file in val if file.name in set(spread([file.name for file in val], limit or len(val)))]
    if not val:
        raise TurnaroundError("meshes.none", f"There are no val meshes in {meshes}.", "Mark some in a props.csv.")

    where = choose(device)
    methods = {"full": pipeline_method(chosen, settings, where)}
    if alone and _has_input_alone(info):
        name, value = INPUT_ALONE
        simpler = Settings(seed=seed, resolution=resolution, options={**settings.options, name: value})
        methods["input view alone"] = pipeline_method(chosen, simpler, where)
    if retrieval:
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

        results = run(methods, make_examples(val, seed=seed), on_done=on_done)
    summaries = summarise(results)
    about: dict[str, Any] = {"pipeline": pipeline, "settings": settings, "device": where, "objects_measured": len(val)}
    write_json(output / "results.json", results, about)
    write_file(output / "results.md", markdown(summaries).encode())
    sheet.write(output / "sheet.png")
    output_console().print(table(summaries))
    output_console().print(str(output), markup=False)


def _has_input_alone(info: PipelineInfo) -> bool:
    return any(spec.name == INPUT_ALONE[0] for spec in info.options)


def _retrieval(val: list[MeshFile], files: list[MeshFile], folder: Path, cache: Path, seed: int) -> Method:
    from backend.evaluation.evaluate import Prediction
    from backend.evaluation.examples import QUERY_SIZE, make_examples
    from backend.evaluation.retrieval import find_matches, matched_mesh
    from backend.training.data.episodes import EpisodeSpec, build

    spec = EpisodeSpec()
    assert spec.size == QUERY_SIZE
    training = build([file for file in files if file.split == "train"], spec, cache)
    queries = np.stack([example.query for example in make_examples(val, size=QUERY_SIZE, seed=seed)])
    matches = dict(zip((file.name for file in val), find_matches(queries, training), strict=True))
    return lambda example: Prediction(matched_mesh(matches[example.name], training, folder), lit=False)
