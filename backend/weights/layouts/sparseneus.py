"""One-2-3-45's SparseNeuS: one state dict a network in a training checkpoint, stored as one file.

Learned from the published program's own checkpoint writer: `<network>_lod0`, and beside them the optimizer and
counters, which are left behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, shapes_of, state_dict, the_file, write_parts
from backend.weights.lazy import LazyTensor, Shapes
from backend.weights.store import STORED, WeightsEntry

(FILE,) = STORED["sparseneus"]


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is the checkpoint."""
    from backend.reconstructors.sparseneus.config import PUBLISHED

    content = read_state(the_file(source, entry, *(Path(name).name for name in entry.files)))
    expected = _expected()
    tensors: dict[str, LazyTensor] = {}
    for network in dict.fromkeys(name.split(".")[0] for name in expected):
        part = content.get(network)
        found = state_dict(part) if isinstance(part, Mapping) else {}  # one that is none is named as missing
        tensors |= {f"{network}.{name}": tensor for name, tensor in found.items()}
    metadata = {"config": json.dumps(asdict(PUBLISHED), sort_keys=True)}
    write_parts([Part("the reconstructor", FILE, tensors, expected, metadata=metadata)], folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    return {FILE: _expected()}


def _expected() -> Shapes:
    from backend.reconstructors.sparseneus.config import PUBLISHED
    from backend.reconstructors.sparseneus.network import SparseNeuS

    return shapes_of(lambda: SparseNeuS(PUBLISHED))
