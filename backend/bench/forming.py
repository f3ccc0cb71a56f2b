"""How long an artist waits for Ouroboros3D: until a shape stands in the viewport, and until it is done."""

from __future__ import annotations

from backend.bench import generate

TARGETS = {"picture_to_mesh_seconds": ("<=", 90.0), "preview_shape_seconds": ("<=", 20.0)}


def measure() -> dict[str, float]:
    """As `generate.measure`, networks cold, through a real backend."""
    found = generate.measure("ouroboros3d")
    return {name: found[name] for name in (*TARGETS, "first_event_seconds", "next_variant_seconds")}
