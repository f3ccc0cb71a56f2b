"""Training episodes: an object framed as its input picture frames it, that picture, and views from elsewhere.

An episode stands in the frame that the pipeline works in: upright, the input camera at azimuth 0, scaled and shifted so
that the subject is centred in the input picture and fills `FILL` of it. The camera is therefore all that a network has
to know about a picture, and the field of view and elevation are all that is unknown about the camera.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.render import Light, Scene, prepare, render
from backend.pipelines.stage import digest
from backend.preparation.framing import DEFAULT_FOV_DEG, FILL, framed_camera
from backend.training.data.meshes import MeshFile, load_mesh, occupancy, sample_surface, signed_distance

CUBE_HALF = 0.6
"""Half the side of the cube that reconstructors fill; episodes are chosen so that the object lies within it."""


@dataclass(frozen=True)
class EpisodeSpec:
    """How episodes are drawn; a part of the cache's key.

    Attributes:
        size: side of the pictures in pixels.
        episodes: input pictures per object.
        views: pictures per episode, the input first.
        surface_points: points per object kept for sampling near the surface.
        seed: of everything random.
    """

    size: int = 64
    episodes: int = 8
    views: int = 10
    surface_points: int = 4096
    seed: int = 0

    @property
    def fovs_deg(self) -> tuple[float, float]:
        """Between which the input cameras' fields of view lie."""
        return 25.0, 55.0

    def cameras(self, camera: Camera, rng: np.random.Generator) -> list[Camera]:
        """Of an episode, the input's first."""
        return [camera, *sample_targets(camera, self.views - 1, rng)]


@dataclass(frozen=True)
class OrbitSpec(EpisodeSpec):
    """Episodes with the views of an orbit at the input's elevation before all others.

    Attributes:
        azimuths_deg: of the orbit, the input's own 0 first.
        fov_deg: of every camera.
    """

    episodes: int = 3
    azimuths_deg: tuple[float, ...] = (0.0,)
    views: int = 12
    fov_deg: float = DEFAULT_FOV_DEG

    @property
    def fovs_deg(self) -> tuple[float, float]:
        """See `EpisodeSpec`."""
        return self.fov_deg, self.fov_deg

    def cameras(self, camera: Camera, rng: np.random.Generator) -> list[Camera]:
        """See `EpisodeSpec`."""
        orbit = [camera.moved(azimuth_deg=azimuth) for azimuth in self.azimuths_deg]
        return [*orbit, *sample_targets(camera, self.views - len(orbit), rng)]


@dataclass(frozen=True)
class Placement:
    """Where an object stands in an episode: x -> scale * R_z(-azimuth) x + translation."""

    azimuth_deg: float
    scale: float
    translation: NDArray[np.float64]

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Turns the object so that what faced `azimuth_deg` faces -Y, [3, 3]."""
        a = -np.radians(self.azimuth_deg)
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])

    def apply(self, points: NDArray) -> NDArray:
        """Object points [N, 3] in the episode's frame."""
        return self.scale * points @ self.rotation.T + self.translation


def place(vertices: NDArray, azimuth_deg: float, camera: Camera) -> Placement:
    """Scale and shift that centre the object's projection and let it fill `FILL` of the camera's square.

    The object's middle along the view axis stays at the camera's distance. Found by fixed-point iteration; perspective
    makes it converge in a few rounds rather than at once, and the limited step keeps long objects seen from one end
    from being thrown behind the camera.
    """
    turned = Placement(azimuth_deg, 1.0, np.zeros(3)).apply(vertices.astype(np.float64))
    right, down, forward = camera.world_from_camera()[:3, :3].T
    half_width = camera.distance * np.tan(np.radians(camera.fov_deg) / 2)
    scale, translation = 1.0, np.zeros(3)
    for _ in range(24):
        points = scale * turned + translation - camera.position
        x, y, z = points @ right, points @ down, points @ forward
        tangent = np.tan(np.radians(camera.fov_deg) / 2)
        u, v = x / (z * tangent), y / (z * tangent)
        low, high = np.array([u.min(), v.min()]), np.array([u.max(), v.max()])
        factor = float(np.clip(2 * FILL / max(float((high - low).max()), 1e-6), 0.8, 1.25))
        shift = (low + high) / 2 * half_width
        translation -= shift[0] * right + shift[1] * down + ((z.min() + z.max()) / 2 - camera.distance) * forward
        scale, translation = scale * factor, translation * factor
    return Placement(azimuth_deg, scale, translation)


def sample_input(
    vertices: NDArray,
    rng: np.random.Generator,
    fovs_deg: tuple[float, float] = EpisodeSpec().fovs_deg,
    elevations_deg: tuple[float, float] = (-5.0, 40.0),
) -> tuple[Placement, Camera]:
    """A view that somebody would take: not so much from one end that the object leaves the cube behind."""
    best: tuple[float, Placement, Camera] | None = None
    for _ in range(8):
        camera = framed_camera(rng.uniform(*elevations_deg), 0.0, rng.uniform(*fovs_deg))
        placement = place(vertices, rng.uniform(-180, 180), camera)
        extent = float(np.abs(placement.apply(vertices)).max())
        if best is None or extent < best[0]:
            best = extent, placement, camera
        if extent <= CUBE_HALF:
            break
    assert best is not None
    return best[1], best[2]


