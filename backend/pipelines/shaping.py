"""What all ways to a mesh have in common: the picture's elevation, and the mesh of a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.elevation.solve import Estimate, doubt
from backend.geometry.cameras import Camera
from backend.geometry.cleanup import clean, decimate
from backend.geometry.colors import Blend, paint
from backend.geometry.mesh import Mesh, ViewSet
from backend.geometry.meshing import extract_surface
from backend.geometry.outline import trace_outline
from backend.pipelines.choosing import TINY
from backend.pipelines.stage import Stages
from backend.reconstructors.base import Field, OutlinedField
from protocol.messages import OptionSpec, Settings

NO_VIEWS = ViewSet(np.zeros((0, 64, 64, 4), np.uint8), ())

OUTLINE = OptionSpec(
    name="outline",
    label="Keep Outline",
    description="Fill the picture's outline where the shape has lost a part of it, and cut away what lies beside it. "
    "Automatic does so with the small weights, which lose what is thin",
    default=True,
    automatic=True,
)
"""A setting of every pipeline that makes its mesh by `finish`."""

CELLS_PER_SMOOTHING = 12
"""One pair of Taubin steps for so many cells: enough to take off the stairs of the network's own, coarser lattice."""


@dataclass(frozen=True)
class Elevation:
    """The elevation that a job works with, in degrees.

    Attributes:
        degrees: above the horizon.
        spread: one standard deviation of an estimate.
        source: where it is from.
        note: what the artist should know of it, "" if nothing.
        confidence: how far an estimate is to be trusted, 0 to 1; None where nothing was measured.
    """

    degrees: float
    spread: float
    source: Literal["given", "estimated", "assumed"]
    note: str = ""
    confidence: float | None = None

    @classmethod
    def given(cls, degrees: float) -> Elevation:
        """The artist's own."""
        return cls(degrees, 0.0, "given")

    @classmethod
    def found(cls, estimate: Estimate) -> Elevation:
        """What was measured, with a word if it is not to be relied on."""
        confidence = estimate.confidence if estimate.source == "estimated" else None
        return cls(estimate.elevation_deg, estimate.spread_deg, estimate.source, doubt(estimate) or "", confidence)


@dataclass(frozen=True)
class Made:
    """What a recipe makes of a picture.

    Attributes:
        mesh: in the object frame.
        views: as drawn.
        elevation: of the picture's camera.
        camera: of the framed picture.
        splats: float32 [N, 14], see `Gaussians.packed`, where the mesh was made of Gaussians.
    """

    mesh: Mesh
    views: ViewSet
    elevation: Elevation
    camera: Camera
    splats: NDArray[np.float32] | None = None


class Recipe(Protocol):
    """The stages from framed pictures to a mesh, with the networks that they need."""

    def make(self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, seed: int, stages: Stages) -> Made:
        """A mesh; names its stages through `stages.progress`.

        Args:
            pictures: framed, uint8 [512, 512, 4]; the first, which gives the frame, and those of
                `settings.extra_pictures`, where the pipeline takes several.
            settings: of the job.
            seed: of the variant.
            stages: of the job.

        Raises:
            TurnaroundError: in words for the artist.
            CancelledError: the job was cancelled.
        """


def keeps_outline(settings: Settings, weights: str = TINY) -> bool:
    """Whether the mesh is to keep the picture's outline: as asked, or as suits the weights."""
    return bool(settings.options.get(OUTLINE.name, weights == TINY))


def outlined(field: Field, picture: NDArray[np.uint8], camera: Camera) -> Field:
    """A shape that keeps to the outline of the framed picture, uint8 [S, S, 4]."""
    return OutlinedField(field, trace_outline(field.distance, field.half, picture[..., 3], camera))


def surface(field: Field, cells: int, smoothing: int | None = None) -> Mesh:
    """The field's zero level without colours, specks removed.

    Args:
        field: the shape.
        cells: along the longest side of its cube.
        smoothing: pairs of Taubin steps; None takes what the grid's fineness asks for.
    """
    half = field.half
    vertices, faces = extract_surface(field.distance, cells, ((-half,) * 3, (half,) * 3))
    grey = np.full((len(vertices), 4), 255, np.uint8)
    steps = max(1, cells // CELLS_PER_SMOOTHING) if smoothing is None else smoothing
    return clean(Mesh(vertices, faces, grey), keep_fraction=0.02, smooth_steps=steps)


def finish(
    field: Field,
    picture: NDArray[np.uint8],
    camera: Camera,
    views: ViewSet | None,
    blend: Blend | None,
    *,
    settings: Settings,
    stages: Stages,
    weights: str,
    outline: bool,
    smoothing: int | None = None,
    trust: float = 1.0,
) -> Mesh:
    """The result: meshed, cleaned, decimated if asked for, and painted last, so that no colour is lost.

    Args:
        field: the shape.
        picture: framed.
        camera: its camera.
        views: the drawn views that see the rest; None where the blend knows all of it.
        blend: see `paint`; a part of no key, as it follows from the views and the field.
        settings: resolution and target faces.
        stages: the job's.
        weights: digest of those that field and colours depend on.
        outline: whether the shape has to keep to the picture's outline.
        smoothing: see `surface`.
        trust: see `paint`.
    """

    def compute() -> dict[str, NDArray[Any]]:
        shape = outlined(field, picture, camera) if outline else field
        mesh = surface(shape, settings.resolution, smoothing)
        if settings.target_faces is not None:
            mesh = decimate(mesh, settings.target_faces)
        return vars(paint(mesh, picture, camera, views, blend, trust))

    arrays = stages.run(
        "meshing",
        compute,
        field=field.arrays(),
        picture=picture,
        camera=camera,
        views=None if views is None else views.images,
        cameras=None if views is None else views.cameras,
        resolution=settings.resolution,
        target_faces=settings.target_faces,
        outline=outline,
        smoothing=smoothing,
        trust=trust,
        weights=weights,
    )
    return Mesh(arrays["vertices"], arrays["faces"], arrays["colors"])
