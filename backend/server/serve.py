"""`turnaround serve`: a backend from its start to its clean end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import zmq

from backend.server.engine import LocalEngine
from backend.server.folders import cache_folder, jobs_folder
from backend.server.gateway import Gateway, backend_version
from backend.server.installs import INSTALLER
from backend.server.journal import Journal
from protocol import connection
from protocol.connection import ConnectionFile
from protocol.messages import PROTOCOL_VERSION
from protocol.security import server_keys


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    device: str = "auto",
    parent_pid: int | None = None,
    stay: bool = False,
    *,
    pipelines: str = "",
    painters: str = "",
    installer: str = INSTALLER,
    warm: bool = True,
    on_ready: Callable[[ConnectionFile], None] = lambda found: None,
) -> str:
    """Runs a backend until it is told to stop; must be called in the main thread.

    Args:
        host: address to listen on; loopback unless artists on other machines are to come in.
        port: 0 takes any that is free; the connection file says which.
        device: torch device, or several with commas between, each with a worker of its own.
        parent_pid: process, such as the Blender that launched this, with which the backend ends too.
        stay: do not.
        pipelines: "module:attribute", a dict of pipelines that replaces the installed ones.
        painters: the same for painters.
        installer: the module that installs weights.
        warm: let workers import torch before there is work.
        on_ready: called when clients can connect.

    Returns:
        Why it ended.

    Raises:
        TurnaroundError: it cannot start: `backend.running`, `port.taken`, or trouble with keys or folders.
    """
    signals: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: signals.append(signal.Signals(received).name))

    def is_over() -> str:
        if signals:
            return signals[0]
        gone = parent_pid is not None and not stay and not connection.alive(parent_pid)
        return "the program that launched it has gone" if gone else ""

    keys = server_keys()
    key_file = connection.default_client_key_file()
    journal = Journal(jobs_folder())
    context = zmq.Context()
    try:
        devices = [part.strip() for part in device.split(",")]
        cache = cache_folder() / "stages"

        def make_engine(shared: zmq.Context) -> LocalEngine:
            return LocalEngine(shared, devices, cache, pipelines, painters, warm)

        gateway = Gateway(context, journal, make_engine, host, port, installer)
        try:
            found = ConnectionFile(
                host=host,
                port=gateway.port,
                server_key=keys.public,
                client_key_file=key_file,
                pid=os.getpid(),
                protocol=PROTOCOL_VERSION,
                version=backend_version(),
            )
            found.write()
            on_ready(found)
            gateway.run(is_over)
            print(f"gateway: stopping, {gateway.stopping}", file=sys.stderr, flush=True)
            return gateway.stopping
        finally:
            connection.remove(os.getpid())
            gateway.close()
    finally:
        journal.close()
        context.destroy(linger=1000)
