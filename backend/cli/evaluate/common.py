"""What the measurements share: the options, the meshes, the engine that is measured, and how results are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo, Settings
from protocol.options import check_options
from protocol.validation import check_settings

from ..console import Bar, output_console, warn
from ..generate import parse_options

if TYPE_CHECKING:
    from backend.evaluation.cells import Cells
    from backend.training.data.meshes import MeshFile

OUTPUT = Path("out/evaluation")
RESOLUTION = Settings().resolution

Meshes = Annotated[
    Path,
    typer.Option(
        help="Folder of meshes; a props.csv in or beside it names the val split.", exists=True, file_okay=False
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results: a table, JSON and a picture.")]
Engine = Annotated[str, typer.Option("--pipeline", help="The engine.")]
Limit = Annotated[int | None, typer.Option(help="Measure on this many val meshes, evenly spaced.", min=1)]
Shown = Annotated[int, typer.Option(help="Objects on the contact sheet.", min=0, max=100)]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="A setting of the engine's own; may be repeated."),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Also with this setting of the engine's; may be repeated."),
]
Seed = Annotated[int, typer.Option(help="Of the pictures and of the engine.")]


def made_folder(output: Path) -> None:
    """Makes the folder for the results: that it cannot be is to be known before hours of measuring, not after.

    Raises:
        TurnaroundError: `export.failed`.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TurnaroundError(
            "export.failed",
            f'"{output}" cannot be made a folder: {(error.strerror or "unknown reason").lower()}.',
            "Give another folder with -o.",
            field="output",
            details=str(error),
        ) from error


def measured_meshes(files: Sequence[MeshFile], limit: int | None, log: Callable[[str], None] = warn) -> list[MeshFile]:
    """Of the meshes to measure on those that can be used; `log` is told of the others.

    Raises:
        TurnaroundError: `meshes.unreadable`, if none is left.
    """
    from backend.evaluation.examples import usable

    measured = usable(chosen_meshes(files, limit), log)
    if not measured:
        raise TurnaroundError("meshes.unreadable", "None of the meshes can be measured on.", "Use other meshes.")
    return measured


def chosen_meshes(files: Sequence[MeshFile], limit: int | None) -> list[MeshFile]:
    """What to measure on: the val meshes, or all where none is marked so; at most `limit`, evenly spaced."""
    from backend.evaluation.report import spread

    val = [file for file in files if file.split == "val"]
    if not val:
        warn("No mesh is marked val in a props.csv: any of them may be measured.")
        val = list(files)
    names = set(spread([file.name for file in val], limit or len(val)))
    return [file for file in val if file.name in names]


def asked(info: PipelineInfo, pairs: Sequence[str], *, seed: int, resolution: int = RESOLUTION) -> Settings:
    """What an engine is asked for, its own settings given as NAME=VALUE pairs, of which later ones count.

    Raises:
        TurnaroundError: `settings.option`, `settings.invalid`.
    """
    options = parse_options(list(pairs), info)
    check_options(options, info)
    return check_settings(Settings(seed=seed, resolution=resolution, options=options))


@contextmanager
def counted(total: int) -> Iterator[Callable[[], None]]:
    """A bar that is one of `total` steps further whenever it is told."""
    done = 0
    with Bar() as bar:

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update("Evaluating", done, total, done / total)

        yield advance


def show(tables: Mapping[str, Cells], output: Path) -> None:
    """Prints tables by their titles, and where everything lies."""
    from backend.evaluation.cells import as_table

    for title, table in tables.items():
        output_console().print(as_table(title, table))
    output_console().print(str(output), markup=False)