def sample_targets(camera: Camera, count: int, rng: np.random.Generator) -> list[Camera]:
    """Cameras around the object: two near the input, the rest spread over all sides."""
    near = [camera.moved(elevation_deg=rng.uniform(-15, 15), azimuth_deg=rng.uniform(-20, 20)) for _ in range(2)]
    far = max(count - len(near), 0)
    turns = (np.arange(far) + rng.random(far)) * 360 / max(far, 1)
    around = [Camera(rng.uniform(-15, 60), a, camera.distance, camera.fov_deg) for a in turns]
    return (near + around)[:count]


def sample_light(rng: np.random.Generator) -> Light:
    """Light mostly from the viewer's half, above."""
    return Light(rng.uniform(-100, 100), rng.uniform(15, 80), rng.uniform(0.4, 0.7))


@dataclass(frozen=True)
class ObjectData:
    """All that is kept of one object: see `Dataset` for shapes."""

    images: NDArray[np.uint8]
    depths: NDArray[np.float16]
    cameras: NDArray[np.float32]
    placements: NDArray[np.float32]
    sdf: NDArray[np.int8]
    surface: NDArray[np.float16]


def make_object(file: MeshFile, spec: EpisodeSpec) -> ObjectData:
    """Renders an object's episodes and measures its distances; the same file and spec give the same data."""
    rng = np.random.default_rng(int(digest(file.name, spec.seed)[:15], 16))
    mesh = load_mesh(file.path)
    scene = prepare(mesh)
    images, depths, cameras, placements = [], [], [], []
    for _ in range(spec.episodes):
        placement, camera = sample_input(mesh.vertices, rng, spec.fovs_deg)
        light = sample_light(rng)
        placed = place_scene(scene, placement)
        views = spec.cameras(camera, rng)
        renderings = [render(placed, view, spec.size, light) for view in views]
        images.append([r.rgba for r in renderings])
        depths.append([r.depth for r in renderings])
        cameras.append([[v.elevation_deg, v.azimuth_deg, v.distance, v.fov_deg] for v in views])
        placements.append([placement.azimuth_deg, placement.scale, *placement.translation])
    return ObjectData(
        np.array(images, np.uint8),
        np.array(depths, np.float16),
        np.array(cameras, np.float32),
        np.array(placements, np.float32),
        signed_distance(occupancy(mesh)),
        sample_surface(mesh, spec.surface_points, rng).astype(np.float16),
    )


def place_scene(scene: Scene, placement: Placement) -> Scene:
    """The scene as it stands in the episode."""
    return scene.transformed(placement.rotation, placement.scale, placement.translation)


@dataclass(frozen=True)
class Dataset:
    """Episodes of N objects, memory-mapped from the cache.

    Attributes:
        names: of the meshes.
        images: uint8 [N, E, V, S, S, 4], straight alpha; view 0 is the input.
        depths: float16 [N, E, V, S, S].
        cameras: float32 [N, E, V, 4]: elevation, azimuth (degrees), distance, field of view.
        placements: float32 [N, E, 5]: azimuth of the object, scale, translation.
        sdf: int8 [N, G, G, G], see `signed_distance`; in the object's own frame, not the episode's.
        surface: float16 [N, P, 3], in the object's own frame.
    """

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    depths: NDArray[np.float16]
    cameras: NDArray[np.float32]
    placements: NDArray[np.float32]
    sdf: NDArray[np.int8]
    surface: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.names)


PARTS = ("images", "depths", "cameras", "placements", "sdf", "surface")


def build(files: list[MeshFile], spec: EpisodeSpec, cache: Path, *, workers: int = 2) -> Dataset:
    """The dataset of these meshes, from the cache folder if it is there, else made and kept there."""
    stamp = [(f.name, f.path.stat().st_size) for f in files]
    folder = cache / f"episodes-{digest(stamp, spec)[:16]}"
    if not folder.is_dir():
        # made aside and renamed when whole: two runs at once, or one that is stopped, leave no half a cache
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as temporary:
            making = Path(temporary) / "episodes"
            making.mkdir()
            _write(files, spec, making, workers)
            (making / "names.txt").write_text("\n".join(f.name for f in files), encoding="utf-8")
            if not folder.is_dir():
                making.rename(folder)
    names = tuple((folder / "names.txt").read_text(encoding="utf-8").splitlines())
    return Dataset(names, *(np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS))


def _write(files: list[MeshFile], spec: EpisodeSpec, folder: Path, workers: int) -> None:
    arrays: dict[str, np.memmap] = {}
    for index, data in enumerate(_made(files, spec, workers)):
        for part in PARTS:
            value = getattr(data, part)
            if index == 0:
                arrays[part] = np.lib.format.open_memmap(
                    folder / f"{part}.npy", mode="w+", dtype=value.dtype, shape=(len(files), *value.shape)
                )
            arrays[part][index] = value
    for array in arrays.values():
        array.flush()


def _made(files: list[MeshFile], spec: EpisodeSpec, workers: int) -> Iterator[ObjectData]:
    if workers <= 1:
        yield from (make_object(file, spec) for file in files)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(partial(make_object, spec=spec), files, chunksize=8)
