"""Ouroboros3D: the multi-view U-Net and the reconstruction network, two plain state dicts whose keys are kept.

What they hold is listed in `manifests`. The reconstruction network's config goes into its file's metadata; the U-Net's
sizes are those of the video model that it stands in.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, state_dict, the_file, write_parts
from backend.weights.lazy import Shapes
from backend.weights.store import STORED, WeightsEntry

MANIFESTS = Path(__file__).parent / "manifests"


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is the folder with both files."""
    from backend.reconstructors.lgm.config import OUROBOROS3D

    config = {"config": json.dumps(asdict(OUROBOROS3D), sort_keys=True)}
    parts = []
    for file, shapes in expected(folder).items():
        stem = Path(file).stem
        path = the_file(source, entry, f"{stem}.pth", f"{stem}.safetensors")
        tensors = state_dict(read_state(path), "state_dict")
        metadata = config if stem == "recon_model" else {}
        parts.append(Part(stem, file, tensors, shapes, half=True, metadata=metadata))
    write_parts(parts, folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    result: dict[str, Shapes] = {}
    for file in STORED["ouroboros3d"]:
        manifest = json.loads((MANIFESTS / f"ouroboros3d_{Path(file).stem}.json").read_text(encoding="utf-8"))
        result[file] = {name: tuple(shape) for name, shape in manifest.items()}
    return result
