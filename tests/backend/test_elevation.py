from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest

from backend.elevation.matching import match_views
from backend.elevation.solve import (
    ASSUMED_DEG,
    NEAR_MOVES,
    doubt,
    find_transfers,
    reprojection_errors,
    solve_elevation,
)
from backend.geometry.cameras import Camera, project, rays
from backend.preparation.framing import framed_camera

DATA = Path(__file__).parents[1] / "data" / "one2345_elevation.npz"
REFERENCE_PAIRS = ((0, 1), (1, 2), (2, 3))


@pytest.mark.parametrize("case", ["em10_n0p5", "e15_n1p0", "e45_n0p5"])
def test_parity_with_the_published_code(case):
    """Matches of synthetic points with noise, and what One-2-3-45's released search makes of them."""
    with np.load(DATA, allow_pickle=False) as data:
        matches = {(i, j): data[f"{case}__match_{i}_{j}"] for i, j in combinations(range(4), 2)}
        coarse, polar = data[f"{case}__coarse_err"], int(data[f"{case}__est_polar"])
        candidates = 90.0 - data["coarse_polar"]  # its angle is measured from the zenith
    camera = Camera(0.0, 0.0, 1.2, float(2 * np.degrees(np.arctan(128 / 280))))
    transfers = find_transfers(matches, REFERENCE_PAIRS, 4, 256)
    errors = 6 * reprojection_errors(transfers, candidates, NEAR_MOVES, camera=camera, size=256)
    assert errors == pytest.approx(coarse, rel=1e-3)

    estimate = solve_elevation(
        matches, NEAR_MOVES, camera=camera, size=256, triangulate=REFERENCE_PAIRS, outlier_px=np.inf
    )
    assert estimate.candidates[np.argmin(estimate.errors)] == 90 - polar
    assert estimate.elevation_deg == pytest.approx(90 - polar, abs=0.5)
    with_all = solve_elevation(matches, NEAR_MOVES, camera=camera, size=256)
    assert with_all.elevation_deg == pytest.approx(90 - polar, abs=1.0)


def _synthetic_matches(elevation, noise, *, count=150, moves=NEAR_MOVES, seed=0):
    generator = np.random.default_rng(seed)
    camera = framed_camera(elevation)
    points = generator.uniform(-0.35, 0.35, (count, 3))
    pixels = [project(camera.moved(elevation_deg=e, azimuth_deg=a), points, 256)[0] for e, a in moves]
    pixels = [p + generator.normal(0, noise, p.shape) for p in pixels]
    ones = np.ones((count, 1))
    return {(i, j): np.hstack([pixels[i], pixels[j], ones]) for i, j in combinations(range(len(moves)), 2)}


@pytest.mark.parametrize("elevation", [-37.3, 0.0, 14.6, 45.0, 68.9])
@pytest.mark.parametrize("moves", [NEAR_MOVES, ((0.0, 0.0), *NEAR_MOVES), ((0.0, 0.0), (0.0, 12.0), (9.0, -5.0))])
def test_synthetic_points_give_the_angle(elevation, moves):
    solve = {"moves": moves, "camera": framed_camera(0.0), "size": 256}
    exact = solve_elevation(_synthetic_matches(elevation, 0.0, moves=moves), **solve)
    assert exact.source == "estimated"
    assert exact.elevation_deg == pytest.approx(elevation, abs=0.5)
    noisy = solve_elevation(_synthetic_matches(elevation, 0.7, moves=moves), **solve)
    assert noisy.elevation_deg == pytest.approx(elevation, abs=4.0)
    assert exact.spread_deg < noisy.spread_deg
    assert 0 < noisy.confidence < exact.confidence <= 1
    assert (np.diff(exact.candidates) > 0).all()


