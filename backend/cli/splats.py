"""`--splats`: the Gaussians that a mesh was made of, as a file."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo

from .job import Variant


def check_splats_name(path: Path) -> None:
    """Raises `export.format` before anything takes time."""
    from backend.geometry.export import by_suffix

    by_suffix(path, {".ply": None}, "Gaussians")


def check_makes_splats(info: PipelineInfo) -> None:
    """Raises `splats.none` before anything takes time."""
    if not info.splats:
        raise TurnaroundError(
            "splats.none",
            f"{info.label or info.name} does not make Gaussians.",
            "Leave --splats away, or choose another --pipeline.",
            field="splats",
        )


def write(variant: Variant, path: Path) -> None:
    """Writes the Gaussians of a variant; raises like `write_splats`."""
    from backend.geometry.gaussians.gaussians import Gaussians
    from backend.geometry.gaussians.ply import write_splats

    if variant.splats is None:
        raise TurnaroundError("splats.none", "No Gaussians came with the mesh.", "Leave --splats away.", field="splats")
    write_splats(Gaussians.unpacked(variant.splats), path)
