"""Keys: who may speak to a backend, and how it is known that it is the right one.

Both ends have a CURVE key pair (Curve25519; ZeroMQ RFC 26). The pairs are made at first use in the user's config
folder, readable by that user alone. A client is let in when its public key is among those of `clients/`: `local` is for
programs of this user on this machine, `remote` is what a connection string hands out. Deleting `remote.key` takes back
every string given out so far.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path

import msgspec
import zmq

from .errors import TurnaroundError

HOME_VARIABLE = "TURNAROUND_HOME"


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair, each key as 40 characters of Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r}, secret=...)"


def home() -> Path:
    """The user's config folder of Turnaround; the environment's `TURNAROUND_HOME` goes before the system's custom."""
    override = os.environ.get(HOME_VARIABLE)
    if override:
        return Path(override)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "Turnaround"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Turnaround"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "turnaround"


def private_folder(path: Path) -> Path:
    """Makes a folder that only its owner can enter, with its parents.

    Raises:
        TurnaroundError: `keys.folder`, it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise TurnaroundError(
            "keys.folder",
            "The folder for Turnaround's keys cannot be made.",
            "Check its permissions, or name another one in TURNAROUND_HOME.",
            details=str(error),
        ) from None
    return path


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    temporary = _temporary(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def server_keys() -> KeyPair:
    """The backend's key pair; raises like `load_or_make`."""
    return load_or_make(private_folder(home()) / "server.key")


def client_key_path(name: str = "local") -> Path:
    """Where the client key pair called `name` is."""
    return home() / "clients" / f"{name}.key"


def client_keys(name: str = "local") -> KeyPair:
    """A client's key pair, "local" or "remote"; raises like `load_or_make`."""
    private_folder(home())
    path = client_key_path(name)
    private_folder(path.parent)
    return load_or_make(path)


def allowed_clients() -> set[str]:
    """Public keys that a backend lets in. A key file that others can read is left out, as is a broken one."""
    keys = set()
    for path in (home() / "clients").glob("*.key"):
        with contextlib.suppress(TurnaroundError, FileNotFoundError):
            keys.add(load(path).public)
    return keys


def load_or_make(path: Path) -> KeyPair:
    """The key pair in `path`, made there if there is none. Two programs that come at once get the same.

    Raises:
        TurnaroundError: see `load`.
    """
    with contextlib.suppress(FileNotFoundError):
        return load(path)
    public, secret = zmq.curve_keypair()
    pair = KeyPair(public.decode(), secret.decode())
    temporary = _temporary(path, msgspec.json.encode(pair))
    try:
        os.link(temporary, path)  # unlike a rename, fails where there is one already
    except FileExistsError:
        return load(path)
    except OSError:  # no hard links here
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return load(path)


def load(path: Path) -> KeyPair:
    """The key pair in `path`.

    Raises:
        FileNotFoundError: there is none.
        TurnaroundError: `keys.readable`, others than the owner can read it; `keys.broken`, it is no key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(4096)
    except PermissionError as error:
        raise TurnaroundError(
            "keys.unreadable",
            f"The key file {path.name} belongs to somebody else.",
            "Start Turnaround as the user who made it.",
            details=str(error),
        ) from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise TurnaroundError(
            "keys.readable",
            f"The key file {path.name} can be read by others, so it is not safe to use.",
            "Delete it; a new one is made at the next start.",
            details=f"{path} has mode {stat.S_IMODE(mode):04o}",
        )
    try:
        pair = msgspec.json.decode(data, type=KeyPair)
        if zmq.curve_public(pair.secret.encode()) != pair.public.encode():
            raise ValueError("the two keys do not belong together")
    except (msgspec.DecodeError, ValueError, zmq.ZMQError) as error:
        raise TurnaroundError(
            "keys.broken",
            f"The key file {path.name} is broken.",
            "Delete it; a new one is made at the next start.",
            details=f"{path}: {type(error).__name__}",
        ) from None
    return pair


def _temporary(path: Path, data: bytes) -> Path:
    """A finished file beside `path`; mkstemp makes it 0600."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return Path(name)
