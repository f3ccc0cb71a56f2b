"""LoFTR, stored under the names of kornia's module."""

from __future__ import annotations

from pathlib import Path

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, shapes_of, state_dict, the_file, write_parts
from backend.weights.lazy import Shapes
from backend.weights.store import STORED, WeightsEntry

(FILE,) = STORED["loftr"]


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is a checkpoint of kornia or of LoFTR's own training."""
    state = state_dict(read_state(the_file(source, entry, *entry.files)), "state_dict")
    tensors = {name.removeprefix("matcher."): tensor for name, tensor in state.items()}
    write_parts([Part("the matcher", FILE, tensors, _expected())], folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    return {FILE: _expected()}


def _expected() -> Shapes:
    from kornia.feature import LoFTR

    return shapes_of(lambda: LoFTR(pretrained=None))
