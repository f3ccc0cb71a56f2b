"""Stochastic conditioning: what a view is given at each step, and what that makes of it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_weights import xunet

from backend.generators.xunet import stochastic
from backend.generators.xunet.config import SRN64, TINY, XUNetConfig
from backend.generators.xunet.generator import XUNetGenerator, view_noise
from backend.generators.xunet.sampling import make_condition
from backend.generators.xunet.stochastic import PairPoses, PoolGenerator, choices, shares
from backend.geometry import batched
from backend.geometry.cameras import Camera
from backend.geometry.mesh import ViewSet
from backend.pipelines.stage import CancelledError, Progress
from backend.weights.store import save_weights

MINIATURE = dataclasses.replace(TINY, map_channels=0, map_variance=0.0, size=16, channels=16, emb_channels=32, groups=8)
PUBLISHED = dataclasses.replace(SRN64, size=16, channels=32, emb_channels=32, res_blocks=1)
FRONT = Camera(elevation_deg=20, azimuth_deg=0, distance=1.6, fov_deg=40)
RING = [FRONT.moved(azimuth_deg=a) for a in (180.0, 90.0, 270.0)]


def make(config: XUNetConfig, folder: Path) -> PoolGenerator:
    path = folder / "weights.safetensors"
    save_weights(path, xunet(config).state_dict(), dataclasses.asdict(config))
    return PoolGenerator(path, dtype=torch.float32)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> PoolGenerator:
    return make(MINIATURE, tmp_path_factory.mktemp("weights"))


def pictures(*seeds: int, size: int = 16) -> ViewSet:
    """Pictures from the front, a quarter turn apart."""
    images = [np.random.default_rng(seed).integers(0, 256, (size, size, 4), dtype=np.uint8) for seed in seeds]
    return ViewSet(np.stack(images), tuple(FRONT.moved(azimuth_deg=90.0 * i) for i in range(len(seeds))))


def draw(generator: PoolGenerator, pool: ViewSet, cameras: list[Camera], **changes) -> np.ndarray:
    settings = {"seed": 5, "steps": 4, "guidance": 0.0, "progress": Progress()} | changes
    views = generator.draw(pool, cameras, **settings)
    assert views.cameras == tuple(cameras)
    assert views.images.shape == (len(cameras), 16, 16, 4)
    return views.images.astype(int)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_drawn_views_are_pictures_of_the_pool_like_any_other(generator: PoolGenerator, guidance, sampler) -> None:
    """So that stopping after any view and going on with what there is gives the same."""
    pool, settings = pictures(0, 1), {"guidance": guidance, "sampler": sampler}
    at_once = draw(generator, pool, RING, **settings)
    for number, camera in enumerate(RING):
        (view,) = draw(generator, pool, [camera], **settings)
        assert (view == at_once[number]).all()
        pool += ViewSet(view[None].astype(np.uint8), (camera,))


def test_every_view_looks_at_those_before_it_and_at_none_of_its_batch(generator: PoolGenerator) -> None:
    pool, steps = pictures(0), {"steps": 8}
    paper = draw(generator, pool, RING, **steps)
    alone = draw(generator, pool, RING, conditioning="input", **steps)
    assert (paper[0] == alone[0]).all()
    assert all(difference(paper[n], alone[n]) > 1 for n in (1, 2))

    together = draw(generator, pool, RING, batch=3, **steps)
    assert difference(together, alone) < 0.5  # batches of other sizes round differently
    pairs = draw(generator, pool, RING, batch=2, **steps)
    assert difference(pairs[:2], alone[:2]) < 0.5
    assert difference(pairs[2], alone[2]) > 1


def test_what_the_network_is_given_at_each_step(generator: PoolGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures and poses of the pairs that were chosen; all of the pool has its turn."""
    pool, seen, steps = pictures(0, 1), [], 24
    denoise = generator.network.denoise

    def spy(image, noisy, logsnr, poses, maps=None):
        seen.append((image.clone(), [level.clone() for level in poses]))
        return denoise(image, noisy, logsnr, poses, maps)

    monkeypatch.setattr(generator.network, "denoise", spy)
    drawn = draw(generator, pool, RING[:2], steps=steps)
    everything = pool + ViewSet(drawn[:1].astype(np.uint8), (RING[0],))
    cameras = batched.camera_tensor([*everything.cameras, RING[1]])
    chosen = choices(view_noise(5, FRONT, RING[1]), torch.ones(3), steps).tolist()
    assert set(chosen) == {0, 1, 2}
    for step, number in enumerate(chosen):
        pair = cameras[[number, 3]][None]
        condition = make_condition(
            MINIATURE,
            torch.from_numpy(everything.images[number : number + 1]),
            batched.world_from_camera(pair),
            batched.intrinsics(pair, 16),
        )
        image, poses = seen[steps + step]
        assert torch.equal(image, condition.pictures)
        embedded = generator.network.conditioningprocessor.embed_poses(condition.rays)
        for level, expected in zip(poses, embedded, strict=True):
            torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


def test_choices_are_even_and_those_of_a_view_its_own() -> None:
    sources = [view_noise(3, FRONT, FRONT.moved(azimuth_deg=float(a))) for a in range(200)]
    even = shares([FRONT, *RING, FRONT], 1, RING[0], "stochastic")
    drawn = torch.stack([choices(source, even, 64) for source in sources])
    assert torch.equal(drawn[7], choices(view_noise(3, FRONT, FRONT.moved(azimuth_deg=7.0)), even, 64))
    found = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    assert (found - 0.2).abs().max() < 0.02
    assert len({tuple(row.tolist()) for row in drawn}) == 200
    noise = torch.randn(4, generator=view_noise(3, FRONT, RING[0]))
    source = view_noise(3, FRONT, RING[0])
    choices(source, even, 64)
    assert torch.equal(torch.randn(4, generator=source), noise)  # whatever the pool


