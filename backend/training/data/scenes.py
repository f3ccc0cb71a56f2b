"""Scenes as the published reconstructor learns from them: One-2-3-45's two stages of views of an object (section 3.3).

The first stage's views are rendered from the mesh and give what is learned: colour, depth and mask. Near each of them
lie four views of the second stage, the sources: some are rendered too, the others are drawn by a frozen Zero123 from
their view of the first stage, so that the reconstructor learns what drawn views are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.elevation.solve import NEAR_MOVES
from backend.evaluation.examples import load_surface
from backend.generators.zero123.generator import PUBLISHED_GUIDANCE, ViewRequest, Zero123Generator
from backend.generators.zero123.pose import FOV_DEG
from backend.geometry.cameras import Camera
from backend.geometry.render import Light, prepare, render
from backend.geometry.render import Scene as Geometry
from backend.pipelines.one2345.selection import published_cameras
from backend.pipelines.stage import Progress, digest
from backend.preparation.framing import framed_camera
from backend.reconstructors.sparseneus.reconstructor import resampled
from backend.training.data.episodes import place, place_scene, sample_light
from backend.training.data.meshes import MeshFile
from backend.training.data.store import MeshStore
from backend.weights.store import weights_digest

FIRST_VIEWS = 8
"""Of the first stage, as published."""


@dataclass(frozen=True)
class SceneSpec:
    """How scenes are made; a part of their keys in the cache.

    Attributes:
        size: side of the pictures in pixels.
        first_views: of the first stage, 8 at most; there are four times as many sources.
        episodes: input cameras, placements and lights of each object.
        elevations_deg: between which the input cameras stand.
        drawn_share: of the sources, those that are drawn where there is a generator.
        drawn_steps: denoising steps of a drawn view.
        guidance: of a drawn view, see `Zero123Generator.draw`.
        seed: of everything random.
    """

    size: int = 256
    first_views: int = FIRST_VIEWS
    episodes: int = 1
    elevations_deg: tuple[float, float] = (-10.0, 50.0)
    drawn_share: float = 0.5
    drawn_steps: int = 14
    guidance: float = PUBLISHED_GUIDANCE
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.first_views <= FIRST_VIEWS:
            raise ValueError(f"the first stage has 1 to {FIRST_VIEWS} views, not {self.first_views}")


@dataclass(frozen=True)
class Scene:
    """One object from all sides, T views of the first stage and 4 T sources.

    Attributes:
        camera: of the input, whose view is the first of the targets.
        targets: uint8 [T, S, S, 4], straight alpha.
        depths: float32 [T, S, S], along the view axis in object units, 0 where there is nothing.
        sources: uint8 [4 T, S, S, 4]; drawn ones are opaque on white.
        drawn: whether a source is drawn, bool [4 T].
    """

    camera: Camera
    targets: Tensor
    depths: Tensor
    sources: Tensor
    drawn: Tensor

    @property
    def cameras(self) -> tuple[tuple[Camera, ...], tuple[Camera, ...]]:
        """Of the targets and of the sources."""
        return stage_cameras(self.camera, len(self.targets))


def stage_cameras(camera: Camera, first_views: int) -> tuple[tuple[Camera, ...], tuple[Camera, ...]]:
    """The first views of the first stage, and the second stage's views near them."""
    every = tuple(published_cameras(camera).values())
    near = every[FIRST_VIEWS:]
    return every[:first_views], near[: len(NEAR_MOVES) * first_views]


