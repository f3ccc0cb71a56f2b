"""The published recipe's wiring: what is drawn from what, and from where, with recorders in the networks' places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.elevation.matching import Matcher, match_views
from backend.elevation.solve import Estimate
from backend.generators.zero123.generator import ViewRequest
from backend.generators.zero123.pose import FOV_DEG
from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh, ViewSet
from backend.pipelines.one2345 import published
from backend.pipelines.one2345.pipeline import One2345
from backend.pipelines.one2345.published import Published
from backend.pipelines.one2345.selection import published_cameras
from backend.pipelines.registry import Request
from backend.pipelines.shaping import Elevation, Made
from backend.pipelines.stage import Progress, StageCache, Stages, Update
from backend.preparation.framing import framed_camera
from backend.reconstructors.sparseneus.reconstructor import resampled
from backend.weights.store import WeightsEntry
from protocol.messages import DeviceInfo, Report, Settings

READ = Elevation(23.0, 11.0, "estimated", confidence=0.45)
"""What the regressor makes of every picture."""

MESH = Mesh(np.eye(4, 3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), np.full((4, 4), 255, np.uint8))


def picture() -> NDArray[np.uint8]:
    """A framed picture, noise on a transparent ground."""
    image = np.random.default_rng(0).integers(0, 250, (512, 512, 4), dtype=np.uint8)
    image[..., 3] = 0
    image[64:448, 128:384, 3] = 255
    return image


@dataclass
class Call:
    """One call of the generator."""

    requests: list[ViewRequest]
    options: dict[str, Any]


class Generator:
    """Draws each view in a colour of its own, with one pixel that is nearly white."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.count = 0

    def draw(self, requests: Sequence[ViewRequest], *, progress: Progress, **options: object) -> ViewSet:
        self.calls.append(Call(list(requests), options))
        images = np.zeros((len(requests), 256, 256, 4), np.uint8)
        images[..., 3] = 255
        images[:, 0, 0, :3] = 254
        for image in images:
            self.count += 1
            image[1:, :, :3] = self.count
        return ViewSet(images, tuple(request.target for request in requests))

    @property
    def sizes(self) -> list[int]:
        """How many views each call drew."""
        return [len(call.requests) for call in self.calls]

    @property
    def requests(self) -> list[ViewRequest]:
        """Of all calls."""
        return [request for call in self.calls for request in call.requests]


class Reconstructor:
    """Remembers what it is shown."""

    def __init__(self) -> None:
        self.sources: list[ViewSet] = []

    def reconstruct(self, views: ViewSet, *, progress: Progress) -> SimpleNamespace:
        self.sources.append(views)
        return SimpleNamespace(arrays=lambda: {"volume": np.zeros(1)})

    def restored(self, arrays: object) -> SimpleNamespace:
        return SimpleNamespace(name="published")

    def blend(self, *args: object) -> None:
        raise NotImplementedError


class PreviewNetworks:
    """In the place of the small networks."""

    def elevation(self, picture: NDArray[np.uint8], settings: Settings, stages: Stages) -> Elevation:
        return READ if settings.elevation_deg is None else Elevation.given(settings.elevation_deg)

    def source(self, picture: NDArray[np.uint8], camera: Camera) -> Camera:
        return camera

    def reconstruct(self, source: Camera, stages: Stages) -> SimpleNamespace:
        return SimpleNamespace(name="preview", half=0.6, distance=None, camera=source)

    def coarse_mesh(self, field: object, picture: NDArray[np.uint8], camera: Camera, *, outline: bool) -> Mesh:
        return MESH


class Recipe(Published):
    """The product's recipe on recorders."""

    def __init__(self, weights: str = "zero123-xl", matcher: Matcher = lambda images: {}) -> None:
        super().__init__(weights, "cpu")
        self.generator: Any = Generator()
        self.reconstructor: Any = Reconstructor()
        self.preview: Any = PreviewNetworks()
        self.matched: list[NDArray[np.uint8]] = []
        self.matcher = lambda images: (self.matched.append(images), matcher(images))[1]

    def digest(self, entry: WeightsEntry) -> str:
        return entry.name


