"""Feedback maps of training episodes: what the input alone says of the shape, seen from every camera of the episode.

Made by the reconstructor and the functions that the pipeline uses, so that the generator learns from what it will get.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.colors import paint
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.render import prepare, render
from backend.pipelines.shaping import surface
from backend.pipelines.shipped import COARSE_CELLS
from backend.pipelines.stage import Progress, digest
from backend.reconstructors.sparseneus.reconstructor import SparseNeuSReconstructor
from backend.training.data.episodes import Dataset
from backend.weights.store import weights_digest
from protocol.errors import TurnaroundError


@dataclass(frozen=True)
class Feedback:
    """Maps of the first E episodes of N objects.

    Attributes:
        rgba: uint8 [N, E, V, S, S, 4], straight alpha.
        depths: float16 [N, E, V, S, S].
        errors: float32 [N, E], degrees by which all of an episode's cameras are believed to be higher than they are:
            the elevation of a picture is an estimate, and what follows from it is off together.
    """

    rgba: NDArray[np.uint8]
    depths: NDArray[np.float16]
    errors: NDArray[np.float32]


PARTS = ("rgba", "depths", "errors")


def build_feedback(
    dataset: Dataset, weights: Path, cache: Path, *, episodes: int, elevation_error_deg: float = 4.0
) -> Feedback:
    """The feedback of a dataset, from the cache folder if it is there, else made and kept there.

    Args:
        dataset: the episodes.
        weights: of the reconstructor.
        cache: folder.
        episodes: how many of each object's.
        elevation_error_deg: standard deviation of the error with which the input's elevation is known.
    """
    key = digest(dataset.names, dataset.images.shape, weights_digest(weights), episodes, elevation_error_deg)
    folder = cache / f"feedback-{key[:16]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as temporary:
            making = Path(temporary) / "feedback"
            making.mkdir()
            _write(dataset, SparseNeuSReconstructor(weights), making, episodes, elevation_error_deg)
            making.rename(folder)
    return Feedback(*(np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS))


def _write(
    dataset: Dataset, reconstructor: SparseNeuSReconstructor, folder: Path, episodes: int, error_deg: float
) -> None:
    count, _, views, size = dataset.images.shape[:4]
    rgba = np.lib.format.open_memmap(folder / "rgba.npy", "w+", np.uint8, (count, episodes, views, size, size, 4))
    depths = np.lib.format.open_memmap(folder / "depths.npy", "w+", np.float16, (count, episodes, views, size, size))
    errors = np.random.default_rng(0).normal(0, error_deg, (count, episodes)).astype(np.float32)
    np.save(folder / "errors.npy", errors)
    for index in range(count):
        for episode in range(episodes):
            error = float(errors[index, episode])
            rows = dataset.cameras[index, episode]
            cameras = [Camera(*map(float, row)).moved(elevation_deg=error) for row in rows]
            mesh = coarse(reconstructor, np.asarray(dataset.images[index, episode, 0]), cameras[0])
            scene = prepare(mesh)
            for view, camera in enumerate(cameras):
                rendering = render(scene, camera, size)
                rgba[index, episode, view] = rendering.rgba
                depths[index, episode, view] = rendering.depth
    rgba.flush()
    depths.flush()


def coarse(reconstructor: SparseNeuSReconstructor, picture: NDArray[np.uint8], camera: Camera) -> Mesh:
    """The preview mesh of a picture; empty where nothing was found."""
    field = reconstructor.reconstruct(ViewSet(picture[None], (camera,)), progress=Progress())
    try:
        return paint(surface(field, COARSE_CELLS), picture, camera)
    except TurnaroundError:
        nothing = np.zeros((0, 3))
        return Mesh(nothing.astype(np.float32), nothing.astype(np.int32), np.zeros((0, 4), np.uint8))
