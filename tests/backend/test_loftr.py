"""LoFTR as the elevation's matcher: kornia's network with random weights, and a stand-in that matches perfectly."""

from itertools import combinations

import numpy as np
import pytest
import torch

from backend.elevation.loftr import LoFTRMatcher, build
from backend.elevation.solve import NEAR_MOVES, solve_elevation
from backend.geometry.cameras import project
from backend.preparation.framing import framed_camera
from backend.weights.store import save_weights
from protocol.errors import TurnaroundError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("loftr") / "loftr.safetensors"
    save_weights(path, build().state_dict(), {})
    return path


def _views(size=96):
    """A textured square, at the left of one view, at the right of another, and the first once more on white."""
    texture = np.random.default_rng(0).integers(0, 200, (size // 2, size // 2, 3)).astype(np.uint8)
    views = np.zeros((3, size, size, 4), np.uint8)
    for view, left in zip(views, (4, size // 2 - 8, 4), strict=True):
        view[size // 4 : 3 * size // 4, left : left + size // 2] = np.dstack([texture, np.full(texture.shape[:2], 255)])
    views[2][views[2][..., 3] == 0] = 255
    return views


def test_the_network_matches_a_view_with_itself(weights):
    """Random features still are alike where pictures are; that is enough to see that pixels stay pixels."""
    views = _views()
    matches = LoFTRMatcher(weights, side=128, min_confidence=0.0)(views)
    assert set(matches) == set(combinations(range(3), 2))
    rows = matches[0, 2]  # alpha or white, it is the same picture
    assert len(rows) > 5
    assert rows.dtype == np.float32
    grid = rows[:, :2] * 128 / 96 / 8
    assert np.allclose(grid, grid.round(), atol=1e-4)  # LoFTR's coarse cells
    same = np.linalg.norm(rows[:, 2:4] - rows[:, :2], axis=1) < 4
    assert same.mean() > 0.5
    for (i, j), found in matches.items():
        for view, ends in ((i, found[:, :2]), (j, found[:, 2:4])):
            u, v = np.floor(ends).astype(int).T
            assert ((views[view, v, u, 3] > 0) & (views[view, v, u, :3] < 255).any(axis=-1)).all()
    both = LoFTRMatcher(weights, side=128, min_confidence=0.0)
    both.pairs_at_once = 6
    together = both(views)
    for pair, rows in matches.items():
        assert np.allclose(together[pair], rows, atol=1e-3)
    assert all(len(rows) == 0 for rows in LoFTRMatcher(weights, side=128)(views).values())  # nothing is sure enough


class Perfect(torch.nn.Module):
    """Answers with the true places of points, in pixels of the network's picture, in LoFTR's form."""

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__()
        self.pixels = torch.from_numpy(pixels).float()

    def extract_features(self, images):
        assert images.shape[1:] == (1, 480, 480)
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        return {"coarse": torch.arange(len(images))}

    def forward(self, data):
        first, second = data["features0"]["coarse"], data["features1"]["coarse"]
        count = self.pixels.shape[1]
        return {
            "keypoints0": self.pixels[first].flatten(0, 1),
            "keypoints1": self.pixels[second].flatten(0, 1),
            "confidence": torch.full((len(first) * count,), 0.5),
            "batch_indexes": torch.arange(len(first)).repeat_interleave(count),
        }


@pytest.mark.parametrize("at_once", [1, 6])
def test_matches_reach_the_elevation(weights, at_once):
    camera, size = framed_camera(33.0), 256
    points = np.random.default_rng(1).uniform(-0.25, 0.25, (100, 3))
    pixels = [project(camera.moved(elevation_deg=e, azimuth_deg=a), points, 480)[0] for e, a in NEAR_MOVES]
    views = np.zeros((4, size, size, 4), np.uint8)
    views[:, 30:226, 30:226] = (90, 120, 40, 255)
    matcher = LoFTRMatcher(weights)
    matcher.network, matcher.pairs_at_once = Perfect(np.stack(pixels)), at_once
    matches = matcher(views)
    assert all(len(rows) == 100 for rows in matches.values())
    estimate = solve_elevation(matches, NEAR_MOVES, camera=framed_camera(0.0), size=size)
    assert estimate.elevation_deg == pytest.approx(33.0, abs=0.1)
    assert estimate.confidence > 0.7


def test_each_end_is_looked_up_in_its_own_view(weights):
    """The published filter takes y from one set of keypoints and x from the other: it would
    drop the first and keep the second."""
    size = 60
    views = np.full((2, size, size, 4), 255, np.uint8)
    views[0, 10:30, 40:60, :3] = 50
    views[1, 40:60, 10:60, :3] = 50
    ends = np.array([[[50, 20], [20, 20], [50, 20]], [[20, 50], [50, 50], [50, 20]]])
    matcher = LoFTRMatcher(weights)
    matcher.network = Perfect(ends * (480 // size))
    rows = matcher(views)[0, 1]
    assert rows[:, :4].tolist() == [[50, 20, 20, 50]]


def test_wrong_weights_are_named(weights, tmp_path):
    with pytest.raises(TurnaroundError) as caught:
        LoFTRMatcher(tmp_path / "absent.safetensors")
    assert caught.value.code == "weights.missing"
    state = build().state_dict()
    state.pop("backbone.conv1.weight")
    save_weights(tmp_path / "part.safetensors", state, {})
    with pytest.raises(TurnaroundError) as caught:
        LoFTRMatcher(tmp_path / "part.safetensors")
    assert caught.value.code == "weights.mismatch"
    assert "backbone.conv1.weight" in caught.value.details