@dataclass
class Finished:
    """The calls of `finish`."""

    cameras: list[Camera] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(autouse=True)
def finished(monkeypatch: pytest.MonkeyPatch) -> Finished:
    """What is meshed and painted, in its place."""
    found = Finished()

    def finish(shape: Any, picture: object, camera: Camera, views: object, blend: object, **options: object) -> Mesh:
        found.cameras.append(camera)
        found.fields.append(getattr(shape, "name", "thinned"))
        found.options.append(options)
        return MESH

    monkeypatch.setattr(published, "finish", finish)
    return found


def find(monkeypatch: pytest.MonkeyPatch, degrees: float) -> None:
    """Has the drawn views say where the camera stands."""
    estimate = Estimate(degrees, 2.0, 0.8, "estimated", np.empty(0), np.empty(0))
    monkeypatch.setattr(published, "solve_elevation", lambda *args, **options: estimate)


def make(recipe: Published, settings: Settings | None = None, cache: StageCache | None = None) -> Made:
    return recipe.make([picture()], settings or Settings(), 7, Stages(cache or StageCache(), Progress()))


def report_of(recipe: Published, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Report:
    """What the whole pipeline says of a mesh by the recipe."""
    monkeypatch.setattr(One2345, "installed", lambda self: ("zero123-xl",))
    monkeypatch.setattr(One2345, "make_recipe", lambda self, choice: recipe)
    (output,) = One2345().generate(Request(picture(), settings), device="cpu", cache=StageCache(), progress=Progress())
    return output.report


# -------------------------------------------------------------------------------------------------- the elevation


def test_views_that_cannot_be_matched_are_said_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "could not be matched, so the elevation is only read off the picture: 23° ± 11°"
    chosen: dict[str, Any] = {"weights": "zero123-xl"}
    report = report_of(Recipe(), Settings(options=chosen), monkeypatch)
    assert report.elevation_deg == 23.0
    assert report.elevation_confidence == 0.45
    assert [words in warning for warning in report.warnings].count(True) == 1
    for settings in (
        Settings(options=chosen, elevation_deg=20.0),
        Settings(options={**chosen, "elevation_from": "regression"}),
    ):
        assert not any(words in warning for warning in report_of(Recipe(), settings, monkeypatch).warnings)
    given = report_of(Recipe(), Settings(options=chosen, elevation_deg=20.0), monkeypatch)
    assert given.elevation_confidence is None


def test_how_far_a_match_is_to_be_trusted_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 40.0)
    recipe, cache = Recipe(), StageCache()
    for _ in range(2):  # the second time from the cache
        elevation = make(recipe, cache=cache).elevation
        assert elevation == Elevation(40.0, 2.0, "estimated", confidence=0.8)
    assert len(recipe.matched) == 1
    report = report_of(Recipe(), Settings(options={"weights": "zero123-xl"}), monkeypatch)
    assert (report.elevation_deg, report.elevation_confidence) == (40.0, 0.8)


# --------------------------------------------------------------------------------------------- the field of view


def test_a_field_of_view_does_not_move_what_zero123_draws(finished: Finished) -> None:
    free, told = Recipe(), Recipe()
    made = make(free)
    assert make(told, Settings(fov_deg=20.0)).camera == made.camera
    assert made.camera.fov_deg == pytest.approx(49.13, abs=0.01)
    cameras = [[(request.camera, request.target) for request in recipe.generator.requests] for recipe in (free, told)]
    assert cameras[0] == cameras[1]
    (sources,), (others,) = free.reconstructor.sources, told.reconstructor.sources
    assert sources.cameras == others.cameras  # and with them the cube: see frusta_frame
    assert {camera.fov_deg for camera in sources.cameras} == {made.camera.fov_deg}
    assert finished.cameras == [made.camera, made.camera]


