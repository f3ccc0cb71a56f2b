"""Which weights a pipeline runs on, and whether those that ship are there; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.weights.store import WeightsEntry, catalogue, is_present, tiny_path
from protocol.errors import TurnaroundError
from protocol.messages import Settings

AUTO, TINY = "auto", "tiny"
"""Weights that are not an entry's name: installed ones if they and a GPU are there, and those that ship."""

COMPANIONS = {"zero123": "sparseneus", "sparseneus": "zero123", "ouroboros3d": "video", "video": "ouroboros3d"}
"""Layouts of weights -> that which a pipeline needs beside it."""


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


def still_needed(entry: WeightsEntry) -> str:
    """What has to be installed before these weights can be used, as a sentence; "" if they can be."""
    layout = COMPANIONS.get(entry.layout)
    others = [other for other in catalogue() if other.pipeline == entry.pipeline and other.layout == layout]
    if not others or any(map(is_present, others)):
        return ""
    names = ", ".join(other.name for other in others)
    return f"{entry.name} can be used once {'one of ' if len(others) > 1 else ''}{names} is installed too."


def more_hint(pipeline: str) -> str:
    """How an artist gets more weights to choose from."""
    there = [entry for entry in catalogue() if entry.pipeline == pipeline and is_present(entry)]
    needed = " ".join(filter(None, map(still_needed, there)))
    return needed or 'Others have to be installed first, see "turnaround models list".'
