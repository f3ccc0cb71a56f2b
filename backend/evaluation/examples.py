"""What a method is measured on: a picture of an object, and the object where the picture's camera has it in front."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh
from backend.geometry.render import Light, Scene, prepare, render
from backend.pipelines.stage import digest
from backend.training.data.episodes import place_scene, sample_input, sample_light
from backend.training.data.meshes import MeshFile, load_mesh

QUERY_SIZE = 64
"""Side of the small rendering of the same picture that retrieval compares."""


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


def make_examples(files: Iterable[MeshFile], *, size: int = 256, seed: int = 0) -> Iterator[Example]:
    """One example of each mesh; the same name and seed give the same picture."""
    for file in files:
        rng = np.random.default_rng(int(digest("example", file.name, seed)[:15], 16))
        mesh = load_mesh(file.path)
        placement, camera = sample_input(mesh.vertices, rng)
        light = sample_light(rng)
        scene = place_scene(prepare(mesh), placement)
        truth = Mesh(placement.apply(mesh.vertices).astype(np.float32), mesh.faces, mesh.colors)
        pictures = [render(scene, camera, side, light).rgba for side in (size, QUERY_SIZE)]
        yield Example(file.name, pictures[0], pictures[1], camera, light, truth, scene)
