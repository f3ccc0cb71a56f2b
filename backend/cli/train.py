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
    start_from: Annotated[
        Path | None, typer.Option(help="Weights to begin with instead of random ones.", exists=True, dir_okay=False)
    ] = None,
    reconstructor: Annotated[
        Path | None,
        typer.Option(help="Reconstructor whose shapes the view generator looks at.", exists=True, dir_okay=False),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(help="Generator whose views a reconstructor learns from too.", exists=True, dir_okay=False),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Objects a step.", min=1)] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; a lower one suits weights that are trained already.", min=1e-7)
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where rendered training pictures are kept.")] = Path(".cache"),
    device: Device = DeviceChoice.AUTO,
    verbose: Verbose = False,
) -> None:
    """Train one of the networks on a folder of meshes, or go on where the last run stopped.

    First sparseneus and elevation, then xunet with --reconstructor, then sparseneus again with --start-from and
    --generator, so that it learns what drawn views are worth.
    """
    from backend.training.run import train as run

    weights = run(
        name,
        meshes,
        minutes,
        choose(device),
        output,
        start_from=start_from,
        reconstructor=reconstructor,
        generator=generator,
        cache=cache,
        batch_size=batch_size,
        learning_rate=learning_rate,
        log=lambda line: error_console().print(line, markup=False, highlight=False),
    )
    output_console().print(str(weights), markup=False)
