"""Episodes whose views are drawn instead of rendered: what the reconstructor meets when artists use it.

A reconstructor that has seen true views alone believes drawn ones too much; trained on both it learns what they are
worth (One-2-3-45 mixes them for the same reason).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.generators.xunet.generator import XUNetGenerator
from backend.geometry.cameras import Camera
from backend.geometry.feedback import coordinates
from backend.pipelines.stage import Progress, digest
from backend.training.data.episodes import Dataset
from backend.training.data.feedback import Feedback
from backend.weights.store import weights_digest


def draw_episodes(
    dataset: Dataset, feedback: Feedback, weights: Path, cache: Path, *, views: int, steps: int, episodes: int = 1
) -> Dataset:
    """The first episodes with views drawn at their believed cameras, from the cache if they are there.

    Args:
        dataset: the episodes; view 0 of each stays as it is.
        feedback: what the generator is shown; its error is in the result's cameras.
        weights: of the generator.
        cache: folder.
        views: of the result, the input counted in.
        steps: denoising steps.
        episodes: of each object.
    """
    key = digest(dataset.names, feedback.errors, weights_digest(weights), views, steps, episodes)
    folder = cache / f"drawn-{key[:16]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as temporary:
            making = Path(temporary) / "drawn"
            making.mkdir()
            _write(dataset, feedback, XUNetGenerator(weights), making, views, steps, episodes)
            making.rename(folder)
    cameras = np.array(dataset.cameras[:, :episodes, :views])
    cameras[..., 0] += feedback.errors[:, :episodes, None]
    return replace(
        dataset,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        depths=dataset.depths[:, :episodes, :views],
        cameras=cameras,
        placements=dataset.placements[:, :episodes],
    )


def _write(
    dataset: Dataset,
    feedback: Feedback,
    generator: XUNetGenerator,
    folder: Path,
    views: int,
    steps: int,
    episodes: int,
) -> None:
    shape = (len(dataset), episodes, views, *dataset.images.shape[3:])
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for index in range(len(dataset)):
        for episode in range(episodes):
            error = float(feedback.errors[index, episode])
            rows = dataset.cameras[index, episode, :views]
            cameras = [Camera(*map(float, row)).moved(elevation_deg=error) for row in rows]
            picture = np.array(dataset.images[index, episode, 0])
            rgba = feedback.rgba[index, episode, :views].astype(np.float32) / 255
            depths = feedback.depths[index, episode, :views].astype(np.float32)
            places = [coordinates(depth, camera) for depth, camera in zip(depths, cameras, strict=True)]
            drawn = generator.generate(
                picture,
                cameras[0],
                cameras[1:],
                seed=index * episodes + episode,
                steps=steps,
                guidance=0.0,
                progress=Progress(),
                maps=np.concatenate([rgba, np.stack(places)], axis=-1),
            )
            images[index, episode, 0] = picture
            images[index, episode, 1:] = drawn.images
    images.flush()