def test_mismatches_do_not_turn_it():
    """A fifth of the matches led anywhere: the plain mean of the published search would follow them."""
    matches = _synthetic_matches(30.0, 0.3)
    generator = np.random.default_rng(8)
    for rows in matches.values():
        rows[:30, 2:4] = generator.uniform(40, 216, (30, 2))
    estimate = solve_elevation(matches, NEAR_MOVES, camera=framed_camera(0.0), size=256)
    assert estimate.source == "estimated"
    assert estimate.elevation_deg == pytest.approx(30.0, abs=2.0)


def test_without_evidence_it_says_that_it_assumes():
    solve = {"moves": NEAR_MOVES, "camera": framed_camera(0.0), "size": 256}
    few = {pair: rows[:1] for pair, rows in _synthetic_matches(30.0, 0.0).items()}
    generator = np.random.default_rng(1)
    corners = generator.uniform(40, 216, (4, 200, 2))
    anything, nearby = {}, {}
    for i, j in permutations(range(4), 2):  # the corners of each view, found at random places
        anything[i, j] = np.hstack([corners[i], generator.uniform(40, 216, (200, 2)), np.ones((200, 1))])
        nearby[i, j] = np.hstack([corners[i], corners[i] + generator.uniform(-15, 15, (200, 2)), np.ones((200, 1))])
    blank = np.full((4, 64, 64, 4), 255, np.uint8)
    for matches in ({}, few, anything, nearby, match_views(blank), match_views(0 * blank)):
        estimate = solve_elevation(matches, **solve)
        assert (estimate.source, estimate.elevation_deg, estimate.confidence) == ("assumed", ASSUMED_DEG, 0.0)
        assert estimate.spread_deg > 10


def test_triangulation_is_that_of_a_general_solver():
    """Each point's least eigenvector by numpy, with the cameras' own matrices, for right and absurd hypotheses."""
    matches = _synthetic_matches(20.0, 1.0, count=40)
    candidates = np.array([20.0, 24.0, -35.0, 71.0])
    camera, size = Camera(0.0, 0.0, 1.4, 45.0), 256
    transfers = find_transfers(matches, list(combinations(range(4), 2)), 4, size)
    found = reprojection_errors(transfers, candidates, NEAR_MOVES, camera=camera, size=size, limit=30.0)
    for candidate, error in zip(candidates, found, strict=True):
        views = [Camera(candidate + e, a, 1.4, 45.0).image_from_world(size) for e, a in NEAR_MOVES]
        points = []
        for (i, j), rows in transfers.pairs:
            for row in rows:
                equations = [row[2 * k + c] * views[v][2] - views[v][c] for k, v in ((0, i), (1, j)) for c in (0, 1)]
                points.append(np.linalg.svd(equations)[2][-1])
        seen = np.einsum("tij,tj->ti", np.array(views)[transfers.view], np.array(points)[transfers.point])
        away = np.linalg.norm(seen[:, :2] / seen[:, 2:] - transfers.seen, axis=1)
        assert error == pytest.approx(np.minimum(away, 30.0) @ transfers.weight, rel=1e-5)


def _waves(seed: int):
    """A smooth solid texture without symmetry."""
    generator = np.random.default_rng(seed)
    waves = [(generator.normal(0, 15, (3, 3)), generator.uniform(0, 6.28, 3)) for _ in range(12)]
    return lambda points: 128 + 26 * sum(np.sin(points @ direction + phase) for direction, phase in waves)


def _ellipsoid(camera: Camera, size: int, texture, radii=(0.42, 0.3, 0.36)) -> tuple[np.ndarray, np.ndarray]:
    """A ray-traced ellipsoid in a texture's colours: RGBA, and the surface point of each pixel (or NaN)."""
    origin, directions = rays(camera, size)
    o, d = origin / radii, directions / radii
    a, b, c = (d**2).sum(-1), (d * o).sum(-1), (o**2).sum() - 1
    with np.errstate(invalid="ignore"):
        depth = (-b - np.sqrt(b * b - a * c)) / a
    points = origin + depth[..., None] * directions
    hit = np.isfinite(depth)[..., None]
    image = np.concatenate([np.where(hit, np.clip(texture(points), 0, 255), 0), 255 * hit], axis=-1)
    return image.astype(np.uint8), points


