"""`turnaround evaluate`: what is measured on a folder of meshes, a command for each."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from .consistency import consistency
from .elevation import elevation
from .schedule import schedule
from .shapes import shapes


class ShapesFirst(TyperGroup):
    """A group in which `shapes` is meant where no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        options_first = bool(args) and args[0].startswith("-") and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, ["shapes", *args] if options_first else args)


evaluate = typer.Typer(
    cls=ShapesFirst, no_args_is_help=True, help="Measure on the val meshes of a folder; shapes, if nothing is named."
)
for command in (shapes, elevation, schedule, consistency):
    evaluate.command()(command)
