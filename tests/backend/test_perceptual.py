"""LPIPS and FID: the published layouts are read, and the numbers are what their definitions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import weights_samples as samples
from scipy.linalg import sqrtm
from torch import Tensor

from backend.cli.evaluate.consistency import measures
from backend.evaluation.fid import FidDistance, frechet_distance
from backend.evaluation.inception import Inception, Mixed
from backend.evaluation.lpips import LAYERS, POOLED, SCALE, SHIFT, LpipsDistance
from backend.weights.install import import_from, verify
from backend.weights.store import find_entry, is_present, stored_files
from protocol.errors import TurnaroundError


@pytest.fixture(autouse=True)
def _weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))


def imported(name: str, source: Path) -> Path:
    entry = find_entry(name)
    import_from(entry, source)
    verify(entry)
    assert is_present(entry)
    return stored_files(entry)[0]


def random_pictures(seed: int, count: int = 2, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 4), np.uint8)


@pytest.fixture
def lpips(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Both files under their published names, and all that is in them."""
    torch.manual_seed(0)
    alexnet: dict[str, Tensor] = {}
    for number, before, after, kernel, *_ in LAYERS:
        alexnet[f"features.{number}.weight"] = torch.randn(after, before, kernel, kernel) / kernel / before**0.5
        alexnet[f"features.{number}.bias"] = torch.randn(after) / 10
    linear = {f"lin{k}.model.1.weight": torch.rand(1, sizes[2], 1, 1) for k, sizes in enumerate(LAYERS)}
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save({**alexnet, "classifier.6.bias": torch.zeros(1000)}, folder / "alexnet-owt-7be5be79.pth")
    torch.save(linear, folder / "alex.pth")
    return folder, alexnet | linear


def test_lpips_is_what_its_definition_says(lpips: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = lpips
    distance = LpipsDistance(imported("lpips-alex", folder))
    one, other = random_pictures(0), random_pictures(1)
    one[..., 3] = other[..., 3] = 255

    def features(images: np.ndarray) -> list[Tensor]:
        x = torch.from_numpy(images[..., :3]).permute(0, 3, 1, 2) / 127.5 - 1
        x = torch.stack([(x[:, c] - SHIFT[c]) / SCALE[c] for c in range(3)], dim=1)
        found = []
        for number, _, _, _, stride, padding in LAYERS:
            x = F.max_pool2d(x, 3, 2) if number in POOLED else x
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            found.append(F.normalize(x, dim=1))
        return found

    pairs = enumerate(zip(features(one), features(other), strict=True))
    expected = sum(((a - b) ** 2 * state[f"lin{k}.model.1.weight"]).sum(1).mean() for k, (a, b) in pairs)
    assert distance(one, other) == pytest.approx(float(expected), rel=1e-4)
    assert distance(one, one) == 0
    near = np.clip(one.astype(int) + 8, 0, 255).astype(np.uint8)
    assert 0 < distance(one, near) < distance(one, other)
    hidden = one.copy()
    hidden[..., 3] = 0
    assert distance(hidden, np.full_like(one, 255)) == 0, "on white"


def test_half_of_lpips_is_refused(lpips: tuple[Path, dict[str, Tensor]]) -> None:
    folder, _ = lpips
    (folder / "alex.pth").unlink()
    with pytest.raises(TurnaroundError, match=r"alex\.pth"):
        imported("lpips-alex", folder)


def test_the_distance_of_normals_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (40, 5)) @ rng.normal(0, 1, (5, 5))
    b = rng.normal(1, 2, (60, 5))
    s, t = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(sqrtm(s @ t)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a[:3], a[:3] + 2) == pytest.approx(4 * 5), "fewer samples than features"


def test_inception_is_read_and_tells_sets_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = samples.shapes(Inception)
    assert sum(int(np.prod(shape)) for name, shape in state.items() if "running" not in name) == 21_785_568
    filled = {name: torch.rand(shape) * (0.1 if name.endswith("weight") else 1) + 0.01 for name, shape in state.items()}
    for name, tensor in filled.items():
        if name.endswith("conv.weight"):
            filled[name] = torch.randn_like(tensor) / tensor[0].numel() ** 0.5
        elif name.endswith("bn.weight"):
            filled[name] = torch.ones_like(tensor)
    counters = {
        f"{name.removesuffix('bias')}num_batches_tracked": torch.tensor(7) for name in state if "bn.bias" in name
    }
    torch.save(filled | counters | {"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "inception.pth")
    distance = FidDistance(imported("fid-inception", tmp_path / "inception.pth"))
    one = random_pictures(0, 3, 32)
    one[..., 3] = 255
    dark = one // np.array([4, 4, 4, 1], np.uint8)
    assert distance(one, dark) == pytest.approx(distance(dark, one), rel=1e-3)
    assert abs(distance(one, one)) < 1e-5 * distance(one, dark)


def test_blocks_pool_as_the_network_of_2015_did() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    block = Mixed(1, [[("branch1x1", 1, (1, 1))]], pooled=1)
    for parameter in (block.branch_pool.conv.weight, block.get_submodule("branch1x1.conv").weight):
        torch.nn.init.ones_(parameter)
    with torch.inference_mode():
        identity, mean = (block(x)[0] * (1 + 1e-3) ** 0.5).unbind()
        torch.testing.assert_close(identity, x[0, 0])
        assert mean[0, 0] == pytest.approx((0 + 1 + 3 + 4) / 4), "the padding is no part of the mean"
        block.maximum = True
        assert block(x)[0, 1, 0, 0] == pytest.approx(4 / (1 + 1e-3) ** 0.5)


def test_what_is_not_installed_is_left_out_with_a_word(
    lpips: tuple[Path, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = measures(0, "cpu")
    assert found.distance is None
    assert found.set_distance is None
    assert "LPIPS is left out" in capsys.readouterr().err
    imported("lpips-alex", lpips[0])
    assert isinstance(measures(0, "cpu").distance, LpipsDistance)
    assert "LPIPS" not in capsys.readouterr().err
