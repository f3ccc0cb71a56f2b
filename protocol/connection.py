"""Where a backend is: the connection file of the one on this machine, and the connection string of one elsewhere.

As with a Jupyter kernel, a running backend writes `connection.json` into the user's config folder: where it listens,
the key it proves itself with, and its process. A remote artist pastes one line instead, which holds the same and a
secret; see docs/security.md for what that line is worth.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import zmq
from zmq.utils import z85

from .errors import TurnaroundError
from .framing import MAX_FRAME
from .messages import PROTOCOL_VERSION
from .security import KeyPair, client_key_path, client_keys, home, load, private_folder, write_private

DEFAULT_PORT = 47_820
SCHEME = "turnaround"


class Address(msgspec.Struct, frozen=True):
    """All that a client needs to reach a backend.

    Attributes:
        host: name or IP address.
        port: TCP port.
        server_key: the backend's public key, Z85.
        keys: the client's own pair.
    """

    host: str
    port: int
    server_key: str
    keys: KeyPair

    @property
    def endpoint(self) -> str:
        """As ZeroMQ writes it."""
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    def string(self) -> str:
        """The connection string. It holds the client's secret key: whoever has it can use the backend."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = urlencode({"server": _to_url(self.server_key), "client": _to_url(self.keys.secret)})
        return f"{SCHEME}://{host}:{self.port}/?{query}"


class ConnectionFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a running backend says of itself in `connection.json`."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    server_key: Annotated[str, msgspec.Meta(min_length=40, max_length=40)]
    client_key_file: str
    pid: Annotated[int, msgspec.Meta(ge=1)]
    protocol: int
    version: str

    def write(self) -> Path:
        """Writes it, whole or not at all, readable by the user alone."""
        private_folder(home())
        write_private(path(), msgspec.json.format(msgspec.json.encode(self)))
        return path()


def path() -> Path:
    """Where the connection file is."""
    return home() / "connection.json"


def find() -> ConnectionFile | None:
    """The backend that runs on this machine for this user; None if there is none, or its process is gone."""
    try:
        found = msgspec.json.decode(path().read_bytes()[:65_536], type=ConnectionFile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if alive(found.pid) else None


def remove(pid: int) -> None:
    """Removes the connection file if it is that of process `pid`."""
    try:
        if msgspec.json.decode(path().read_bytes(), type=ConnectionFile).pid == pid:
            path().unlink(missing_ok=True)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return


def local_address() -> Address:
    """The address of this machine's backend.

    Raises:
        TurnaroundError: `backend.none`, none runs; `protocol.version`, one of another version runs; or what
            `security.load` says of the key file.
    """
    found = find()
    if found is None:
        raise TurnaroundError("backend.none", "No backend is running.", "Start it from the preferences or the panel.")
    if found.protocol != PROTOCOL_VERSION:
        raise version_error(found.protocol, found.version)
    try:
        keys = load(Path(found.client_key_file))
    except FileNotFoundError:
        raise TurnaroundError(
            "keys.missing", "The key for the running backend is gone.", "Stop the backend and start it again."
        ) from None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(found.host, found.host)
    return Address(host, found.port, found.server_key, keys)


def remote_address(host: str, port: int, server_key: str) -> Address:
    """The address to hand to another machine, with the `remote` client key, which is made at first use."""
    return Address(host, port, server_key, client_keys("remote"))


def parse(text: str) -> Address:
    """The address in a connection string.

    Raises:
        TurnaroundError: `connection.string`, it is not one.
    """
    try:
        if len(text) > 1024:
            raise ValueError("too long")
        parts = urlsplit(text.strip())
        query = parse_qs(parts.query, strict_parsing=True)
        if parts.scheme != SCHEME or not parts.hostname or not parts.port:
            raise ValueError("no address")
        (server,), (client,) = query["server"], query["client"]
        server_key, secret = _from_url(server), _from_url(client)
        keys = KeyPair(zmq.curve_public(secret.encode()).decode(), secret)
        return Address(parts.hostname, parts.port, server_key, keys)
    except (ValueError, KeyError, binascii.Error, zmq.ZMQError):
        # The string holds a secret, so nothing of it is repeated here.
        raise TurnaroundError(
            "connection.string",
            "This is not a connection string.",
            f'Paste the whole line that the backend shows; it starts with "{SCHEME}://".',
        ) from None


def dealer(context: zmq.Context, address: Address) -> zmq.Socket:
    """A client's socket for a backend, not yet connected; with this program's keys, and the backend's to check."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.curve_serverkey = address.server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = address.keys.public.encode(), address.keys.secret.encode()
    for option, value in (
        (zmq.MAXMSGSIZE, MAX_FRAME),
        # Connecting again is done by the client, with a fresh socket, so that no old message lingers. Never (-1) would
        # drop what arrived before a disconnection, so: in a day.
        (zmq.RECONNECT_IVL, 86_400_000),
        (zmq.HANDSHAKE_IVL, 3000),
        (zmq.CONNECT_TIMEOUT, 3000),
        (zmq.HEARTBEAT_IVL, 2000),
        (zmq.HEARTBEAT_TIMEOUT, 10_000),
        (zmq.HEARTBEAT_TTL, 10_000),
        (zmq.IPV6, int(":" in address.host)),
    ):
        socket.setsockopt(option, value)
    return socket


def version_error(theirs: int, version: str = "") -> TurnaroundError:
    """The backend speaks another version of the protocol."""
    older = theirs < PROTOCOL_VERSION
    called = f" ({version})" if version else ""
    return TurnaroundError(
        "protocol.version",
        f"The backend{called} speaks version {theirs} of the protocol, this program version {PROTOCOL_VERSION}.",
        "Update the backend, then start it again." if older else "Update this program to the backend's version.",
    )


def unreachable(address: Address, details: str = "") -> TurnaroundError:
    """The error of a client that finds nothing at an address."""
    return TurnaroundError(
        "backend.unreachable",
        f"No backend answers at {address.host}:{address.port}.",
        "Check that the backend runs and that its address and port are right.",
        details=details,
    )


def alive(pid: int) -> bool:
    """Whether a process with this id runs."""
    if sys.platform == "win32":  # os.kill(pid, 0) would end it there
        import ctypes

        synchronize, still_running = 0x0010_0000, 0x102
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = kernel.OpenProcess(synchronize, False, pid)
        if not handle:
            return bool(ctypes.get_last_error() == 5)  # access denied: it is there, and another user's
        running = kernel.WaitForSingleObject(ctypes.c_void_p(handle), 0) == still_running
        kernel.CloseHandle(ctypes.c_void_p(handle))
        return bool(running)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    return True


def default_client_key_file() -> str:
    """What `client_key_file` says: the key for programs of this user."""
    client_keys("local")
    return str(client_key_path("local"))


def _to_url(key: str) -> str:
    return base64.urlsafe_b64encode(z85.decode(key.encode())).rstrip(b"=").decode()


def _from_url(text: str) -> str:
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if len(raw) != 32:
        raise ValueError("not a key")
    return z85.encode(raw).decode()
