"""`turnaround train`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import TurnaroundError

from .console import Verbose, error_console, output_console
from .device import Device, DeviceChoice, choose


class Form(StrEnum):
    """See `backend.training.threedim.FORMS`."""

    PAPER = "paper"
    SRN64 = "srn64"


OF_PUBLISHED = "Of sparseneus-published alone"
OF_ALL_PUBLISHED = "Of sparseneus-published and 3dim-published"


def train(
    name: Annotated[str, typer.Argument(help="The network to train.")],
    meshes: Annotated[
        Path,
        typer.Option(
            help="Folder of meshes to train on; of 3dim-published also one of posed pictures as SRN's.",
            exists=True,
            file_okay=False,
            resolve_path=True,
        ),
    ],
    minutes: Annotated[
        float, typer.Option(help="Of training in all; a later run goes on where this one stopped.", min=0.01)
    ] = 60.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and weights.")] = Path(
        "out/train"
    ),
    start_from: Annotated[
        Path | None,
        typer.Option(help="Weights to begin with instead of random ones; of zero123 a folder.", exists=True),
    ] = None,
    reconstructor: Annotated[
        Path | None,
        typer.Option(help="Reconstructor whose shapes the view generator looks at.", exists=True, dir_okay=False),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            help="Generator whose views a reconstructor learns from too: a file; of sparseneus-published a Zero123's "
            "folder, by default the one that is installed.",
            exists=True,
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Objects a step.", min=1)] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; a lower one suits weights that are trained already.", min=1e-7)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="In all; 300,000 as published for sparseneus, 1,000,000 for 3dim.",
            min=1,
            rich_help_panel=OF_ALL_PUBLISHED,
        ),
    ] = None,
    drawn_share: Annotated[
        float | None,
        typer.Option(
            help="Of the source views, those that are drawn; 0.5.", min=0, max=1, rich_help_panel=OF_PUBLISHED
        ),
    ] = None,
    depth_weight: Annotated[
        float | None,
        typer.Option(
            help="Of the depth loss: 1 as in the paper, 0 as in the released configuration.",
            min=0,
            rich_help_panel=OF_PUBLISHED,
        ),
    ] = None,
    mask_weight: Annotated[
        float | None,
        typer.Option(
            help="Of the mask loss: 0 as in the paper, 0.01 to 0.1 as in the released configuration.",
            min=0,
            rich_help_panel=OF_PUBLISHED,
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            help="paper is 128 pixels, the default; srn64 is what the public program trains, quirks included.",
            rich_help_panel="Of 3dim-published alone",
        ),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where rendered training pictures are kept.")] = Path(".cache"),
    device: Device = DeviceChoice.AUTO,
    verbose: Verbose = False,
) -> None:
    """Train one of the networks on a folder of meshes, or go on where the last run stopped.

    First sparseneus and elevation, then xunet with --reconstructor, then sparseneus again with --start-from and
    --generator, so that it learns what drawn views are worth. These are the small networks that ship.

    lgm and multiview are the two networks of ouroboros3d, each alone; then ouroboros3d with --reconstructor and
    --generator trains both together, each looking at the other, and leaves a file of each.

    3dim is the view generator of the engine 3dim, which looks at no shape. zero123 is a small Zero123, or with
    --start-from an installed one that is trained further.

    sparseneus-published is the reconstructor of One-2-3-45 at its published size and trained as published, which takes
    days on GPUs: "accelerate launch -m backend.cli train sparseneus-published ..." uses several. 3dim-published is the
    same of 3DiM's view generator.
    """
    from backend.training import published, threedim
    from backend.training.run import ZERO123
    from backend.training.run import train as run

    def log(line: str) -> None:
        error_console().print(line, markup=False, highlight=False)

    loss = {"depth": depth_weight, "mask": mask_weight}
    if name == published.NAME:
        _refuse(name, {"--reconstructor": reconstructor, "--form": form})
        weights = published.train(
            meshes,
            published.chosen(
                steps=steps, batch_size=batch_size, learning_rate=learning_rate, drawn_share=drawn_share, loss=loss
            ),
            minutes=minutes,
            device=choose(device),
            output=output,
            start_from=start_from,
            zero123=generator or published.installed_zero123(),
            cache=cache,
            log=log,
        )
    elif name == threedim.NAME:
        given = {"--reconstructor": reconstructor, "--generator": generator, "--drawn-share": drawn_share}
        _refuse(name, given | {f"--{part}-weight": weight for part, weight in loss.items()})
        if start_from is not None and start_from.is_dir():
            raise TurnaroundError("train.start_from", f"{name} cannot begin with {start_from}.", "Give a weights file.")
        weights = threedim.train(
            meshes,
            threedim.chosen(
                None if form is None else form.value, steps=steps, batch_size=batch_size, learning_rate=learning_rate
            ),
            minutes=minutes,
            device=choose(device),
            output=output,
            start_from=start_from,
            cache=cache,
            log=log,
        )
    else:
        unfit: dict[str, object] = {"--steps": steps, "--drawn-share": drawn_share, "--form": form}
        _refuse(name, unfit | {f"--{part}-weight": weight for part, weight in loss.items()})
        if generator is not None and generator.is_dir():
            raise TurnaroundError("train.generator", f"{generator} is a folder.", "Give a weights file.")
        if start_from is not None and start_from.is_dir() != (name == ZERO123):
            kind = "the folder of a Zero123" if name == ZERO123 else "a weights file"
            raise TurnaroundError("train.start_from", f"{name} cannot begin with {start_from}.", f"Give {kind}.")
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
            log=log,
        )
    output_console().print(str(weights), markup=False)


def _refuse(name: str, options: Mapping[str, object]) -> None:
    """Says which options have no meaning for this network, rather than to leave them out in silence."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise TurnaroundError("train.option", f"{' and '.join(given)} cannot be used with {name}.", "Leave them out.")
