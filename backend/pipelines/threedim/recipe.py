"""From pictures to a mesh in 3DiM's order.

    elevation -> shape from the pictures alone (the preview) -> views, one after the other -> shape from all -> mesh

Nothing but the pictures is known when the views are drawn. The result is the mean of two signed distances, as in the
small One-2-3-45: what the pictures alone say, and what they and the drawn views say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from backend.generators.xunet.diffusion import Sampler
from backend.generators.xunet.stochastic import Conditioning
from backend.generators.xunet.worlds import World
from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.overpaint import paint_over
from backend.pipelines.choosing import AUTO, TINY
from backend.pipelines.one2345.selection import view_cameras
from backend.pipelines.shaping import NO_VIEWS, Made, finish, keeps_outline
from backend.pipelines.shipped import EXCESS
from backend.pipelines.stage import KeepError, Preview, Stages
from backend.pipelines.threedim.networks import Networks, Sampling
from backend.preparation.framing import framed_camera
from backend.reconstructors.base import Field, MixedField, ThinnedField
from backend.reconstructors.sparseneus.reconstructor import resampled
from backend.weights.store import tiny_path, weights_digest
from protocol.messages import Direction, Settings

TINY_SHARE, DRAWN_SHARE = 0.0, 0.4
"""What the shape from all views counts beside the shape from the pictures alone: with the small weights, whose views
have the right colours and too rough outlines, and with others. See docs/results.md."""

DRAWN_TRUST = 0.005
"""See `paint`: views of 64 pixels have the right colours and not the details."""

PUBLISHED_GUIDANCE = 2.0
"""What the public training samples with."""

NEAR_DEG = 20.0
"""A view that would be drawn so near to a picture is left out: the picture is better."""


@dataclass(frozen=True)
class Effort:
    """What a quality means.

    Attributes:
        views: drawn views.
        steps: denoising steps of each.
    """

    views: int
    steps: int


QUALITIES = {"draft": Effort(4, 16), "standard": Effort(8, 32), "fine": Effort(16, 64)}

TINY_SAMPLER: Sampler = "ancestral"
"""With noise anew at every step, all views that a step looks at have a say in the next; without, the first few decide.
Views agree better for it, see docs/results.md."""

TINY_CONDITIONING: Conditioning = "anchored"
"""Views agree better than by an even choice, and are nearer to the truth, see docs/results.md."""

TINY_STEPS = 0.5
"""Of a quality's steps, those that suit the small weights: more draw bolder views, which agree less."""


class ThreeDimRecipe:
    """A `Recipe`: pictures to a mesh, or to further views.

    Args:
        weights: of the view generator, see `Networks`.
        device: torch device.
    """

    def __init__(self, weights: str, device: str) -> None:
        self.weights, self.networks = weights, Networks(weights, device)

    def make(self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, seed: int, stages: Stages) -> Made:
        """See `Recipe`; where `settings.look_from` asks for views, those and an empty mesh."""
        networks, progress = self.networks, stages.progress
        progress.begin("Finding the Elevation", (0.05, 0.08))
        elevation = networks.elevation(pictures[0], settings, stages)
        camera = framed_camera(elevation.degrees, 0.0, settings.fov_deg or networks.fov_deg)
        cameras = [camera, *(directed(camera, direction) for direction in settings.extra_pictures)]
        sampling, views = chosen_sampling(settings, seed, self.weights), chosen_views(settings)
        targets = [target for target in view_cameras(camera, views) if not near_any(target, cameras[1:])]
        if settings.look_from:
            targets += [directed(camera, direction) for direction in settings.look_from]
            progress.begin("Drawing Views", (0.08, 1.0))
            *_, drawn = networks.draw(networks.pool(pictures, cameras), targets, sampling, stages)
            asked = len(settings.look_from)
            return Made(NO_MESH, ViewSet(drawn.images[-asked:], drawn.cameras[-asked:]), elevation, camera)

        progress.begin("Shaping the Preview", (0.08, 0.15))
        size = networks.reconstructor.config.image_size
        source = ViewSet(np.stack([resampled(picture, size) for picture in pictures]), tuple(cameras))
        field: Field = networks.reconstruct(source, stages)
        coarse = networks.coarse_mesh(field, pictures[0], camera, outline=keeps_outline(settings))

        progress.begin("Drawing Views", (0.15, 0.85), Preview(mesh=coarse), can_keep=True)
        drawn = NO_VIEWS
        try:
            if targets:
                for drawn in networks.draw(networks.pool(pictures, cameras), targets, sampling, stages):  # noqa: B007
                    pass
        except KeepError:  # those that are finished are enough
            progress.keep.clear()

        progress.begin("Building the Shape", (0.85, 0.92), Preview(views=drawn.images) if len(drawn) else None)
        blend, share = None, TINY_SHARE if self.weights == TINY else DRAWN_SHARE
        if len(drawn) and share:
            small = ViewSet(np.stack([resampled(image, size) for image in drawn.images]), drawn.cameras)
            everything = networks.reconstruct(source + small, stages)
            blend = partial(networks.reconstructor.blend, source + small, everything)
            field = MixedField(field, everything, share)
        progress.begin("Meshing", (0.92, 1.0))
        mesh = finish(
            ThinnedField(field, EXCESS),
            pictures[0],
            camera,
            drawn if share else NO_VIEWS,
            blend,
            settings=settings,
            stages=stages,
            weights=weights_digest(tiny_path("sparseneus")),
            outline=keeps_outline(settings),
            trust=DRAWN_TRUST,
        )
        if len(pictures) > 1:
            mesh = paint_over(mesh, pictures, cameras)
        return Made(mesh, drawn, elevation, camera)


NO_MESH = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 4), np.uint8))


def directed(camera: Camera, direction: Direction) -> Camera:
    """The camera that looks from a direction and is otherwise like the first picture's, whose azimuth is 0."""
    elevation = camera.elevation_deg if direction.elevation_deg is None else direction.elevation_deg
    return Camera(elevation, direction.azimuth_deg, camera.distance, camera.fov_deg)


def near_any(target: Camera, cameras: Sequence[Camera]) -> bool:
    """Whether a camera looks from within `NEAR_DEG` of any of some others."""
    towards = [camera.position / camera.distance for camera in cameras]
    own = target.position / target.distance
    return any(float(own @ other) > np.cos(np.radians(NEAR_DEG)) for other in towards)


def chosen_views(settings: Settings) -> int:
    """How many views are drawn for the mesh."""
    return int(settings.options.get("views", QUALITIES[settings.quality].views))


def chosen_sampling(settings: Settings, seed: int, weights: str = TINY) -> Sampling:
    """How they are drawn: what the quality and the weights mean, unless the options say otherwise."""
    options = settings.options
    world = World(float(options.get("picture_azimuth", 0.0)), float(options.get("camera_distance", 0.0)))
    tiny = weights == TINY
    sampler, conditioning = (options.get(name, AUTO) for name in ("sampler", "conditioning"))
    return Sampling(
        seed=seed,
        steps=int(options.get("steps", round((TINY_STEPS if tiny else 1) * QUALITIES[settings.quality].steps))),
        guidance=float(options.get("guidance", 0.0 if tiny else PUBLISHED_GUIDANCE)),
        sampler=cast(Sampler, (TINY_SAMPLER if tiny else "ddim") if sampler == AUTO else sampler),
        conditioning=cast(
            Conditioning, (TINY_CONDITIONING if tiny else "stochastic") if conditioning == AUTO else conditioning
        ),
        batch=int(options.get("batch", 1)),
        world=World() if tiny else world,
    )
