"""The 3D consistency score (Watson et al. 2022, "3DiM", section 4): do views agree that there is one object?

A field without view dependence is fitted to some of the views; the rest are held out, and compared with what the field
looks like from their cameras. Nothing is compared with the truth: a method that draws the wrong object from all sides
alike scores as high as one that draws the right one. What a score means is seen beside two others at the same cameras:
renders of the true object, which agree as far as such a field can tell, and views of a different object each. The first
bounds views that are as sharp as renders: soft ones leave less to disagree about, and from few views, in which a field
cannot find fine detail, they can score higher than the truth.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.evaluation import metrics
from backend.evaluation.field import SPEC, FieldSpec, fit_field
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.reconstructors.sparseneus.reconstructor import resampled
from protocol.errors import TurnaroundError

SIZE = 64
"""Side in pixels at which views are compared, whatever they were drawn at."""

COUNT = 16
"""Views of the fixed cameras."""

FEWEST = 8
"""Views below which half of them do not say what the others should look like."""

ELEVATIONS_DEG = (10.0, 35.0)
"""Of the fixed cameras, two neighbours at each in turn, so that both halves of the split look from both."""


def fixed_cameras(camera: Camera, count: int = COUNT) -> tuple[Camera, ...]:
    """Cameras all around, evenly, as far away and with the field of view of a picture's camera."""
    return tuple(
        Camera(
            ELEVATIONS_DEG[k // 2 % len(ELEVATIONS_DEG)],
            camera.azimuth_deg + 360 * k / count,
            camera.distance,
            camera.fov_deg,
        )
        for k in range(count)
    )


@dataclass(frozen=True)
class Split:
    """Which views a field is fitted to, and which it is compared with.

    Attributes:
        fitted, held: places in the set of views.
    """

    fitted: tuple[int, ...]
    held: tuple[int, ...]


def every_other(cameras: tuple[Camera, ...]) -> Split:
    """Every other view around the object is held out: a function of the cameras alone, so the same for all methods.

    Raises:
        TurnaroundError: `views.few`, there are less than `FEWEST`.
    """
    if len(cameras) < FEWEST:
        raise TurnaroundError(
            "views.few",
            f"{len(cameras)} views are too few to tell whether they agree.",
            f"Have at least {FEWEST} drawn: ask for more views, or for a higher quality.",
        )
    around = sorted(range(len(cameras)), key=lambda k: (cameras[k].azimuth_deg % 360, cameras[k].elevation_deg))
    return Split(tuple(sorted(around[::2])), tuple(sorted(around[1::2])))


class Distance(Protocol):
    """A perceptual distance of pictures, LPIPS for one."""

    def __call__(self, pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
        """Mean over pairs of uint8 [N, S, S, 4]."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How far held-out views are from what the field makes of the others: means over the held-out views.

    Attributes:
        psnr: in dB, on white.
        ssim: -1 to 1, on white.
        lpips: None without its weights.
        seconds: that fitting and drawing took.
    """

    psnr: float
    ssim: float
    lpips: float | None = None
    seconds: float


def consistency(
    views: ViewSet,
    split: Split | None = None,
    *,
    spec: FieldSpec = SPEC,
    distance: Distance | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Score:
    """The score of any views whose cameras are known.

    Args:
        views: at least `FEWEST`, of any size; what they show lies in the field's cube.
        split: by default `every_other`.
        spec: how the field is fitted.
        distance: of pictures, beside PSNR and SSIM.
        seed: of the fit.
        device: torch device.

    Raises:
        TurnaroundError: `views.few`.
    """
    views = at_size(views)
    split = split or every_other(views.cameras)
    start = time.perf_counter()
    drawn = redrawn(views, split, spec=spec, seed=seed, device=device)
    return compare(drawn, views.images[list(split.held)], time.perf_counter() - start, distance)


def redrawn(
    views: ViewSet, split: Split, *, spec: FieldSpec = SPEC, seed: int = 0, device: str = "cpu"
) -> NDArray[np.uint8]:
    """The held-out views as a field that is fitted to the others shows them, uint8 [H, S, S, 4]."""
    field = fit_field(_chosen(views, split.fitted), spec, seed=seed, device=device)
    return field.draw([views.cameras[k] for k in split.held], views.images.shape[1])


def compare(
    drawn: NDArray[np.uint8], held: NDArray[np.uint8], seconds: float, distance: Distance | None = None
) -> Score:
    """The score of the field's pictures beside the held-out views, uint8 [H, S, S, 4] each."""
    pairs = list(zip(drawn, held, strict=True))
    return Score(
        psnr=float(np.mean([metrics.psnr(image, view) for image, view in pairs])),
        ssim=float(np.mean([metrics.ssim(image, view) for image, view in pairs])),
        lpips=None if distance is None else distance(drawn, held),
        seconds=seconds,
    )


def at_size(views: ViewSet, size: int = SIZE) -> ViewSet:
    """The views at the size at which all are compared."""
    return ViewSet(np.stack([resampled(image, size) for image in views.images]), views.cameras)


def _chosen(views: ViewSet, places: tuple[int, ...]) -> ViewSet:
    return ViewSet(views.images[list(places)], tuple(views.cameras[k] for k in places))
