"""`turnaround evaluate elevation`: see `backend.evaluation.elevation`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..console import Verbose
from ..device import Device, DeviceChoice, choose
from .common import OUTPUT, Limit, Meshes, Output, Seed, counted, made_folder, measured_meshes, show


def elevation(
    meshes: Meshes,
    output: Output = OUTPUT,
    limit: Limit = None,
    poses: Annotated[int, typer.Option(help="Pictures of each mesh.", min=1)] = 2,
    drawn: Annotated[bool, typer.Option("--drawn/--no-drawn", help="Also match drawn views.")] = True,
    seed: Seed = 0,
    device: Device = DeviceChoice.AUTO,
    verbose: Verbose = False,
) -> None:
    """How far off the elevations are that are found of pictures from random sides, by regression and by matching."""
    from backend.evaluation.elevation import estimators, make_poses, score
    from backend.evaluation.elevation_report import TITLE, cells, write_report
    from backend.training.data.meshes import find_meshes

    made_folder(output)
    measured, where = measured_meshes(find_meshes(meshes), limit), choose(device)
    methods = estimators(where, drawn=drawn, seed=seed)
    with counted(len(measured) * poses * len(methods)) as advance:
        scores = score(methods, make_poses(measured, poses=poses, seed=seed), advance)
    about: dict[str, Any] = {"device": where, "meshes": len(measured), "poses_each": poses, "seed": seed}
    show({TITLE: cells(write_report(output, scores, about))}, output)
