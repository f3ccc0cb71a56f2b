"""Rounds of pictures as the published Ouroboros3D learns from them: whole orbits about a mesh, on white."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.generators.multiview_svd.config import OUROBOROS3D
from backend.generators.multiview_svd.network import Cameras
from backend.generators.zero123.preprocessing import on_white
from backend.geometry import batched
from backend.geometry.render import prepare, render
from backend.pipelines.stage import digest
from backend.training.data.episodes import place_scene, sample_input, sample_light, sample_targets
from backend.training.data.meshes import MeshFile, load_mesh
from backend.training.data.store import Arrays, MeshStore
from protocol.errors import TurnaroundError


@dataclass(frozen=True)
class RoundSpec:
    """How rounds are made; a part of their keys in the cache.

    Attributes:
        size: side of the pictures in pixels.
        azimuths_deg: of the orbit, the input's own 0 first.
        fov_deg: of every camera.
        elevations_deg: between which orbits stand.
        elsewhere: views that are not of the orbit, after it.
        episodes: sides from which each object's orbit begins, with placements and lights of their own.
        seed: of everything random.
    """

    size: int = OUROBOROS3D.size
    azimuths_deg: tuple[float, ...] = OUROBOROS3D.azimuths_deg
    fov_deg: float = OUROBOROS3D.fov_deg
    elevations_deg: tuple[float, float] = (-5.0, 30.0)
    elsewhere: int = 0
    episodes: int = 4
    seed: int = 0


@dataclass(frozen=True)
class RoundBatch:
    """Rounds of B objects with V views each, the first of them the orbit's.

    Attributes:
        pictures: float32 [B, V, 3, S, S] in 0..1, on white; view 0 is the input.
        cameras: [B, V, ...], in the networks' frame and units.
    """

    pictures: Tensor
    cameras: Cameras


class Rounds:
    """Rounds of meshes; the same mesh and spec give the same round.

    Args:
        files: the meshes.
        spec: see `RoundSpec`.
        radius: of the orbits, in the networks' units.
        cache: folder, see `MeshStore`: at the published size 6 MB for a round.
        device: that batches are brought to.
        log: told of meshes that cannot be used, once each.
    """

    def __init__(
        self,
        files: Sequence[MeshFile],
        spec: RoundSpec,
        radius: float,
        cache: Path,
        device: torch.device | str = "cpu",
        log: Callable[[str], None] = print,
    ) -> None:
        self.files, self.radius, self.device = files, radius, torch.device(device)
        self._store = MeshStore(
            files, spec.episodes, cache / "rounds", lambda file, episode: make_round(file, episode, spec), (spec,), log
        )

    def __len__(self) -> int:
        return len(self._store)

    def batch(self, size: int, generator: torch.Generator) -> RoundBatch:
        """Draws a batch; `generator` is a CPU generator, seeded by the step.

        Raises:
            TurnaroundError: as `MeshStore`.
        """
        return self.take(torch.randint(len(self), (size,), generator=generator).tolist())

    def take(self, indices: Sequence[int]) -> RoundBatch:
        """The batch of these rounds."""
        rounds = [self._store[index] for index in indices]
        pictures, cameras = (torch.from_numpy(np.stack([r[name] for r in rounds])) for name in ("pictures", "cameras"))
        cameras[..., 2] = self.radius  # all are as far from the origin, so that this alone is the change of units
        poses = batched.canonicalised(batched.world_from_camera(cameras))
        told = Cameras(poses.to(self.device), batched.intrinsics(cameras, 1).to(self.device))
        return RoundBatch(pictures.to(self.device).movedim(-1, 2).float() / 255, told)


def make_round(file: MeshFile, episode: int, spec: RoundSpec) -> Arrays:
    """Pictures uint8 [V, S, S, 3] and cameras float32 [V, 4], as in `geometry.batched`, in the object frame."""
    rng = np.random.default_rng(int(digest("round", file.name, episode, spec.seed)[:15], 16))
    mesh = load_mesh(file.path)
    if not len(mesh.faces):
        raise TurnaroundError("meshes.unreadable", f"{file.path.name} has no surface.")
    placement, camera = sample_input(mesh.vertices, rng, (spec.fov_deg, spec.fov_deg), spec.elevations_deg)
    light = sample_light(rng)
    orbit = [camera.moved(azimuth_deg=azimuth) for azimuth in spec.azimuths_deg]
    cameras = [*orbit, *sample_targets(camera, spec.elsewhere, rng)]
    scene = place_scene(prepare(mesh), placement)
    pictures = [on_white(render(scene, view, spec.size, light).rgba, spec.size) for view in cameras]
    return {"pictures": np.stack(pictures), "cameras": batched.camera_tensor(cameras).numpy()}
