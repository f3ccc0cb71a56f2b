"""`turnaround train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Verbose, error_console, output_console
from .device import Device, DeviceChoice, choose


def train(
    name: Annotated[str, typer.Argument(help="The network to train.")],
    meshes: Annotated[
        Path, typer.Option(help="Folder of meshes to train on.", exists=True, file_okay=False, resolve_path=True)
    ],
    minutes: Annotated[
        float, typer.Option(help="Of training in all; a later run goes on where this one stopped.", min=0.01)
    ] = 60.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and weights.")] = Path(
        "out/train"
    ),
    device: Device = DeviceChoice.AUTO,
    verbose: Verbose = False,
) -> None:
    """Train one of the networks on a folder of meshes, or go on where the last run stopped."""
    from backend.training.run import train as run

    weights = run(name, meshes, minutes, choose(device), output, log=error_console().print)
    output_console().print(str(weights), markup=False, soft_wrap=True)