def test_a_field_of_view_does_not_move_what_is_placed_in_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: dict[str, Any] = {"weights": "zero123-xl"}
    report = report_of(Recipe(), Settings(options=chosen, fov_deg=20.0), monkeypatch)
    assert report.camera.fov_deg == pytest.approx(49.13, abs=0.01)  # the mesh's


# ------------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("settings", [Settings(elevation_deg=20.0), Settings(options={"elevation_from": "regression"})])
def test_where_nothing_has_to_be_matched_a_stage_is_one_batch(settings: Settings) -> None:
    recipe = Recipe()
    made = make(recipe, settings)
    assert recipe.generator.sizes == [8, 32]
    assert recipe.matched == []
    assert made.elevation.degrees == (20.0 if settings.elevation_deg else 23.0)


def test_a_kept_preview_stands_as_it_was_built(monkeypatch: pytest.MonkeyPatch, finished: Finished) -> None:
    """It is painted from where it was shaped, though another elevation has been found by then."""
    find(monkeypatch, 40.0)
    progress, begun = Progress(), []

    def report(update: Update) -> None:
        begun.append(update.stage)
        if begun.count("Drawing Around") == 2:
            progress.keep.set()

    progress.report = report
    made = Recipe().make([picture()], Settings(), 7, Stages(StageCache(), progress))
    assert begun.index("Finding the Elevation") < len(begun) - begun[::-1].index("Drawing Around") - 1
    assert made.elevation == READ
    assert finished.fields == ["thinned"]
    assert finished.cameras == [made.camera] == [framed_camera(23.0, 0.0, FOV_DEG)]


