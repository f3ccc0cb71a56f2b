"""`turnaround evaluate schedule`: see `backend.evaluation.schedule`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import TurnaroundError

from ..console import Verbose
from ..device import Device, DeviceChoice, choose
from .common import OUTPUT, Limit, Meshes, Output, Seed, counted, made_folder, measured_meshes, show


def schedule(
    meshes: Meshes,
    output: Output = OUTPUT,
    limit: Limit = None,
    zero123: Annotated[
        Path | None,
        typer.Option(help="Folder of the Zero123, by default an installed one's.", exists=True, file_okay=False),
    ] = None,
    seed: Seed = 0,
    device: Device = DeviceChoice.AUTO,
    verbose: Verbose = False,
) -> None:
    """What few denoising steps cost a Zero123's views: their PSNR by the paper's steps and by fewer."""
    from backend.evaluation.schedule import TITLE, WAYS, cells, measure_schedules, write_report
    from backend.training.data.meshes import find_meshes
    from backend.training.published import installed_zero123

    folder = zero123 or installed_zero123()
    if folder is None:
        raise TurnaroundError(
            "evaluate.zero123",
            "There is no Zero123 to measure.",
            "Install one with turnaround models install, or give a folder with --zero123.",
            field="zero123",
        )
    made_folder(output)
    measured, where = measured_meshes(find_meshes(meshes), limit), choose(device)
    with counted(len(measured) * len(WAYS)) as advance:
        rows = measure_schedules(folder, measured, where, seed=seed, on_done=advance)
    about = {"device": where, "meshes": len(measured), "seed": seed, "weights": str(folder.name)}
    write_report(output, rows, about)
    show({TITLE: cells(rows)}, output)
