"""What a method is measured on: a picture of an object, and the object where the picture's camera has it in front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh
from backend.geometry.render import Light, Scene, prepare, render
from backend.pipelines.stage import digest
from backend.training.data.episodes import place_scene, sample_input, sample_light
from backend.training.data.meshes import MeshFile, load_mesh
from protocol.errors import TurnaroundError

QUERY_SIZE = 64
"""Side of the small rendering of the same picture that retrieval compares."""

LEAST_AREA = 1e-6
"""Of a surface whose farthest vertex is at 0.5; a line's, which only rounding gives it, is below."""


@dataclass(frozen=True)
class Example:
    """One object to measure on.

    Attributes:
        name: of its mesh.
        picture: uint8 [S, S, 4], what a method is given.
        query: uint8 [64, 64, 4], the same picture, small.
        camera: the picture's camera, azimuth 0; no method is told its elevation or field of view.
        light: of the picture, in the object frame.
        truth: the object in the object frame, as the picture's framing has placed it.
        scene: `truth`, ready to render.
    """

    name: str
    picture: NDArray[np.uint8]
    query: NDArray[np.uint8]
    camera: Camera
    light: Light
    truth: Mesh
    scene: Scene


def load_surface(path: Path) -> Mesh:
    """Reads a mesh as `load_mesh` does, and sees to it that it has a surface: nothing can be measured on another.

    Raises:
        TurnaroundError: `meshes.unreadable`.
    """
    mesh = load_mesh(path)
    if not np.isfinite(mesh.vertices).all():
        raise TurnaroundError("meshes.unreadable", f"{path.name} has vertices that are not finite.")
    if len(mesh.faces) and not 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices):
        raise TurnaroundError("meshes.unreadable", f"{path.name} has faces without vertices.")
    if not trimesh.triangles.area(mesh.vertices[mesh.faces].reshape(-1, 3, 3)).sum() > LEAST_AREA:
        raise TurnaroundError("meshes.unreadable", f"{path.name} has no surface.")
    return mesh


def usable(files: Iterable[MeshFile], log: Callable[[str], None]) -> list[MeshFile]:
    """The meshes that can be measured on; `log` is told of each of the others."""
    kept = []
    for file in files:
        try:
            load_surface(file.path)
        except TurnaroundError as error:
            log(f"{file.name} is left out: {error.sentence}")
        else:
            kept.append(file)
    return kept


def make_examples(files: Iterable[MeshFile], *, size: int = 256, seed: int = 0) -> Iterator[Example]:
    """One example of each mesh; the same name and seed give the same picture.

    Raises:
        TurnaroundError: `meshes.unreadable`; `usable` leaves such meshes out.
    """
    for file in files:
        rng = np.random.default_rng(int(digest("example", file.name, seed)[:15], 16))
        mesh = load_surface(file.path)
        placement, camera = sample_input(mesh.vertices, rng)
        light = sample_light(rng)
        scene = place_scene(prepare(mesh), placement)
        truth = Mesh(placement.apply(mesh.vertices).astype(np.float32), mesh.faces, mesh.colors)
        pictures = [render(scene, camera, side, light).rgba for side in (size, QUERY_SIZE)]
        yield Example(file.name, pictures[0], pictures[1], camera, light, truth, scene)
