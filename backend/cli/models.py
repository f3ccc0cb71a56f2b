"""`turnaround models`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.table import Table

from .console import Verbose, output_console

models = typer.Typer(no_args_is_help=True, help="Weights: what there is, and under which licence.")

COMMERCIAL = {"yes": "yes", "no": "no", "conditions": "see licence", "unknown": "ask the source"}


@models.callback()
def main() -> None:
    """Weights: what there is, and under which licence."""


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
    for heading in ("Name", "Engine", "Licence", "Commercial use", "Memory", "Present"):
        table.add_column(heading, no_wrap=heading in ("Name", "Engine"), overflow="fold")
    for entry, present in entries:
        memory = f"{entry.memory_gb:g} GB" if entry.memory_gb else ""
        table.add_row(
            entry.name,
            entry.pipeline,
            entry.licence or "not stated",
            COMMERCIAL[entry.commercial],
            memory,
            "yes" if present else "no",
        )
    output_console().print(table)
