"""Getting files over https: resumed where they were left, stopped within a megabyte, compared with their digest.

huggingface_hub says what a repository holds and where, and knows the artist's login. The bytes are fetched here, since
its own transfers can neither be stopped midway on every backend nor fetch LoFTR's and SAM's original files.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from backend.weights.store import WeightsEntry
from protocol.errors import TurnaroundError

CHUNK = 2**20
"""Bytes read at once."""

LARGEST = 64 * 2**30
"""Bytes of the largest file that is fetched."""

ATTEMPTS = 5
"""Failures in a row, without a byte arriving between them, after which a download gives up."""

TIMEOUT = 30.0
"""Seconds that a server may be silent."""

BEAT = 0.2
"""Seconds between two questions whether to stop, while a server is waited for."""

Report = Callable[[int, int], None]
"""Told bytes had and bytes in all (0 if not known), also while nothing arrives; raises to stop."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        name: where it belongs in the download folder.
        url: its address.
        size: in bytes; 0 if not known.
        sha256: hex digest; "" if not known.
        token: for the Authorization header; "" for none. It is not sent on to where the server redirects.
    """

    name: str
    url: str
    size: int = 0
    sha256: str = ""
    token: str = ""


# --------------------------------------------------------------------------------------------------- what there is


def remote_files(entry: WeightsEntry, beat: Callable[[], None] = lambda: None) -> list[RemoteFile]:
    """The files of a checkpoint where it is published.

    Args:
        entry: the checkpoint.
        beat: called while the server is waited for; raises to stop.

    Raises:
        TurnaroundError: `weights.unpublished`, `weights.network`, `weights.login`, `weights.source` if they are no
            longer there.
    """
    if not entry.source:
        raise TurnaroundError(
            "weights.unpublished",
            f"{entry.title} cannot be downloaded: nobody publishes it.",
            f'If you have the file, use "turnaround models import {entry.name} PATH".',
        )
    if "://" in entry.source:
        (name,) = entry.files
        return [RemoteFile(name, entry.source, sha256=entry.sha256.get(name, ""))]
    return _hub_files(entry, beat)


def _hub_files(entry: WeightsEntry, beat: Callable[[], None]) -> list[RemoteFile]:
    import huggingface_hub as hub

    info = _awaited(partial(_hub_info, entry), beat)
    there = {sibling.rfilename: sibling for sibling in info.siblings or []}
    token = hub.get_token() or ""
    files = []
    for group in entry.files:
        name = next((name for name in group.split("|") if name in there), None)
        if name is None:
            raise _source(entry, f"{entry.source} does not hold {group}")
        lfs = there[name].lfs
        digest = entry.sha256.get(name) or (lfs.sha256 if lfs else "")
        url = hub.hf_hub_url(entry.source, name, revision=info.sha)
        files.append(RemoteFile(name, url, size=there[name].size or 0, sha256=digest, token=token))
    return files


def _hub_info(entry: WeightsEntry) -> Any:
    import huggingface_hub as hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return hub.HfApi().model_info(entry.source, files_metadata=True, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise _login(entry, str(error)) from error
    except RepositoryNotFoundError as error:
        raise _source(entry, str(error)) from error
    except Exception as error:  # proxies, captive portals and wrong settings fail in as many ways as there are
        raise _network(entry.source, repr(error)) from error


# ------------------------------------------------------------------------------------------------------- fetching


def fetch(
    file: RemoteFile,
    folder: Path,
    report: Report,
    *,
    insecure_host: str = "",
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetches a file into a folder, or goes on with what is there of it; returns where it is.

    Args:
        file: what to fetch.
        folder: where partial and complete files are kept.
        report: told how far it is.
        insecure_host: the one host to which plain http is allowed.
        pause: waits between attempts.

    Raises:
        TurnaroundError: `weights.network`, `weights.login`, `weights.source`; `weights.damaged` if what arrived is
            not what was announced, in which case it is thrown away.
    """
    relative = PurePosixPath(file.name)
    if relative.is_absolute() or ".." in relative.parts or not re.fullmatch(r"[\w./ +-]+", file.name):
        raise _broken(file, "its name leads out of the folder")
    target = folder / relative
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{file.sha256[:12] or 'new'}.part")
    opener = urllib.request.build_opener(_Guarded(insecure_host))
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(opener, file, part, report, insecure_host)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing is left to send, or it is another file by now
                part.unlink()
            elif error.code in (401, 403):
                raise _login(file, str(error)) from error
            elif error.code in (404, 410):
                raise _source(file, str(error)) from error
            elif error.code < 500 and error.code not in (408, 429):
                raise _network(file.url, str(error)) from error
            problem: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            problem = error
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > before else failures + 1
        if failures >= ATTEMPTS:
            raise _network(file.url, str(problem)) from problem
        _awaited(partial(pause, 2.0 ** (failures - 1)), partial(report, now, file.size))
    _compare(file, part, report)
    part.replace(target)
    return target