def test_anchored_steps_look_at_the_pictures_and_at_the_nearest_views(
    generator: PoolGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them each; whether the views were drawn just now or are handed in."""
    around = [FRONT.moved(azimuth_deg=float(a)) for a in (0, 180, 90, 200, 300)]
    found = shares(around, 2, FRONT.moved(azimuth_deg=190.0), "anchored")
    assert torch.allclose(found.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(found[:2].sum(), found[2:].sum())
    assert min(found[1], found[3]) > 0.49
    assert torch.allclose(shares(around[:2], 2, FRONT, "anchored").sum(), torch.tensor(1.0, dtype=torch.float64))

    asked = []

    def spy(source: torch.Generator, weights: torch.Tensor, steps: int) -> torch.Tensor:
        asked.append(weights)
        return choices(source, weights, steps)

    monkeypatch.setattr(stochastic, "choices", spy)
    pool = pictures(0)
    at_once = draw(generator, pool, RING, conditioning="anchored")
    (last,) = draw(
        generator,
        pool + ViewSet(at_once[:2].astype(np.uint8), tuple(RING[:2])),
        RING[2:],
        conditioning="anchored",
        given=1,
    )
    assert (last == at_once[2]).all()
    assert torch.equal(asked[2], asked[3])
    assert (asked[2][0], len(asked[2])) == (0.5, 3)


def test_one_picture_alone_is_what_the_plain_generator_draws(tmp_path: Path, generator: PoolGenerator) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, generator.network.state_dict(), dataclasses.asdict(MINIATURE))
    plain = XUNetGenerator(path, dtype=torch.float32)
    pool, settings = pictures(0), {"seed": 5, "steps": 4, "guidance": 1.0, "progress": Progress()}
    expected = plain.generate(pool.images[0], FRONT, RING, **settings).images.astype(int)
    got = draw(generator, pool, RING, guidance=1.0, sampler="dpmsolver++", conditioning="input", batch=3)
    assert difference(got, expected) < 0.5


def test_seed_and_every_picture_have_a_say(generator: PoolGenerator) -> None:
    first = draw(generator, pictures(0, 1), RING[:1], steps=8)
    assert (draw(generator, pictures(0, 1), RING[:1], steps=8) == first).all()
    for changed in (
        draw(generator, pictures(0, 2), RING[:1], steps=8),
        draw(generator, pictures(3, 1), RING[:1], steps=8),
    ):
        assert difference(changed, first) > 1
    assert difference(draw(generator, pictures(0, 1), RING[:1], steps=8, seed=6), first) > 1


def test_poses_that_memory_does_not_hold_are_embedded_again(
    generator: PoolGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw(generator, pictures(0), RING, guidance=1.0)
    calls: list[int] = []
    embed: Callable = generator.network.conditioningprocessor.embed_poses
    monkeypatch.setattr(
        generator.network.conditioningprocessor, "embed_poses", lambda rays: (calls.append(1), embed(rays))[1]
    )
    assert (draw(generator, pictures(0), RING, guidance=1.0) == expected).all()
    few = len(calls)
    assert few <= 1 + 2 + 3 + 3  # each pair once for each view, and the unconditional
    monkeypatch.setattr(stochastic, "POSES_BYTES", {"cpu": 0})
    assert (draw(generator, pictures(0), RING, guidance=1.0) == expected).all()
    assert len(calls) - few == 3 * 4 * 2
    poses = PairPoses(generator.network, RING)
    poses.embed([(0, 1)])
    assert not poses._kept


def test_published_form_draws_from_a_pool(tmp_path: Path) -> None:
    generator = make(PUBLISHED, tmp_path)
    drawn = draw(generator, pictures(0, size=40), RING[:2], sampler="ancestral", guidance=3.0)
    assert (drawn[..., 3] == 255).all()


def test_progress_counts_all_steps_and_cancelling_stops_within_one(generator: PoolGenerator) -> None:
    updates, cancel = [], threading.Event()
    draw(generator, pictures(0), RING, batch=2, progress=Progress(report=updates.append))
    assert [(update.step, update.total) for update in updates] == [(step, 8) for step in range(9)]
    previews = [update.preview.views for update in updates if update.preview is not None]
    assert [len(views) for views in previews] == [2, 3]

    seen = []

    def report(update) -> None:
        seen.append(update.step)
        if update.step == 5:
            cancel.set()

    with pytest.raises(CancelledError):
        draw(generator, pictures(0), RING, progress=Progress(report=report, cancel=cancel))
    assert seen == list(range(6))


def test_what_makes_no_sense_is_refused(tmp_path: Path, generator: PoolGenerator) -> None:
    empty = ViewSet(np.zeros((0, 16, 16, 4), np.uint8), ())
    with pytest.raises(ValueError, match="0 pictures"):
        draw(generator, empty, RING)
    with pytest.raises(ValueError, match="batch 0"):
        draw(generator, pictures(0), RING, batch=0)
    for pool, conditioning in ((pictures(0), "stochastic"), (pictures(0, 1), "input")):
        with pytest.raises(ValueError, match=r"dpmsolver\+\+"):
            draw(generator, pool, RING, sampler="dpmsolver++", conditioning=conditioning)
    with pytest.raises(ValueError, match="maps"):
        make(dataclasses.replace(TINY, size=16, channels=16, emb_channels=32, groups=8), tmp_path)
    assert draw(generator, pictures(0), []).shape == (0, 16, 16, 4)
