"""The command line `turnaround`. What is heavy (torch, diffusers) is imported inside the commands that need it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from .bench import bench
from .console import Group
from .doctor import doctor
from .evaluate import evaluate
from .generate import generate
from .imagine import imagine
from .models import models
from .serve import serve
from .train import train
from .views import views

app = typer.Typer(
    name="turnaround",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One picture to a coloured 3D mesh.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"turnaround {version('turnaround')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """One picture to a coloured 3D mesh."""


app.command()(generate)
app.command()(imagine)
app.command()(views)
app.command()(serve)
app.command()(train)
app.add_typer(evaluate, name="evaluate")
app.add_typer(models, name="models")
app.command()(doctor)
app.command()(bench)
