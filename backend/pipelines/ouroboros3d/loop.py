"""The loop that gives Ouroboros3D its name: views are drawn, reconstructed, and the reconstruction is drawn from.

    noise -> views as they seem to be -> Gaussians -> maps of them from every view -> the next step, which sees the maps

A shape therefore exists after every step (Wen et al. 2024, section 3.2 and algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backend.generators.multiview_svd.cameras import network_cameras
from backend.generators.multiview_svd.generator import MultiviewGenerator
from backend.generators.multiview_svd.network import Cameras, Maps
from backend.generators.multiview_svd.sampling import Step
from backend.geometry.cameras import Camera
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.mesh import ViewSet
from backend.pipelines.ouroboros3d.feedback import maps_of
from backend.reconstructors.lgm.frame import first_camera_frame
from backend.reconstructors.lgm.reconstructor import LGMReconstructor, require_visible


@dataclass(frozen=True)
class Feeding:
    """Which steps are shown the reconstruction; steps count from 1, and the first has nothing to be shown.

    Attributes:
        every: a new reconstruction for every so many steps; those between are shown the last one.
        begin: share of the steps from which on they are shown it.
        end: share of the steps up to which they are; 0 draws the views first and reconstructs them afterwards, the
            two-stage baseline that the paper compares itself with.
    """

    every: int = 1
    begin: float = 0.0
    end: float = 1.0

    def shows(self, number: int, total: int) -> bool:
        """Whether a step is shown a reconstruction."""
        return self.begin * total < number <= self.end * total

    def renews(self, number: int) -> bool:
        """Whether it is a new one, where there is an older one."""
        return (number - 2) % self.every == 0


@dataclass(frozen=True)
class State:
    """What there is after a step; the shape is reconstructed when it is first asked for.

    Attributes:
        step: of the generator.
        views: as they seem to be, opaque on white, with their cameras in the object frame.
        cameras: of the views, in the networks' frame.
        reconstructor: of the shape.
    """

    step: Step
    views: ViewSet
    cameras: Cameras
    reconstructor: LGMReconstructor

    @cached_property
    def gaussians(self) -> Gaussians:
        """[1, N] in the networks' frame.

        Raises:
            TurnaroundError: `shape.broken`.
        """
        pictures = (self.step.images / 2 + 0.5).clamp(0, 1)
        return self.reconstructor.look(pictures, *self.cameras, self.step.timestep.float())

    @cached_property
    def shape(self) -> Gaussians:
        """[N] in the object frame, with unit quaternions.

        Raises:
            TurnaroundError: `shape.broken`; `shape.empty`, if nothing of it is to be seen.
        """
        found, config = self.gaussians.index(0), self.reconstructor.config
        require_visible(found)
        frame = first_camera_frame(self.views.cameras[0], config.radius)
        return frame.to_object(found if config.rotation == "each" else found.with_unit_quaternions())

    def maps(self, size: int) -> Maps:
        """What the next step is shown."""
        return maps_of(self.gaussians, self.cameras, size, self.reconstructor.config)


def draw(
    generator: MultiviewGenerator,
    reconstructor: LGMReconstructor,
    image: NDArray[np.uint8],
    camera: Camera,
    *,
    seed: int,
    steps: int,
    guidance: tuple[float, float] | None = None,
    feeding: Feeding | None = None,
) -> Iterator[State]:
    """Draws the views of an orbit while looking at their reconstruction.

    Args:
        generator: of the views.
        reconstructor: of the shape.
        image: uint8 [S, S, 4], straight-alpha sRGB, framed.
        camera: where it was taken from.
        seed: the same seed draws the same views.
        steps: denoising steps.
        guidance: weights of the picture for the first view and the last; None takes the generator's own.
        feeding: which steps are shown the reconstruction; None shows it to all but the first, as published.

    Yields:
        The state after each step, the last of them the result.

    Raises:
        TurnaroundError: `views.diverged`, `shape.broken`.
    """
    feeding = feeding or Feeding()
    cameras = network_cameras(generator.config, [camera.elevation_deg])
    state: State | None = None
    shown: Maps | None = None

    def look(step: Step) -> Maps | None:
        nonlocal shown
        number = step.number + 1
        if not feeding.shows(number, step.total):
            return None
        if shown is None or feeding.renews(number):
            assert state is not None
            shown = state.maps(generator.config.size)
        return shown

    for step in generator.draw(image, camera, seed=seed, steps=steps, guidance=guidance, feedback=look):
        state = State(step, generator.views(step, camera), cameras, reconstructor)
        yield state
