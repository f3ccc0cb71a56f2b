"""The Inception v3 that FID is measured with, without its classifier."""

from __future__ import annotations

from pathlib import Path

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, shapes_of, state_dict, the_file, write_parts
from backend.weights.lazy import COUNTER, Shapes
from backend.weights.store import STORED, WeightsEntry

(FILE,) = STORED["inception"]


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is pytorch-fid's file."""
    state = state_dict(read_state(the_file(source, entry, *entry.files)))
    left = ("fc.", "AuxLogits.")
    tensors = {name: x for name, x in state.items() if not name.startswith(left) and not name.endswith(COUNTER)}
    write_parts([Part("the network", FILE, tensors, _expected())], folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    return {FILE: _expected()}


def _expected() -> Shapes:
    from backend.evaluation.inception import Inception

    return shapes_of(Inception)
