"""Who does the work of a command: this process or a backend."""

from __future__ import annotations

from typing import Annotated

import typer

from .device import DeviceChoice
from .job import Runner

Backend = Annotated[
    bool, typer.Option("--backend", help="Have this machine's running backend do it, on its own device.")
]
Connect = Annotated[
    str | None,
    typer.Option(
        metavar="STRING",
        envvar="TURNAROUND_CONNECTION",
        help="Have the backend do it that this connection string leads to.",
    ),
]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep and use the results of stages between runs.")]


def choose_runner(backend: bool, connect: str | None, device: DeviceChoice, cache: bool) -> Runner:
    """What the options say; raises like `Remote`."""
    if backend or connect:
        from .remote import Remote

        return Remote(connect)
    from .local import Local

    return Local(device, keep=cache)
