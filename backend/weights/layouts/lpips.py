"""LPIPS: torchvision's AlexNet, of which the convolutions are kept, and the linear layers of version 0.1."""

from __future__ import annotations

from pathlib import Path

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, shapes_of, state_dict, the_file, write_parts
from backend.weights.lazy import Shapes
from backend.weights.store import STORED, WeightsEntry

(FILE,) = STORED["lpips"]


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is a folder with both files."""
    alexnet, linear = (state_dict(read_state(the_file(source, entry, name))) for name in entry.files)
    tensors = {name: tensor for name, tensor in alexnet.items() if not name.startswith("classifier.")}
    tensors |= {name.replace(".model.1.", "."): tensor for name, tensor in linear.items()}
    write_parts([Part("the distance", FILE, tensors, _expected())], folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    return {FILE: _expected()}


def _expected() -> Shapes:
    from backend.evaluation.lpips import Lpips

    return shapes_of(Lpips)
