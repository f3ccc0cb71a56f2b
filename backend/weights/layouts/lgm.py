"""LGM: one state dict, in safetensors or pickled, whose keys are kept; the config goes into the metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, shapes_of, state_dict, the_file, write_parts
from backend.weights.lazy import Shapes
from backend.weights.store import STORED, WeightsEntry

(FILE,) = STORED["lgm"]


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is the checkpoint, and `entry` says how it turns its Gaussians."""
    from backend.reconstructors.lgm.config import PUBLISHED_LGM_FIXED

    tensors = state_dict(read_state(the_file(source, entry, *entry.files)), "state_dict", "model")
    config = replace(PUBLISHED_LGM_FIXED, rotation=entry.rotation)
    metadata = {"config": json.dumps(asdict(config), sort_keys=True)}
    write_parts([Part("the reconstructor", FILE, tensors, _expected(), half=True, metadata=metadata)], folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    return {FILE: _expected()}


def _expected() -> Shapes:
    from backend.reconstructors.lgm.config import PUBLISHED_LGM_FIXED
    from backend.reconstructors.lgm.network import LGM

    return shapes_of(lambda: LGM(PUBLISHED_LGM_FIXED))