def _transfer(
    opener: urllib.request.OpenerDirector, file: RemoteFile, part: Path, report: Report, insecure_host: str
) -> None:
    have = part.stat().st_size if part.exists() else 0
    if file.size and have == file.size:
        return
    request = urllib.request.Request(file.url, headers={"User-Agent": "turnaround", "Accept-Encoding": "identity"})
    _check_address(request.full_url, insecure_host)
    if file.token:
        request.add_unredirected_header("Authorization", f"Bearer {file.token}")
    if have:
        request.add_header("Range", f"bytes={have}-")
    response = _awaited(partial(opener.open, request, timeout=TIMEOUT), partial(report, have, file.size))
    try:
        resumed = have > 0 and response.status == 206
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sent another part than was asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else file.size
        if max(total, file.size) > LARGEST or (file.size and total != file.size):
            raise _broken(file, f"the server sends {total} bytes, not {file.size}")
        with part.open("ab" if resumed else "wb") as out:
            got = _copy(response, out, start, total, report)
        if total and got < total:
            raise http.client.IncompleteRead(b"", total - got)
    finally:
        # a read that was given up keeps the response to itself until it ends
        threading.Thread(target=response.close, daemon=True).start()


def _copy(response: IO[bytes], out: IO[bytes], got: int, total: int, report: Report) -> int:
    report(got, total)
    while chunk := _awaited(partial(response.read, CHUNK), partial(report, got, total)):
        got += len(chunk)
        if got > (total or LARGEST):
            raise http.client.HTTPException("the server sends more than it said")
        out.write(chunk)
        report(got, total)
    return got


def _awaited(call: Callable[[], Answer], beat: Callable[[], None]) -> Answer:
    """What `call` returns or raises, in a thread of its own: what `beat` raises meanwhile ends the wait, not the call.

    A socket's read cannot be interrupted, and a server may be silent for long.
    """
    future: Future[Answer] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while not wait([future], BEAT).done:
        beat()
    return future.result()


def _compare(file: RemoteFile, part: Path, report: Report) -> None:
    size = part.stat().st_size
    report(size, size)
    wrong = ""
    if file.size and size != file.size:
        wrong = f"{size} bytes, not {file.size}"
    elif file.sha256 and (digest := sha256_of(part, lambda: report(size, size))) != file.sha256:
        wrong = f"sha256 {digest}, not {file.sha256}"
    elif not size:
        wrong = "it is empty"
    if wrong:
        part.unlink()
        raise _broken(file, wrong)


def sha256_of(path: Path, step: Callable[[], None] = lambda: None) -> str:
    """Hex digest of a file; `step` is called every few megabytes and raises to stop."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(8 * CHUNK):
            digest.update(chunk)
            step()
    return digest.hexdigest()


class _Guarded(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def __init__(self, insecure_host: str) -> None:
        self._insecure_host = insecure_host

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        """Refuses what is not https."""
        _check_address(newurl, self._insecure_host)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, insecure_host: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and insecure_host and parts.hostname == insecure_host):
        return
    raise TurnaroundError(
        "weights.source", "The download is not offered over https, so it was not started.", details=url
    )


# --------------------------------------------------------------------------------------------------------- errors


def _network(what: str, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.network",
        "The server of the download cannot be reached.",
        "Check the connection, and a proxy's settings if there is one, and start it again; what has arrived is kept.",
        details=f"{what}: {why}",
    )


def _login(what: WeightsEntry | RemoteFile, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.login",
        f"{_called(what)} is only given to those who have accepted its terms.",
        'Accept them on its page at huggingface.co, log in with "hf auth login", and try again.',
        details=why,
    )


def _source(what: WeightsEntry | RemoteFile, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.source",
        f"{_called(what)} is no longer where it was published.",
        "If you have the files, import them instead of installing it.",
        details=why,
    )


def _called(what: WeightsEntry | RemoteFile) -> str:
    return what.title if isinstance(what, WeightsEntry) else what.name


def _broken(file: RemoteFile, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.damaged",
        f"What arrived as {file.name} is not what was announced, so it was thrown away.",
        "Try again; if it happens again, the file has been changed where it is published.",
        details=f"{file.url}: {why}",
    )
