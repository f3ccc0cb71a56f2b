"""What answers on a port where no backend does: a short, bounded look, for an error that helps."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from .errors import TurnaroundError

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
"""A ZMTP 3.0 greeting (ZeroMQ RFC 23), to which a ZeroMQ program answers with its own."""

SECONDS = 1.5


class Probe(threading.Thread):
    """Looks at a port for at most a few seconds, in a thread because resolving a name may take its time.

    Attributes:
        problem: what is there, once the thread has ended.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name="turnaround-probe", daemon=True)
        self.host, self.port = host, port
        self.problem: TurnaroundError | None = None

    def run(self) -> None:
        """Looks, and sets `problem`."""
        self.problem = look(self.host, self.port)


def look(host: str, port: int) -> TurnaroundError:
    """What listens at host:port that could not be spoken to, as an error for people. Never raises."""
    where = f"{host}:{port}"
    try:
        answer = _ask(host, port)
    except OSError as error:
        return TurnaroundError(
            "backend.unreachable",
            f"Nothing answers at {where}.",
            "Check that the backend runs and that its address and port are right.",
            details=str(error),
        )
    if answer.startswith(b"\xff") and b"\x7f" in answer[:10]:
        if answer[12:32].rstrip(b"\x00") in (b"CURVE", b""):
            return TurnaroundError(
                "keys.server",
                f"The backend at {where} is not the one that this connection was made for.",
                "Copy the connection string from the backend again; its keys may have been made new.",
            )
        return foreign(where, "another ZeroMQ program")
    if answer.startswith(b"SSH-"):
        return foreign(where, "an SSH server", answer)
    if answer.startswith(b"HTTP/"):
        return foreign(where, "a web server", answer)
    if answer:
        return foreign(where, "another program", answer)
    return foreign(where, "a program that says nothing")


def foreign(where: str, what: str, banner: bytes = b"") -> TurnaroundError:
    """The error that something else than a backend listens."""
    line = banner.splitlines()[0][:80].decode("ascii", "replace") if banner else ""
    said = "".join(c if c.isprintable() else "?" for c in line)
    return TurnaroundError(
        "port.foreign",
        f"At {where} answers {what}, not a Turnaround backend" + (f': "{said}".' if said else "."),
        "Check the port, or start the backend on another one.",
    )


def _ask(host: str, port: int) -> bytes:
    """The first bytes that the peer says: unasked, or to a ZMTP greeting, or else to an HTTP request."""
    for question in (GREETING, b"GET / HTTP/1.0\r\n\r\n"):
        with socket.create_connection((host, port), timeout=SECONDS) as connection:
            end = time.monotonic() + SECONDS / 2
            answer = _read(connection, 10, time.monotonic() + SECONDS / 5)
            if answer and not answer.startswith(b"\xff"):
                return answer + _read(connection, 118, time.monotonic() + 0.05)
            with contextlib.suppress(OSError):
                connection.sendall(question)
                answer += _read(connection, 128 if question != GREETING else 64 - len(answer), end)
            if answer:
                return answer
    return b""


def _read(connection: socket.socket, count: int, end: float) -> bytes:
    """Up to `count` bytes that arrive before `end`."""
    data = b""
    with contextlib.suppress(OSError):
        while len(data) < count:
            connection.settimeout(max(0.01, end - time.monotonic()))
            part = connection.recv(count - len(data))
            if not part:
                break
            data += part
    return data
