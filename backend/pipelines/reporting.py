"""How a result came about, in the words of the wire."""

from __future__ import annotations

from importlib.metadata import version

from backend.pipelines.shaping import Made
from backend.pipelines.stage import Progress
from protocol.messages import Framing, Report, Settings, ViewCamera


def make_report(
    pipeline: str,
    settings: Settings,
    seed: int,
    made: Made,
    framing: Framing,
    notes: tuple[str, ...],
    weights: str,
    device: str,
    progress: Progress,
) -> Report:
    """How the result came about."""
    elevation, camera = made.elevation, made.camera
    return Report(
        pipeline=pipeline,
        seed=seed,
        settings=settings,
        elevation_deg=elevation.degrees,
        elevation_source=elevation.source,
        elevation_spread_deg=elevation.spread,
        elevation_confidence=elevation.confidence,
        camera=ViewCamera(
            elevation_deg=camera.elevation_deg,
            azimuth_deg=camera.azimuth_deg,
            distance=camera.distance,
            fov_deg=camera.fov_deg,
        ),
        framing=framing,
        seconds={name: round(seconds, 4) for name, seconds in progress.seconds.items()},
        cached=tuple(dict.fromkeys(progress.cached)),
        warnings=(*notes, elevation.note) if elevation.note else notes,
        weights=weights,
        versions={name: version(name) for name in ("turnaround", "torch", "diffusers", "numpy")},
        device=device,
    )
