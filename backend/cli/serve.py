"""`turnaround serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from protocol.connection import DEFAULT_PORT

from .console import Verbose
from .device import Device, DeviceChoice, choose


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65_535)] = DEFAULT_PORT,
    device: Device = DeviceChoice.AUTO,
    parent_pid: Annotated[
        int | None, typer.Option(help="Stop when this process is gone; Blender passes its own.", min=1)
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep running when the parent is gone.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run the backend that Blender and other clients connect to."""
    from backend.server.serve import serve as run

    run(host=host, port=port, device=choose(device), parent_pid=parent_pid, stay=stay)
