"""What all commands share: where they write, how they fail, and how progress looks.

Results go to standard output, everything else to standard error, so that a command can stand in a pipe.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperGroup

from backend.pipelines.stage import CancelledError
from protocol.errors import TurnaroundError

CANCELLED = 130
"""Exit code of a cancelled command, as a shell gives to one that Ctrl-C stopped."""

_VERBOSE = "turnaround.verbose"


def _remember_verbose(context: typer.Context, wanted: bool) -> bool:
    context.meta[_VERBOSE] = wanted
    return wanted


Verbose = Annotated[
    bool, typer.Option("--verbose", callback=_remember_verbose, help="Show the details of what goes wrong.")
]


def error_console() -> Console:
    """Standard error, looked up anew so that a redirected one is honoured."""
    return Console(stderr=True, highlight=False)


def output_console() -> Console:
    """Standard output."""
    return Console(highlight=False)


class Group(TyperGroup):
    """Commands whose failures are a sentence and a hint, exit code 1; usage errors stay at 2."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except TurnaroundError as error:
            show_error(error, verbose=bool(ctx.meta.get(_VERBOSE)))
            raise typer.Exit(1) from None
        except (CancelledError, KeyboardInterrupt):
            error_console().print("Cancelled.")
            raise typer.Exit(CANCELLED) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if _is_usage_error(error):
                raise
            verbose = bool(ctx.meta.get(_VERBOSE))
            hint = "" if verbose else "Run it again with --verbose to see the details."
            details = "".join(traceback.format_exception(error))
            show_error(
                TurnaroundError("internal", f"This should not have happened: {error!r}.", hint, details=details),
                verbose=verbose,
            )
            raise typer.Exit(1) from None


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def show_error(error: TurnaroundError, *, verbose: bool = False) -> None:
    """Prints a failure: the sentence, the hint, and the details if they are wanted."""
    console = error_console()
    console.print(Text.assemble(("Error: ", "bold red"), error.sentence), soft_wrap=True)
    if error.hint:
        console.print(Text(error.hint), soft_wrap=True)
    if verbose:
        field = f" ({error.field})" if error.field else ""
        console.print(Text(f"[{error.code}]{field}\n{error.details}".rstrip(), "dim"), soft_wrap=True)


def warn(sentence: str, console: Console | None = None) -> None:
    """Prints a warning."""
    (console or error_console()).print(Text.assemble(("Warning: ", "bold yellow"), sentence), soft_wrap=True)


# ------------------------------------------------------------------------------------------------------- progress


class Bar:
    """A job's progress: a moving bar in a terminal, a line for each stage and each tenth anywhere else."""

    def __init__(self) -> None:
        self._console = error_console()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("Starting", total=1.0)
        self._line = ("", 0)
        self._noted: set[str] = set()

    def note(self, sentences: Iterable[str]) -> None:
        """Prints warnings above the bar, each once however often it is told."""
        for sentence in sentences:
            if sentence not in self._noted:
                self._noted.add(sentence)
                warn(sentence, self._console)

    def update(self, stage: str, step: int, total: int, fraction: float, label: str = "") -> None:
        """Shows the stage, the step in it and the share of the whole job that is done."""
        shown = f"{label}{stage}"
        line = (shown, int(fraction * 10))
        if self._progress.disable and line != self._line:
            self._console.print(f"{shown} ({fraction:.0%})", markup=False)
        self._line = line
        steps = f" {step}/{total}" if total > 1 else ""
        self._progress.update(self._task, description=f"{shown}{steps}", completed=fraction)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


@contextmanager
def cancel_on_interrupt(cancel: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `cancel`, so that a job ends at its next step and cleans up; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(signum: int, frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        print("\nCancelling (Ctrl-C again to stop at once) ...", file=sys.stderr)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
