"""The baseline that every method has to beat: the shape of the training object whose picture is most alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.geometry.mesh import Mesh
from backend.training.data.episodes import Dataset, Placement
from backend.training.data.meshes import load_mesh

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """A training picture: which object, episode and view it is, and the squared distance to the query."""

    mesh: int
    episode: int
    view: int
    distance: float


def find_matches(queries: NDArray[np.uint8], training: Dataset) -> list[Match]:
    """The nearest training picture of each query, over all pictures of all episodes.

    Pictures are compared by squared distance of their colours on white and their alpha.

    Args:
        queries: uint8 [Q, S, S, 4], of the training pictures' size.
        training: rendered training objects.
    """
    if queries.shape[1:] != training.images.shape[3:]:
        raise ValueError(f"queries are {queries.shape[1:]}, the training pictures {training.images.shape[3:]}")
    wanted = _features(queries)
    norms = (wanted**2).sum(axis=1)
    best = np.full(len(queries), np.inf, np.float32)
    where = np.zeros((len(queries), 3), int)
    episodes, views = training.images.shape[1:3]
    for index in range(len(training)):
        stored = _features(training.images[index].reshape(episodes * views, *training.images.shape[3:]))
        distances = norms[:, None] + (stored**2).sum(axis=1) - 2 * wanted @ stored.T
        nearest = distances.argmin(axis=1)
        closer = distances[np.arange(len(queries)), nearest] < best
        best[closer] = distances[closer, nearest[closer]]
        where[closer] = np.column_stack([np.full(len(nearest), index), *divmod(nearest, views)])[closer]
    best = best.clip(0)  # rounding can leave an equal picture a little below zero
    return [Match(int(m), int(e), int(v), float(d)) for (m, e, v), d in zip(where, best, strict=True)]


def matched_mesh(match: Match, training: Dataset, folder: Path) -> Mesh:
    """The mesh of a match, placed and turned so that the matching camera stands at azimuth 0."""
    mesh = load_mesh(folder / training.names[match.mesh])
    azimuth, scale, *translation = (float(x) for x in training.placements[match.mesh, match.episode])
    placed = Placement(azimuth, scale, np.array(translation)).apply(mesh.vertices.astype(np.float64))
    turn = Placement(float(training.cameras[match.mesh, match.episode, match.view, 1]), 1.0, np.zeros(3))
    return Mesh(turn.apply(placed).astype(np.float32), mesh.faces, mesh.colors)


def _features(images: NDArray[np.uint8]) -> F32:
    """Colours on white and alpha, centred, float32 [N, S * S * 4]."""
    rgba = images.astype(np.float32) / 255
    alpha = rgba[..., 3:]
    return np.concatenate([rgba[..., :3] * alpha - alpha, alpha], axis=-1).reshape(len(images), -1)