@pytest.mark.parametrize(
    ("found", "sizes"), [(28.0, [4, 4, 4, 28]), (28.1, [4, 4, 8, 32]), (18.0, [4, 4, 4, 28]), (17.9, [4, 4, 8, 32])]
)
def test_stable_zero123_is_told_one_elevation(found: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The regressor's, 23 degrees, if that was nearly right; else all is drawn again with the found one."""
    find(monkeypatch, found)
    recipe = Recipe("stable-zero123")
    make(recipe)
    assert recipe.generator.sizes == sizes
    told = {round(request.camera.elevation_deg, 6) for request in recipe.generator.calls[2].requests}
    assert told == {found}
    (sources,) = recipe.reconstructor.sources
    shown = {image[1, 0, 0] for image in sources.images[1:]}
    assert len(shown) == 32
    if len(recipe.generator.calls[2].requests) == 8:
        assert min(shown) > 8 + 8  # none of the near views is one of those that were drawn before
    relative = Recipe()
    make(relative)
    assert relative.generator.sizes == [4, 4, 4, 28]  # it is told turns alone


AROUND = [(0, 0), (0, 90), (0, 180), (0, 270)]
NEAR = [(10, 0), (-10, 0), (0, -10), (0, 10)]
"""(elevation, azimuth) moves of the paper's section 3.3, degrees, here once more in numbers."""


def angles(camera: Camera) -> tuple[float, float]:
    """Elevation and azimuth, with what additions leave rounded away."""
    return round(camera.elevation_deg, 6), round(camera.azimuth_deg, 6)


def expected_requests(read: float, found: float, rise: float) -> list[tuple[int, tuple[float, float], Any]]:
    """(picture, its camera, the move) of all 40 views in the paper's order.

    A picture is 0 for the input, else the number of the view that it was drawn as.
    """
    ring = [(rise, 30), (rise, 120), (rise, 210), (rise, 300)]
    first = [(0, (read, 0.0), move) for move in AROUND]
    first += [(1, (read, 0.0), move) for move in NEAR]
    first += [(0, (found, 0.0), move) for move in ring]
    anchors = [(number, (found, azimuth)) for number, (_, azimuth) in zip((2, 3, 4), AROUND[1:], strict=True)]
    anchors += [(9 + k, (found + rise, azimuth)) for k, (_, azimuth) in enumerate(ring)]
    return first + [(number, camera, move) for number, camera in anchors for move in NEAR]


@pytest.mark.parametrize(("found", "rise"), [(15.0, -30), (14.9, 30), (40.0, -30)])
def test_every_view_is_drawn_from_the_right_picture_and_place(
    found: float, rise: float, monkeypatch: pytest.MonkeyPatch, finished: Finished
) -> None:
    find(monkeypatch, found)
    recipe = Recipe()
    made = make(recipe)
    assert recipe.generator.sizes == [4, 4, 4, 28]

    requests = recipe.generator.requests
    small = resampled(picture(), 256)
    seen = []
    for request in requests:
        if np.array_equal(request.image, small):
            number = 0
        else:
            assert (request.image[0, 0] == 255).all()  # what is nearly white is white before it is drawn from
            number = int(request.image[1, 0, 0])
        camera = angles(request.camera)
        target = angles(request.target)
        seen.append((number, camera, (round(target[0] - camera[0], 6), round(target[1] - camera[1], 6))))
        assert request.camera.distance == request.target.distance == made.camera.distance
        assert request.camera.fov_deg == request.target.fov_deg == made.camera.fov_deg
    expected = [(n, (round(e, 6), a), move) for n, (e, a), move in expected_requests(READ.degrees, found, rise)]
    assert seen == expected

    # the elevation is matched in the near views of the first view, which draws the picture again
    (matched,) = recipe.matched
    assert matched[:, 1, 0, 0].tolist() == [5, 6, 7, 8]
    # the shape is built from the picture and all near views, which have moved to the elevation that was found
    (sources,) = recipe.reconstructor.sources
    assert np.array_equal(sources.images[0], small)
    assert sources.images[1:, 1, 0, 0].tolist() == [5, 6, 7, 8, *range(13, 41)]
    bases = [(found, 0), (found, 90), (found, 180), (found, 270)] + [(found + rise, 30 + 90 * k) for k in range(4)]
    places = [(found, 0), *((e + up, a + turn) for e, a in bases for up, turn in NEAR)]
    assert [angles(camera) for camera in sources.cameras] == [(round(e, 6), a) for e, a in places]
    assert sources.cameras == (made.camera, *list(published_cameras(made.camera).values())[8:])

    assert made.elevation.degrees == found
    assert made.elevation.source == "estimated"
    assert made.views.images[:, 1, 0, 0].tolist() == [*range(1, 5), *range(9, 13), *range(5, 9), *range(13, 41)]
    assert made.views.cameras == tuple(published_cameras(made.camera).values())
    assert finished.fields == ["published"]
    assert finished.cameras == [made.camera]
    assert finished.options[0]["smoothing"] == 0  # the published program smooths nothing


def test_the_same_views_are_drawn_where_the_elevation_is_given() -> None:
    given, read = Recipe(), Recipe()
    made = make(given, Settings(elevation_deg=40.0))
    requests = given.generator.requests
    assert [angles(request.camera) for request in requests[:8]] == [(40.0, 0.0)] * 8
    moves = [*AROUND, (-30, 30), (-30, 120), (-30, 210), (-30, 300)]
    assert [angles(request.target) for request in requests[:8]] == [(40.0 + e, a) for e, a in moves]
    assert [int(request.image[1, 0, 0]) for request in requests[8:]] == [n for n in range(1, 9) for _ in NEAR]
    assert tuple(request.target for request in requests[8:]) == made.views.cameras[8:]
    assert made.views.cameras == tuple(published_cameras(made.camera).values())
    assert make(read, Settings(options={"elevation_from": "regression"})).camera.elevation_deg == 23.0


@pytest.mark.parametrize(
    ("quality", "options", "schedule", "around", "near"),
    [
        ("draft", {}, "dpmsolver++", 8, 8),
        ("standard", {}, "dpmsolver++", 14, 14),
        ("fine", {}, "dpmsolver++", 25, 25),
        ("standard", {"schedule": "fast", "steps": 3}, "dpmsolver++", 3, 3),
        ("draft", {"schedule": "paper"}, "ldm", 75, 50),
        ("fine", {"schedule": "paper"}, "ldm", 75, 50),
        ("standard", {"schedule": "paper", "steps": 20}, "ldm", 20, 20),
    ],
)
def test_how_views_are_drawn(
    quality: Any, options: dict[str, Any], schedule: str, around: int, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, 20.0)
    recipe = Recipe()
    make(recipe, Settings(quality=quality, options=options))
    assert [call.options["steps"] for call in recipe.generator.calls] == [around, near, around, near]
    rest = {
        (call.options["schedule"], call.options["seed"], call.options["guidance"]) for call in recipe.generator.calls
    }
    assert rest == {(schedule, 7, 2.0)}


def test_the_default_costs_as_many_evaluations_as_promised() -> None:
    recipe = Recipe()
    make(recipe)
    assert sum(2 * call.options["steps"] * len(call.requests) for call in recipe.generator.calls) == 1120


# ------------------------------------------------------------------------------------------------------- options


def built(monkeypatch: pytest.MonkeyPatch, device: str = "cpu", **options: Any) -> tuple[Published, dict[str, Any]]:
    """The recipe that options choose, and how it loads its networks."""
    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        return lambda path, device, **keywords: loaded.update({name: keywords})

    monkeypatch.setattr(One2345, "installed", lambda self: ("zero123-xl",))
    monkeypatch.setattr(published, "Zero123Generator", load("generator"))
    monkeypatch.setattr(published, "SparseNeuSReconstructor", load("reconstructor"))
    monkeypatch.setattr(published, "stored_files", lambda entry: [Path(entry.name)])
    pipeline = One2345()
    recipe = pipeline.make_recipe(pipeline.choose(Settings(options={"weights": "zero123-xl", **options}), device))
    assert isinstance(recipe, Published)
    assert (recipe.generator, recipe.reconstructor) == (None, None)
    return recipe, loaded


def test_options_reach_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, loaded = built(monkeypatch)
    assert loaded == {
        "generator": {"low_memory": False, "compiled": False},
        "reconstructor": {"fitted": False, "input_is_source": True},
    }
    assert built(monkeypatch, low_memory="on")[1]["generator"] == {"low_memory": True, "compiled": False}
    assert built(monkeypatch, compile=True)[1]["generator"] == {"low_memory": False, "compiled": True}
    assert built(monkeypatch, fitted_cube=True)[1]["reconstructor"] == {"fitted": True, "input_is_source": True}
    without = built(monkeypatch, picture_is_source=False)[1]["reconstructor"]
    assert without == {"fitted": False, "input_is_source": False}


@pytest.mark.parametrize(
    ("kind", "gigabytes", "short"), [("cuda", 8, True), ("cuda", 10, False), ("cuda", 0, False), ("cpu", 8, False)]
)
def test_a_small_gpu_holds_one_network_at_a_time(
    kind: Any, gigabytes: int, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DeviceInfo(name="a device", kind=kind, memory_total=gigabytes << 30)
    monkeypatch.setattr(published, "describe", lambda device: info)
    for low_memory, expected in (("auto", short), ("on", True), ("off", False)):
        _, loaded = built(monkeypatch, f"{kind}:0", low_memory=low_memory)
        assert loaded["generator"]["low_memory"] is expected


def test_near_views_are_matched_with_loftr_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("backend.elevation.loftr.LoFTRMatcher", lambda *args: (asked.append(args), "loftr")[1])
    monkeypatch.setattr(published, "is_present", lambda entry: False)
    assert built(monkeypatch)[0].matcher is match_views
    monkeypatch.setattr(published, "is_present", lambda entry: True)
    assert built(monkeypatch)[0].matcher == "loftr"
    assert asked == [(Path("loftr-indoor"), "cpu")]