def _near_views(elevation: float, size: int, texture, **shape) -> np.ndarray:
    camera = framed_camera(elevation)
    moved = [camera.moved(elevation_deg=e, azimuth_deg=a) for e, a in NEAR_MOVES]
    return np.stack([_ellipsoid(camera, size, texture, **shape)[0] for camera in moved])


@pytest.mark.parametrize("size", [64, 256])
def test_matches_are_the_same_surface_points(size):
    first, second = framed_camera(15.0), framed_camera(15.0, 10.0)
    (image0, points0), (image1, _) = _ellipsoid(first, size, _waves(5)), _ellipsoid(second, size, _waves(5))
    rows = match_views(np.stack([image0, image1]))[0, 1]
    assert len(rows) > 80
    assert ((rows[:, 4] > 0) & (rows[:, 4] <= 1)).all()
    u, v = np.floor(rows[:, :2].T).astype(int)
    assert (image0[v, u, 3] > 0).all()
    u1, v1 = np.floor(rows[:, 2:4].T).astype(int)
    assert (image1[v1, u1, 3] > 0).all()
    # Where each pixel's surface point really goes; the rest within the pixel moves along.
    truth = project(second, points0[v, u], size)[0] + rows[:, :2] - (np.stack([u, v], axis=1) + 0.5)
    error = np.linalg.norm(rows[:, 2:4] - truth, axis=1) * 256 / size
    assert np.median(error) < 1.0
    assert (error < 4).mean() > 0.95


@pytest.mark.parametrize(("size", "elevation"), [(64, 25.0), (64, -12.0), (128, 48.0), (256, 3.0)])
def test_pictures_give_the_elevation(size, elevation):
    """From pixels to degrees on an object whose views are consistent; opaque views on white serve as well."""
    views = _near_views(elevation, size, _waves(7))
    on_white = views.copy()
    on_white[views[..., 3] == 0] = 255
    on_white[..., 3] = 255
    for images in (views, on_white):
        estimate = solve_elevation(match_views(images), NEAR_MOVES, camera=framed_camera(0.0), size=size)
        assert estimate.source == "estimated"
        assert estimate.elevation_deg == pytest.approx(elevation, abs=4.0)
        assert abs(estimate.elevation_deg - elevation) < 4 * estimate.spread_deg
        assert estimate.confidence > 0.4
        assert doubt(estimate) is None


SYMMETRIC = {"radii": (0.4, 0.4, 0.3)}
UNRELIABLE = {
    "flat colour": (lambda points: np.full(points.shape, 150.0), {}),
    "rings about its axis": (lambda points: 128 + 100 * np.sin(40 * points[..., 2:]) + 0 * points, SYMMETRIC),
    "stripes along its axis": (
        lambda points: 128 + 100 * np.sin(6 * np.arctan2(points[..., 1:2], points[..., :1])) + 0 * points,
        SYMMETRIC,
    ),
}


@pytest.mark.parametrize("name", UNRELIABLE)
@pytest.mark.parametrize("size", [64, 256])
def test_what_cannot_be_measured_is_said_to_be_a_guess(name, size):
    texture, shape = UNRELIABLE[name]
    for elevation in (-10.0, 20.0, 50.0):
        views = _near_views(elevation, size, texture, **shape)
        estimate = solve_elevation(match_views(views), NEAR_MOVES, camera=framed_camera(0.0), size=size)
        assert estimate.confidence < 0.35
        words = "assumed" if estimate.source == "assumed" else "guess"
        assert words in doubt(estimate)
        assert f"{estimate.elevation_deg:.0f} degrees" in doubt(estimate)
