"""`turnaround evaluate shapes`: see `backend.evaluation.evaluate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..console import Verbose, error_console, warn
from ..device import Device, DeviceChoice, choose
from .common import (
    OUTPUT,
    RESOLUTION,
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
    from backend.evaluation.evaluate import Method, Prediction, Scores
    from backend.evaluation.examples import Example
    from backend.evaluation.similarity import Similarity
    from backend.training.data.meshes import MeshFile

INPUT_ALONE = "views=0"
"""The setting by which a pipeline builds from the input picture alone, where it has one."""


def shapes(
    meshes: Meshes,
    output: Output = OUTPUT,
    pipeline: Engine = "one2345",
    option: Options = None,
    compare: Compare = None,
    limit: Limit = None,
    shown: Shown = 12,
    alone: Annotated[bool, typer.Option("--alone/--no-alone", help="Also from the input picture alone.")] = True,
    retrieval: Annotated[
        bool, typer.Option("--retrieval/--no-retrieval", help="Also the most similar training mesh.")
    ] = True,
    clip: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a CLIP or its image encoder, by default that of an installed Zero123 or Stable Video "
            "Diffusion.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    resolution: Annotated[int, typer.Option(help="Marching-cubes cells along a side.")] = RESOLUTION,
    seed: Seed = 0,
    device: Device = DeviceChoice.AUTO,
    cache: Annotated[Path, typer.Option(help="Where rendered training pictures are kept.")] = Path(".cache"),
    verbose: Verbose = False,
) -> None:
    """How good an engine's shapes are: F-score, Chamfer, IoU, novel views, CLIP similarity, elevation and seconds."""
    from backend.evaluation.cells import page
    from backend.evaluation.differences import beside, differences
    from backend.evaluation.evaluate import evaluate, measured, pipeline_method, summarise
    from backend.evaluation.examples import make_examples, usable
    from backend.evaluation.report import COLUMNS, TITLE, ContactSheet, cells, spread, write_json
    from backend.evaluation.similarity import installed_encoder
    from backend.geometry.export import write_file
    from backend.pipelines import registry
    from backend.training.data.meshes import find_meshes

    made_folder(output)
    files, where, told = find_meshes(meshes), choose(device), functools.cache(warn)
    val = measured_meshes(files, limit, told)
    chosen, own = registry.pipeline(pipeline), option or []
    info = chosen.info()
    settings = asked(info, own, seed=seed, resolution=resolution)
    changes = {pair: pair for pair in compare or []}
    if alone and any(spec.name == INPUT_ALONE.partition("=")[0] for spec in info.options):
        changes = {"input view alone": INPUT_ALONE} | changes
    methods = {"full": pipeline_method(chosen, settings, where)}
    for name, pair in changes.items():
        other = asked(info, [*own, pair], seed=seed, resolution=resolution)
        methods[name] = pipeline_method(chosen, other, where)
    encoder = clip or installed_encoder()
    similarity = _similarity(encoder, where)
    others = usable(_others(val, files), told) if retrieval else []
    if retrieval and not others:
        error_console().print("Retrieval is left out: all meshes are measured, and none is left to find.")
    elif retrieval:
        error_console().print("Comparing with the training pictures ...")
        methods["retrieval"] = _retrieval(val, others, meshes, cache, seed)

    sheet = ContactSheet(spread([file.name for file in val], shown))
    with counted(len(val) * len(methods)) as advance:

        def on_done(example: Example, method: str, prediction: Prediction | None, scores: Scores) -> None:
            sheet.add(example, method, prediction, scores)
            advance()

        results = evaluate(methods, make_examples(val, seed=seed), similarity=similarity, on_done=on_done)
    about: dict[str, Any] = {
        "pipeline": pipeline,
        "settings": settings,
        "device": where,
        "objects_measured": len(val),
        "clip": None if encoder is None else "/".join(encoder.parts[-2:]),
    }
    compared = differences(measured(results), list(methods))
    tables = beside(TITLE, cells(summarise(results)), compared, COLUMNS)
    write_json(output / "results.json", results, compared, about)
    write_file(output / "results.md", page(tables).encode())
    sheet.write(output / "sheet.png")
    show(tables, output)


def _similarity(folder: Path | None, device: str) -> Similarity | None:
    from backend.evaluation.similarity import ClipSimilarity

    if folder is None:
        error_console().print(
            "CLIP similarity is left out: there is neither a Zero123 nor Stable Video Diffusion installed, and no "
            "--clip is given."
        )
        return None
    return ClipSimilarity(folder, device)


def _others(val: list[MeshFile], files: list[MeshFile]) -> list[MeshFile]:
    """Training meshes that are not measured."""
    measured = {file.name for file in val}
    return [file for file in files if file.split == "train" and file.name not in measured]


def _retrieval(val: list[MeshFile], others: list[MeshFile], folder: Path, cache: Path, seed: int) -> Method:
    from backend.evaluation.evaluate import Prediction
    from backend.evaluation.examples import QUERY_SIZE, make_examples
    from backend.evaluation.retrieval import find_matches, matched_mesh
    from backend.training.data.episodes import EpisodeSpec, build

    spec = EpisodeSpec()
    assert spec.size == QUERY_SIZE
    training = build(others, spec, cache)
    queries = np.stack([example.query for example in make_examples(val, size=QUERY_SIZE, seed=seed)])
    matches = dict(zip((file.name for file in val), find_matches(queries, training), strict=True))
    return lambda example: Prediction(matched_mesh(matches[example.name], training, folder), lit=False)
