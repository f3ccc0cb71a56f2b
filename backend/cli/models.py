"""`turnaround models`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from .console import Bar, Verbose, cancel_on_interrupt, error_console, output_console, show_error

if TYPE_CHECKING:
    from backend.weights.install import InstallProgress
    from backend.weights.store import WeightsEntry

models = typer.Typer(no_args_is_help=True, help="Weights: what there is, under which licence, and getting them.")

COMMERCIAL = {"yes": "yes", "no": "no", "conditions": "see licence", "unknown": "ask the source"}

Name = Annotated[str, typer.Argument(help='As "turnaround models list" calls it.')]


@models.callback()
def main() -> None:
    """Weights: what there is, under which licence, and getting them."""


@models.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    verbose: Verbose = False,
) -> None:
    """List every model with its licence, whether that allows commercial use, and whether it is here."""
    from backend.weights.store import catalogue, is_present

    entries = [(entry, is_present(entry)) for entry in catalogue()]
    if json:
        rows = [{**msgspec.structs.asdict(entry), "present": present} for entry, present in entries]
        typer.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return
    table = Table()
    for heading in ("Name", "Engine", "Licence", "Commercial use", "Download", "Memory", "Present"):
        table.add_column(heading, no_wrap=heading in ("Name", "Engine"), overflow="fold")
    for entry, present in entries:
        table.add_row(
            entry.name,
            entry.pipeline,
            entry.licence or "not stated",
            COMMERCIAL[entry.commercial],
            f"{entry.size_gb:g} GB" if entry.size_gb else "",
            f"{entry.memory_gb:g} GB" if entry.memory_gb else "",
            "yes" if present else "no",
        )
    output_console().print(table)


@models.command("install")
def install_model(
    name: Name,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the model's licence without being asked.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Download a model and put it in its place; one that broke off goes on where it stopped."""
    from backend.weights.install import install, licence_page, licence_words
    from backend.weights.store import find_entry, is_present

    entry = find_entry(name)
    if is_present(entry):
        _say(entry, "here already")
        return
    if entry.needs_acceptance and not accept_licence and sys.stdin.isatty():
        error_console().print(f"{entry.title}: {licence_words(entry)}.\nRead it at {licence_page(entry)}", markup=False)
        accept_licence = typer.confirm("Do you accept the licence?", err=True)
    with _shown(entry.title) as shown:
        install(entry, accept_licence=accept_licence, progress=shown.update, cancel=shown.cancel.is_set)
    _say(entry, "ready")


@models.command("import")
def import_model(
    name: Name,
    path: Annotated[Path, typer.Argument(help="The published file, or the folder with the published files.")],
    verbose: Verbose = False,
) -> None:
    """Convert a model that is on this machine already; the file is only read."""
    from backend.weights.install import import_from
    from backend.weights.store import find_entry

    entry = find_entry(name)
    with _shown(entry.title) as shown:
        import_from(entry, path, progress=shown.update, cancel=shown.cancel.is_set)
    _say(entry, "ready")


@models.command("remove")
def remove_model(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    verbose: Verbose = False,
) -> None:
    """Delete an installed model and what may be left of its download."""
    from backend.weights.install import remove
    from backend.weights.store import find_entry

    entry = find_entry(name)
    if not yes and not entry.shipped:
        typer.confirm(f"Delete {entry.title}?", abort=True, err=True)
    said = f"{entry.title} is deleted." if remove(entry) else f"{entry.title} was not here."
    error_console().print(said, markup=False)


@models.command("verify")
def verify_models(
    name: Annotated[str | None, typer.Argument(help="Only this one; all that are here if left out.")] = None,
    verbose: Verbose = False,
) -> None:
    """Check installed models: digests, every name and shape, every number finite."""
    from backend.weights.install import verify
    from backend.weights.store import catalogue, find_entry, is_present
    from protocol.errors import TurnaroundError

    entries = [find_entry(name)] if name else [entry for entry in catalogue() if is_present(entry)]
    wrong = 0
    for entry in entries:
        try:
            with _shown(entry.title) as shown:
                verify(entry, progress=shown.update, cancel=shown.cancel.is_set)
        except TurnaroundError as error:
            wrong += 1
            show_error(error, verbose=verbose)
        else:
            output_console().print(f"{entry.name}: as it should be", markup=False)
    if wrong:
        raise typer.Exit(1)


def _say(entry: WeightsEntry, how: str) -> None:
    from backend.pipelines.choosing import still_needed

    error_console().print(f"{entry.title} is {how}. {still_needed(entry)}".rstrip(), markup=False)


@contextmanager
def _shown(title: str) -> Iterator[_Shown]:
    """A bar for an installation; Ctrl-C cancels it."""
    cancel = threading.Event()
    with cancel_on_interrupt(cancel), Bar() as bar:
        yield _Shown(title, bar, cancel)


@dataclass(frozen=True)
class _Shown:
    title: str
    bar: Bar
    cancel: threading.Event

    def update(self, progress: InstallProgress) -> None:
        stage, counts = progress.stage, (0, 0)
        if progress.stage == "Downloading":
            stage, counts = "Downloading, MB", (progress.done // 10**6, progress.total // 10**6)
        self.bar.update(stage, *counts, progress.fraction, label=f"{self.title}: ")
