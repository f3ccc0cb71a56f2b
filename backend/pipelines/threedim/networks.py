"""The networks of 3DiM: the view generator that draws from a pool, beside those that ship with every pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.generators.xunet.diffusion import Sampler
from backend.generators.xunet.stochastic import Conditioning, PoolGenerator
from backend.generators.xunet.worlds import FOV_DEG, World
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.choosing import TINY
from backend.pipelines.shaping import NO_VIEWS
from backend.pipelines.shipped import ShippedNetworks
from backend.pipelines.stage import Preview, Progress, Stages, Update
from backend.preparation.backdrop import cut_from_white
from backend.preparation.framing import DEFAULT_FOV_DEG
from backend.reconstructors.sparseneus.reconstructor import resampled
from backend.weights.store import find_entry, stored_files, tiny_path, weights_digest


@dataclass(frozen=True)
class Sampling:
    """How views are drawn; see `PoolGenerator.draw`.

    Attributes:
        seed: of the variant.
        steps: denoising steps of each view.
        guidance: 0 is none.
        sampler: one that bears another picture at every step.
        conditioning: on the whole pool, evenly or not, or on what it began with.
        batch: views that advance together.
        world: where the first picture's camera stands in the world that the network knows.
    """

    seed: int
    steps: int
    guidance: float = 0.0
    sampler: Sampler = "ddim"
    conditioning: Conditioning = "stochastic"
    batch: int = 1
    world: World = field(default_factory=World)


class Networks(ShippedNetworks):
    """View generator, reconstructor and elevation regressor on one device, each loaded when first used.

    Args:
        weights: `TINY`, or the name of the generator in the catalogue.
        device: torch device.

    Raises:
        TurnaroundError: weights are missing or damaged.
    """

    def __init__(self, weights: str, device: str) -> None:
        super().__init__(device)
        self.tiny = weights == TINY
        self.path = tiny_path("3dim") if self.tiny else stored_files(find_entry(weights))[0]

    @cached_property
    def generator(self) -> PoolGenerator:
        """The view generator."""
        return PoolGenerator(self.path, self.device)

    @property
    def fov_deg(self) -> float:
        """What a picture's field of view is taken to be where nobody says: the one that the generator knows."""
        return DEFAULT_FOV_DEG if self.tiny else FOV_DEG

    def pool(self, pictures: Sequence[NDArray[np.uint8]], cameras: Sequence[Camera]) -> ViewSet:
        """Framed pictures as the generator looks at them."""
        size = self.generator.config.size
        return ViewSet(np.stack([resampled(picture, size) for picture in pictures]), tuple(cameras))

    def draw(self, pool: ViewSet, cameras: Sequence[Camera], sampling: Sampling, stages: Stages) -> Iterator[ViewSet]:
        """Yields the drawn views, more of them each time, all of them last.

        What has been drawn from the same pool is taken from the cache: asking for more views draws only these. Views of
        a network without alpha are cut out for whoever asked, and stay in the pool as they were drawn.

        Args:
            pool: what there is to begin with.
            cameras: of the views, in the order in which they are drawn.
            sampling: how.
            stages: of the job.
        """
        views, weights, progress = NO_VIEWS, weights_digest(self.path), stages.progress
        computed: list[int] = []
        total = sampling.steps * -(-len(cameras) // sampling.batch)
        for start in range(0, len(cameras), sampling.batch):
            targets = cameras[start : start + sampling.batch]
            done = sampling.steps * (start // sampling.batch)
            known = pool + views if len(views) and sampling.conditioning != "input" else pool

            def compute(
                known: ViewSet = known, targets: Sequence[Camera] = targets, done: int = done, views: ViewSet = views
            ) -> dict[str, NDArray[Any]]:
                computed.append(done)
                drawn = self.generator.draw(
                    known,
                    targets,
                    seed=sampling.seed,
                    steps=sampling.steps,
                    guidance=sampling.guidance,
                    progress=part_of(progress, done, total, views),
                    sampler=sampling.sampler,
                    conditioning=sampling.conditioning,
                    given=len(pool),
                    batch=sampling.batch,
                    world=sampling.world,
                )
                return {"images": drawn.images}

            arrays = stages.run(
                "views",
                compute,
                images=known.images,
                known=known.cameras,
                cameras=tuple(targets),
                sampling=sampling,
                weights=weights,
            )
            drawn = ViewSet(arrays["images"], tuple(targets))
            views = views + drawn if len(views) else drawn
            if computed:  # a stage of which a part was done before is not one that was spared
                progress.cached = [name for name in progress.cached if name != "views"]
            yield views if self.tiny else ViewSet(cut_from_white(views.images), views.cameras)


def part_of(progress: Progress, done: int, total: int, views: ViewSet) -> Progress:
    """The progress of one part of a stage, counted within the whole, whose previews show earlier views as well.

    Args:
        progress: of the stage.
        done: its steps before this part.
        total: all its steps.
        views: drawn before.
    """

    def report(update: Update) -> None:
        preview = update.preview
        if preview is not None and preview.views is not None and len(views):
            preview = Preview(views=np.concatenate([views.images, preview.views]))
        progress.step(done + update.step, total, preview)

    return Progress(report=report)
