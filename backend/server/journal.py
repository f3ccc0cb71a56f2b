"""What a backend remembers: jobs, their events and results, and how long stages took.

SQLite holds what is small; each job has a folder with its picture and its results, raw as they crossed the wire, so
that they are sent again straight from the file. The database is opened for this process alone, which is also how a
second backend on the same folder is noticed, even after the first was killed. Age, size and count are bounded.
"""

from __future__ import annotations

import contextlib
import mmap
import shutil
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec

from protocol.errors import TurnaroundError
from protocol.framing import Arrays, Buffer, encode, frames_of, join
from protocol.messages import Imagine, Imagined, JobSummary, Result, Submit
from protocol.security import private_folder

State = Literal["queued", "running", "done", "failed", "cancelled"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job TEXT PRIMARY KEY, request TEXT UNIQUE NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,
    submit BLOB NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, outcome BLOB, bytes INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS events (job TEXT, number INTEGER, body BLOB NOT NULL, PRIMARY KEY (job, number));
CREATE TABLE IF NOT EXISTS results (job TEXT, number INTEGER, body BLOB NOT NULL, PRIMARY KEY (job, number));
CREATE TABLE IF NOT EXISTS timings (
    id INTEGER PRIMARY KEY, work TEXT NOT NULL, stage TEXT NOT NULL, position INTEGER NOT NULL, seconds REAL NOT NULL);
"""
VERSION = 2
TIMINGS_KEPT = 9
COLUMNS = "job, request, state, created, submit, attempts, outcome"


_asked = msgspec.msgpack.Decoder(Submit | Imagine)
_result = msgspec.msgpack.Decoder(Result | Imagined)


@dataclass(frozen=True)
class Record:
    """A job as the journal holds it.

    Attributes:
        submit: frame 0 of what is run, with its picture, if it has one, described in `arrays`.
        outcome: frame 0 of the `Failed` or `Cancelled` that it ended with.
    """

    job: str
    request: str
    state: State
    created: float
    submit: bytes
    attempts: int
    outcome: bytes | None

    @property
    def message(self) -> Submit | Imagine:
        """What was asked."""
        return _asked.decode(self.submit)


class Journal:
    """The journal in `folder`.

    Args:
        folder: made if it is not there.
        max_age: seconds after which a job that has ended is forgotten.
        max_bytes: bound of pictures and results; the oldest ended jobs go first.
        max_jobs: bound of jobs.

    Raises:
        TurnaroundError: `backend.running`, another backend has it open; `disk.write`, it cannot be opened.
    """

    def __init__(
        self, folder: Path, *, max_age: float = 30 * 86_400.0, max_bytes: int = 8 << 30, max_jobs: int = 2000
    ) -> None:
        self._folder = private_folder(folder)
        self._max_age, self._max_bytes, self._max_jobs = max_age, max_bytes, max_jobs
        try:
            self._db = self._open()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise TurnaroundError(
                    "backend.running",
                    "A backend is already running for this user.",
                    "Use that one, or stop it first.",
                ) from None
            raise _disk_error(error) from None
        except sqlite3.DatabaseError:  # not a database any more: set aside, for the backend must start
            for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
                if (folder / name).exists():
                    (folder / name).replace(folder / f"broken-{int(time.time())}-{name}")
            self._db = self._open()
        self.prune()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._folder / "journal.sqlite", timeout=0.5, isolation_level=None)
        try:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("BEGIN EXCLUSIVE")
            if db.execute("PRAGMA user_version").fetchone()[0] > VERSION:
                raise TurnaroundError(
                    "backend.older",
                    "The journal of jobs was written by a newer backend.",
                    "Update this backend, or name another folder in TURNAROUND_HOME.",
                )
            db.execute("COMMIT")
            db.executescript(SCHEMA + f"PRAGMA user_version={VERSION};")
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Closes it for another backend to open."""
        self._db.close()

    # ---------------------------------------------------------------------------------------------------- jobs

    def add(self, job: str, message: Submit | Imagine, arrays: Arrays) -> None:
        """Stores a queued job and its picture, if it has one.

        Raises:
            TurnaroundError: `disk.write`, there is no room.
        """
        frames = encode(message, arrays)
        size = self._write(job, "picture", frames[1:])
        try:
            self._db.execute(
                "INSERT INTO jobs (job, request, state, created, submit, bytes) VALUES (?, ?, 'queued', ?, ?, ?)",
                (job, message.request, time.time(), frames[0], size),
            )
        except sqlite3.OperationalError as error:
            raise _disk_error(error) from None

    def get(self, job: str) -> Record | None:
        """The job, if it is known."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM jobs WHERE job = ?", (job,)).fetchone()
        return row and Record(*row)

    def by_request(self, request: str) -> Record | None:
        """The job that a client's request became, if there was one."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM jobs WHERE request = ?", (request,)).fetchone()
        return row and Record(*row)

    def in_state(self, state: State) -> list[Record]:
        """The jobs in a state, oldest first."""
        rows = self._db.execute(f"SELECT {COLUMNS} FROM jobs WHERE state = ? ORDER BY created", (state,))
        return [Record(*row) for row in rows]

    def summaries(self, count: int = 200) -> tuple[JobSummary, ...]:
        """The newest jobs, newest first."""
        rows = self._db.execute(
            f"SELECT {COLUMNS}, (SELECT COUNT(*) FROM results r WHERE r.job = j.job),"
            " (SELECT COALESCE(MAX(number), 0) FROM events e WHERE e.job = j.job)"
            " FROM jobs j ORDER BY created DESC LIMIT ?",
            (count,),
        )
        summaries = []
        for row in rows:
            record, done, last = Record(*row[:7]), row[7], row[8]
            asked = record.message
            summaries.append(
                JobSummary(
                    job=record.job,
                    pipeline=asked.pipeline if isinstance(asked, Submit) else asked.painter,
                    state=record.state,
                    created=record.created,
                    label=asked.label if isinstance(asked, Submit) else asked.prompt,
                    variants_done=done,
                    last_event=last,
                )
            )
        return tuple(summaries)

    def set_state(self, job: str, state: State, outcome: bytes | None = None) -> None:
        """Changes a job's state; `running` counts an attempt."""
        self._note(
            "UPDATE jobs SET state = ?, outcome = ?, attempts = attempts + ? WHERE job = ?",
            (state, outcome, int(state == "running"), job),
        )

    def work_frames(self, record: Record) -> list[Buffer]:
        """The frames to send to a worker: what was asked, with the picture; it is mapped, not read.

        Raises:
            TurnaroundError: the picture's file is gone or torn.
        """
        return self._frames(record.job, "picture", record.submit, record.message.arrays)

    def pictures(self, record: Record) -> Arrays:
        """The picture, and the matte if there is one, that the job was submitted with, or the picture that it drew.

        Raises:
            TurnaroundError: `job.forgotten`, the files are gone or the picture was never finished.
        """
        if isinstance(record.message, Submit):
            return join(record.message.arrays, self.work_frames(record)[1:])
        header, *frames = self.result_frames(record.job, 0)
        return join(_result.decode(header).arrays, frames)

    # ------------------------------------------------------------------------------------- events and results

    def add_event(self, job: str, number: int, header: bytes) -> None:
        """Stores an event, without the arrays of its preview."""
        self._note("INSERT OR REPLACE INTO events VALUES (?, ?, ?)", (job, number, header))

    def last_event(self, job: str) -> int:
        """Number of the last event, 0 if there was none."""
        row = self._db.execute("SELECT COALESCE(MAX(number), 0) FROM events WHERE job = ?", (job,)).fetchone()
        return int(row[0])

    def events(self, job: str, after: int) -> list[bytes]:
        """Frame 0 of each event with a number above `after`, in order."""
        rows = self._db.execute("SELECT body FROM events WHERE job = ? AND number > ? ORDER BY number", (job, after))
        return [row[0] for row in rows]

    def add_result(self, job: str, index: int, frames: Sequence[Buffer]) -> None:
        """Stores a result as it crossed the wire; raises like `add`."""
        size = self._write(job, f"result-{index}", frames[1:])
        try:
            self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (job, index, bytes(frames[0])))
        except sqlite3.OperationalError as error:
            raise _disk_error(error) from None
        self._note("UPDATE jobs SET bytes = bytes + ? WHERE job = ?", (size, job))

    def result_indices(self, job: str) -> list[int]:
        """The results that are there."""
        return [r[0] for r in self._db.execute("SELECT number FROM results WHERE job = ? ORDER BY number", (job,))]

    def result_frames(self, job: str, index: int) -> list[Buffer]:
        """A result's frames, mapped from its file; raises like `work_frames`."""
        row = self._db.execute("SELECT body FROM results WHERE job = ? AND number = ?", (job, index)).fetchone()
        if row is None:
            raise TurnaroundError("job.forgotten", "This result is no longer kept.", "Generate it again.")
        return self._frames(job, f"result-{index}", row[0], _result.decode(row[0]).arrays)

    # ------------------------------------------------------------------------------------------------- timings

    def add_timings(self, work: str, stages: Sequence[tuple[str, float]]) -> None:
        """Remembers how long each stage of a kind of work took, in their order."""
        for position, (stage, seconds) in enumerate(stages):
            self._note(
                "INSERT INTO timings (work, stage, position, seconds) VALUES (?, ?, ?, ?)",
                (work, stage, position, seconds),
            )
            self._note(
                "DELETE FROM timings WHERE work = ? AND stage = ? AND id NOT IN"
                " (SELECT id FROM timings WHERE work = ? AND stage = ? ORDER BY id DESC LIMIT ?)",
                (work, stage, work, stage, TIMINGS_KEPT),
            )

    def timings(self, work: str) -> dict[str, float]:
        """Stage -> median seconds of its last runs, in the stages' order."""
        rows = self._db.execute("SELECT stage, position, seconds FROM timings WHERE work = ?", (work,)).fetchall()
        positions = {stage: position for stage, position, _ in rows}
        return {
            stage: median(seconds for name, _, seconds in rows if name == stage)
            for stage in sorted(positions, key=positions.__getitem__)
        }

    # ------------------------------------------------------------------------------------------------- bounds

    def prune(self) -> None:
        """Forgets ended jobs that are too old, or too many, or take too much room; the oldest first."""
        rows = self._db.execute("SELECT job, state, created, bytes FROM jobs ORDER BY created DESC").fetchall()
        total = 0
        for place, (job, state, created, size) in enumerate(rows):
            total += size
            over = total > self._max_bytes or place >= self._max_jobs or created < time.time() - self._max_age
            if over and state in ("done", "failed", "cancelled"):
                self.forget(job)
                total -= size
        known = {row[0] for row in rows}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self, job: str) -> None:
        """Removes all of a job."""
        for table in ("jobs", "events", "results"):
            self._note(f"DELETE FROM {table} WHERE job = ?", (job,))
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def _note(self, statement: str, values: tuple[Any, ...]) -> None:
        """Writes what a job can go on without; a full disk is said in the log."""
        try:
            self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            print(f"journal: {error}", file=sys.stderr, flush=True)

    # --------------------------------------------------------------------------------------------------- files

    def _write(self, job: str, name: str, frames: Sequence[Buffer]) -> int:
        folder = self._folder / job
        temporary = folder / f".{name}.tmp"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with temporary.open("wb") as file:
                size = sum(file.write(frame) for frame in frames)
            temporary.replace(folder / f"{name}.bin")
            return size
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _disk_error(error) from None

    def _frames(self, job: str, name: str, header: bytes, specs: Any) -> list[Buffer]:
        try:
            with (self._folder / job / f"{name}.bin").open("rb") as file:
                file.seek(0, 2)
                empty = file.tell() == 0
                body = memoryview(b"") if empty else memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise TurnaroundError(
                "job.forgotten", "The files of this job are gone.", "Generate it again.", details=str(error)
            ) from None
        return frames_of(header, body, specs)


def _disk_error(error: Exception) -> TurnaroundError:
    return TurnaroundError(
        "disk.write",
        "The backend cannot write to its disk.",
        "Make room on the disk, then try again.",
        details=str(error),
    )
