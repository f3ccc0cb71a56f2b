"""Which weights a pipeline runs on, and whether those that ship are there; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.weights.store import tiny_path
from protocol.errors import TurnaroundError
from protocol.messages import Settings

AUTO, TINY = "auto", "tiny"
"""Weights that are not an entry's name: installed ones if they and a GPU are there, and those that ship."""


def choose_weights(
    settings: Settings, device: str, installed: Sequence[str], absent: Callable[[str], tuple[str, str]]
) -> str:
    """`TINY`, or one of those installed, as the option `weights` asks.

    Args:
        settings: of the job.
        device: torch device.
        installed: names, the first of which `AUTO` takes on a GPU.
        absent: sentence and hint for a name that is not among them.

    Raises:
        TurnaroundError: `weights.absent`.
    """
    wanted = str(settings.options.get("weights", AUTO))
    if wanted == AUTO:
        return installed[0] if installed and device.startswith("cuda") else TINY
    if wanted != TINY and wanted not in installed:
        sentence, hint = absent(wanted)
        raise TurnaroundError("weights.absent", sentence, hint, field="options.weights")
    return wanted


def missing_hint(shipped: Sequence[str]) -> str:
    """What an artist should do about shipped weights that are not there; "" if all are."""
    missing = [name for name in shipped if not tiny_path(name).is_file()]
    return f"These weights are missing: {', '.join(missing)}. Install Turnaround again." if missing else ""
