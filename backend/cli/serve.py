"""`turnaround serve`."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import TurnaroundError

from .console import Verbose, error_console, output_console

if TYPE_CHECKING:
    from protocol.connection import ConnectionFile

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65_535)] = 0,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; several with commas between run side by side.")
    ] = "auto",
    parent_pid: Annotated[
        int | None, typer.Option(help="Stop when this process is gone; Blender passes its own.", min=1)
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep running when the parent is gone.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run the backend that Blender and other clients connect to, until it is stopped."""
    one = r"(auto|cpu|mps|cuda(:\d+)?)"
    if not re.fullmatch(rf"{one}(,{one})*", device):
        raise TurnaroundError(
            "device.unknown",
            f'There is no device called "{device}".',
            "Use auto, cpu, cuda or cuda:N, several with commas between.",
            field="device",
        )
    from backend.server.serve import serve as run

    run(host, port, device, parent_pid, stay, on_ready=_say_where)


def _say_where(found: ConnectionFile) -> None:
    """Tells how to connect; artists on other machines need a line to paste, which is a secret."""
    from protocol.connection import remote_address

    error_console().print(f"Ready on {found.host}:{found.port}; Ctrl-C stops it.", markup=False)
    if found.host in LOOPBACK:
        return
    reachable = socket.gethostname() if found.host in ("0.0.0.0", "::", "*") else found.host
    error_console().print("Other machines connect with this line; whoever has it can use this backend:")
    string = remote_address(reachable, found.port, found.server_key).string()
    output_console().print(string, soft_wrap=True, markup=False)