class FrozenGenerator:
    """A Zero123 that draws sources; loaded when a scene first needs it.

    Args:
        folder: its weights, see `generators.zero123.components`.
        device: torch device.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.digest = digest([weights_digest(path) for path in sorted(folder.rglob("*.safetensors"))])
        self._generator: Zero123Generator | None = None

    def draw(self, requests: Sequence[ViewRequest], spec: SceneSpec, seed: int) -> NDArray[np.uint8]:
        """uint8 [N, 256, 256, 4], opaque on white."""
        if self._generator is None:
            self._generator = Zero123Generator(self.folder, self.device)
        views = self._generator.draw(
            requests, seed=seed, steps=spec.drawn_steps, guidance=spec.guidance, progress=Progress()
        )
        return views.images


class Scenes:
    """Scenes of meshes; the same mesh, spec and generator give the same scene.

    Args:
        files: the meshes.
        spec: see `SceneSpec`.
        cache: folder, see `MeshStore`.
        device: that scenes are brought to.
        generator: draws some of the sources; None leaves all as rendered.
        log: told of meshes that cannot be used, once each.
    """

    def __init__(
        self,
        files: Sequence[MeshFile],
        spec: SceneSpec,
        cache: Path,
        device: torch.device | str = "cpu",
        generator: FrozenGenerator | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        self.files, self.spec, self.device = files, spec, torch.device(device)
        self._store = MeshStore(
            files,
            spec.episodes,
            cache / "scenes",
            lambda file, episode: make_scene(file, episode, spec, generator),
            (spec, generator.digest if generator is not None else None),
            log,
        )

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Scene:
        """A scene on the device; of the next mesh where this one cannot be read.

        Raises:
            TurnaroundError: `meshes.unreadable`, if none can.
        """
        arrays = self._store[index]
        camera = Camera(*map(float, arrays.pop("camera")))
        return Scene(camera, **{name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()})


def make_scene(
    file: MeshFile, episode: int, spec: SceneSpec, generator: FrozenGenerator | None = None
) -> dict[str, NDArray]:
    """The arrays of a `Scene`; its camera as elevation, azimuth, distance and field of view."""
    rng = np.random.default_rng(int(digest("scene", file.name, episode, spec.seed)[:15], 16))
    mesh = load_surface(file.path)
    camera = framed_camera(rng.uniform(*spec.elevations_deg), 0.0, FOV_DEG)
    placement = place(mesh.vertices, rng.uniform(-180, 180), camera)
    light = sample_light(rng)
    geometry = place_scene(prepare(mesh), placement)
    first, near = stage_cameras(camera, spec.first_views)
    targets = [render(geometry, view, spec.size, light) for view in first]
    images = np.stack([target.rgba for target in targets])
    seed = int(rng.integers(2**31))
    drawn = rng.random(len(near)) < (spec.drawn_share if generator is not None else 0.0)
    return {
        "camera": np.array([camera.elevation_deg, camera.azimuth_deg, camera.distance, camera.fov_deg]),
        "targets": images,
        "depths": np.stack([target.depth for target in targets]),
        "sources": _sources(geometry, light, images, (first, near), drawn, seed, spec, generator),
        "drawn": drawn,
    }


def _sources(
    geometry: Geometry,
    light: Light,
    images: NDArray[np.uint8],
    cameras: tuple[Sequence[Camera], Sequence[Camera]],
    drawn: NDArray[np.bool_],
    seed: int,
    spec: SceneSpec,
    generator: FrozenGenerator | None,
) -> NDArray[np.uint8]:
    """uint8 [4 T, S, S, 4]: drawn where `drawn` says so, from the views of the first stage, else rendered."""
    first, near = cameras
    sources = np.zeros((len(near), spec.size, spec.size, 4), np.uint8)
    for number in np.flatnonzero(~drawn):
        sources[number] = render(geometry, near[number], spec.size, light).rgba
    if generator is not None and drawn.any():
        numbers = np.flatnonzero(drawn)
        anchors = numbers // len(NEAR_MOVES)
        requests = [ViewRequest(images[a], first[a], near[n]) for a, n in zip(anchors, numbers, strict=True)]
        for number, view in zip(numbers, generator.draw(requests, spec, seed), strict=True):
            sources[number] = resampled(view, spec.size)
    return sources
