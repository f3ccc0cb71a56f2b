"""3DiM's X-UNet as a6o/3d-diffusion-pytorch trains it, with the two conventions of its own in the stored config."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backend.weights.layouts import Fraction
from backend.weights.layouts.parts import Part, read_state, shapes_of, state_dict, the_file, write_parts
from backend.weights.lazy import LazyState, Shapes
from backend.weights.store import STORED, WeightsEntry, damaged, read_typed_config

if TYPE_CHECKING:
    from backend.generators.xunet.config import XUNetConfig

(FILE,) = STORED["xunet"]


def convert(source: Path, folder: Path, entry: WeightsEntry, report: Fraction) -> None:
    """See `Layout.convert`; `source` is a training checkpoint."""
    path = the_file(source, entry, *entry.files)
    state = state_dict(read_state(path), "model")
    tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    try:
        config = _config(tensors)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    metadata = {"config": json.dumps(asdict(config), sort_keys=True)}
    write_parts([Part("the view generator", FILE, tensors, _expected(config), metadata=metadata)], folder, report)


def expected(folder: Path) -> dict[str, Shapes]:
    """See `Layout.expected`."""
    from backend.generators.xunet.config import XUNetConfig

    return {FILE: _expected(read_typed_config(folder / FILE, XUNetConfig, "a view generator"))}


def _config(tensors: LazyState) -> XUNetConfig:
    """Its sizes; what the tensors do not tell is as in the public training."""
    from backend.generators.xunet.config import SRN64

    first, rays = tensors.get("conv.weight"), tensors.get("conditioningprocessor.pos_emb")
    if first is None or rays is None or first.ndim != 4 or rays.ndim != 3:
        return SRN64  # whose keys will be found missing, each by its name
    blocks = {match[1] for name in tensors if (match := re.match(r"xunetblocks\.3\.(\d+)\.", name))}
    return replace(SRN64, size=rays.shape[-1], channels=first.shape[0], res_blocks=len(blocks))


def _expected(config: XUNetConfig) -> Shapes:
    from backend.generators.xunet.network import XUNet

    return shapes_of(lambda: XUNet(config))
