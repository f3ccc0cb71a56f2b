import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backend.geometry.cameras import Camera, project
from backend.geometry.gaussians import compositing, cuda
from backend.geometry.gaussians.gaussians import WIDTHS, Gaussians
from backend.geometry.gaussians.projection import Splatting
from backend.geometry.gaussians.render import Rendered, render

LGM = Splatting(alpha_cap=0.99, normalise=False)


def some(count: int, *lead: int, seed: int = 0, size: float = 0.08) -> Gaussians:
    """Gaussians within the unit ball, of any direction, opacity and colour."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*lead, count, *shape, generator=random, dtype=torch.float64)

    quaternions = torch.nn.functional.normalize(uniform(4) - 0.5, dim=-1) * (0.2 + uniform(1))  # not of unit length
    return Gaussians(uniform(3) - 0.5, quaternions, size * (0.05 + uniform(3)), uniform(), uniform(3))


def from_cameras(*cameras: Camera, size: int) -> tuple[Tensor, Tensor]:
    poses = np.stack([camera.world_from_camera() for camera in cameras])
    return torch.from_numpy(poses), torch.from_numpy(np.stack([camera.intrinsics(size) for camera in cameras]))


def orbit(views: int, size: int, distance: float = 1.6) -> tuple[Tensor, Tensor]:
    return from_cameras(*(Camera(15.0, 360 * i / views + 10, distance, 40.0) for i in range(views)), size=size)


def oracle(
    gaussians: Gaussians, pose: Tensor, k: Tensor, size: int, background: Tensor | float, splatting: Splatting
) -> Rendered:
    """One picture, every pixel against every Gaussian: the definition, with autograd's gradients."""
    w2c = torch.linalg.inv(pose)
    local = gaussians.means @ w2c[:3, :3].T + w2c[:3, 3]
    q = gaussians.quaternions
    if splatting.normalise:
        q = q / q.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    nearest_first = torch.argsort(local[:, 2], stable=True)
    transmittance = torch.ones(size, size, dtype=pose.dtype)
    alive = torch.ones(size, size, dtype=torch.bool)
    color, depth = torch.zeros(size, size, 3, dtype=pose.dtype), torch.zeros(size, size, dtype=pose.dtype)
    v, u = torch.meshgrid(*(torch.arange(size, dtype=pose.dtype) + 0.5,) * 2, indexing="ij")
    for i in nearest_first.tolist():
        x, y, z = local[i]
        if z < splatting.near:
            continue
        a, b, c, d = q[i]
        turn = torch.stack(
            [
                torch.stack([1 - 2 * c * c - 2 * d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c]),
                torch.stack([2 * b * c + 2 * a * d, 1 - 2 * b * b - 2 * d * d, 2 * c * d - 2 * a * b]),
                torch.stack([2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, 1 - 2 * b * b - 2 * c * c]),
            ]
        )
        covariance = turn @ torch.diag(gaussians.scales[i] ** 2) @ turn.T
        fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
        margin_x, margin_y = 0.3 * 0.5 * size / fx, 0.3 * 0.5 * size / fy
        tx = z * torch.clamp(x / z, -(cx / fx + margin_x), (size - cx) / fx + margin_x)
        ty = z * torch.clamp(y / z, -(cy / fy + margin_y), (size - cy) / fy + margin_y)
        zero = torch.zeros((), dtype=pose.dtype)
        jacobian = torch.stack(
            [torch.stack([fx / z, zero, -fx * tx / z**2]), torch.stack([zero, fy / z, -fy * ty / z**2])]
        )
        flat = jacobian @ w2c[:3, :3] @ covariance @ w2c[:3, :3].T @ jacobian.T
        conic = torch.linalg.inv(flat + splatting.eps2d * torch.eye(2, dtype=pose.dtype))
        offset = torch.stack([u - (fx * x / z + cx), v - (fy * y / z + cy)], dim=-1)
        exponent = -0.5 * torch.einsum("hwi,ij,hwj->hw", offset, conic, offset)
        alpha = (gaussians.opacities[i] * exponent.exp()).clamp(max=splatting.alpha_cap)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
        after = transmittance * (1 - alpha)
        alive = alive & (after >= 1e-4)
        weight = torch.where(alive, alpha * transmittance, 0.0)
        color = color + weight[..., None] * gaussians.colors[i]
        depth = depth + weight * z
        transmittance = torch.where(alive, after, transmittance)
    return Rendered(color + transmittance[..., None] * background, 1 - transmittance, depth)


def oracle_views(
    gaussians: Gaussians,
    poses: Tensor,
    intrinsics: Tensor,
    size: int,
    background: Tensor | float = 1.0,
    splatting: Splatting | None = None,
) -> Rendered:
    views = [
        oracle(gaussians, p, k, size, background, splatting or Splatting())
        for p, k in zip(poses, intrinsics, strict=True)
    ]
    return Rendered(*(torch.stack(part) for part in zip(*views, strict=True)))


def gradients(gaussians: Gaussians, draw) -> tuple[Rendered, dict[str, Tensor]]:
    """What is drawn, and the gradients of one fixed random weighting of all that is drawn."""
    leaves = gaussians.map(lambda tensor: tensor.detach().clone().requires_grad_())
    rendered = draw(leaves)
    random = torch.Generator().manual_seed(7)
    loss = sum((part * torch.randn(part.shape, generator=random, dtype=torch.float64)).sum() for part in rendered)
    if loss.requires_grad:  # there are Gaussians to draw
        loss.backward()
    grads = {name: getattr(leaves, name).grad for name in WIDTHS}
    return Rendered(*(part.detach() for part in rendered)), {
        name: torch.zeros_like(getattr(leaves, name)) if grad is None else grad for name, grad in grads.items()
    }


def same(gaussians: Gaussians, poses: Tensor, intrinsics: Tensor, size: int, splatting: Splatting) -> Rendered:
    """Asserts that values and all five gradients are the oracle's; returns the values."""
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    expected, expected_gradients = gradients(
        gaussians, lambda g: oracle_views(g, poses, intrinsics, size, background, splatting)
    )
    actual, actual_gradients = gradients(
        gaussians, lambda g: render(g, poses, intrinsics, size, background=background, splatting=splatting)
    )
    for name, a, e in zip(Rendered._fields, actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    for name, e in expected_gradients.items():
        scale = float(e.abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(
            actual_gradients[name], e, rtol=1e-6, atol=1e-9 * (1 + scale), msg=lambda text, name=name: f"{name}: {text}"
        )
    return actual


@pytest.mark.parametrize("splatting", [Splatting(), LGM, Splatting(near=1.5, eps2d=0.1)])
@pytest.mark.parametrize("tile", [64, 16])
def test_values_and_gradients_are_those_of_the_definition(monkeypatch, splatting, tile):
    monkeypatch.setattr(compositing, "TILE", tile)
    gaussians = some(60, size=0.15)
    poses, intrinsics = orbit(2, 37)
    intrinsics[1] *= torch.tensor([[1.2], [0.8], [1.0]])  # neither square nor centred
    rendered = same(gaussians, poses, intrinsics, 37, splatting)
    assert 0.1 < rendered.alphas.mean() < 0.95


def test_an_opaque_pile_ends_its_pixels():
    gaussians = some(40, size=0.4)
    gaussians = replace(gaussians, opacities=0.9 + 0.2 * gaussians.opacities)
    rendered = same(gaussians, *orbit(1, 24), 24, Splatting())
    assert rendered.alphas.max() > 0.999
    assert (1 - rendered.alphas).min() >= 1e-4


edge = st.sampled_from(
    ["plain", "behind", "beside", "huge", "tiny", "nothing", "opaque", "same depth", "at the camera"]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(edge, max_size=7), st.integers(0, 2**31), st.booleans())
def test_every_kind_of_gaussian_is_drawn_as_defined(kinds, seed, normalise):
    gaussians = some(len(kinds), seed=seed, size=0.3)
    poses, intrinsics = orbit(1, 20)
    forward, center = poses[0, :3, 2], poses[0, :3, 3]
    right = poses[0, :3, 0]
    for i, kind in enumerate(kinds):
        match kind:
            case "behind":
                gaussians.means[i] = center - (0.1 + gaussians.means[i].norm()) * forward
            case "beside":
                gaussians.means[i] += 1.5 * right
            case "huge":
                gaussians.scales[i] *= 50
            case "tiny":
                gaussians.scales[i] = 0
            case "nothing":
                gaussians.opacities[i] *= 1 / 300
            case "opaque":
                gaussians.opacities[i] = 1
            case "same depth":
                gaussians.means[i] = center + 1.5 * forward  # the very same place
            case "at the camera":
                gaussians.means[i] = center + 0.02 * forward
    same(gaussians, poses, intrinsics, 20, Splatting(normalise=normalise))


def test_nothing_shows_the_background():
    background = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for gaussians in (some(0), some(0, 2), some(5).map(lambda t: 0 * t)):
        rendered = render(gaussians, *orbit(3, 16), 16, background=background)
        assert rendered.colors.shape == (*gaussians.means.shape[:-2], 3, 16, 16, 3)
        assert (rendered.colors == background).all()
        assert not rendered.alphas.any()
        assert not rendered.depths.any()


def test_what_is_not_a_number_is_not_drawn():
    bad = some(15)
    good = bad.select(torch.arange(12))
    for name in WIDTHS:
        if name != "colors":
            getattr(bad, name)[12] = math.nan
    bad.means[13] = math.inf
    bad.scales[14] = math.inf
    expected, actual = (render(g, *orbit(2, 32), 32) for g in (good, bad))
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def test_single_precision_and_batches():
    gaussians = some(300, 2, 2).map(Tensor.float)
    poses, intrinsics = orbit(2, 70)  # more than one tile
    rendered, grads = gradients(gaussians, lambda g: render(g, poses, intrinsics, 70, splatting=LGM))
    assert rendered.colors.shape == (2, 2, 2, 70, 70, 3)
    for i in range(2):
        one = gaussians.index(1).index(i)
        views, own = gradients(one.map(Tensor.double), lambda g: render(g, poses, intrinsics, 70, splatting=LGM))
        for actual, expected in zip(rendered, views, strict=True):
            difference = (actual[1, i] - expected).abs()
            assert difference.mean() < 1e-5
            assert difference.max() < 8e-3  # where an alpha falls on the other side of 1/255
        assert own["means"].shape == grads["means"].shape[2:]
    separate = render(gaussians.index(0).index(1), poses, intrinsics, 70, splatting=LGM)
    assert torch.equal(separate.colors, rendered.colors[0, 1])


def test_single_precision_gradients():
    gaussians = some(80)
    poses, intrinsics = orbit(2, 32)
    _, expected = gradients(gaussians, lambda g: oracle_views(g, poses, intrinsics, 32))
    _, actual = gradients(gaussians.map(Tensor.float), lambda g: render(g, poses, intrinsics, 32))
    for name, e in expected.items():
        assert (actual[name] - e).norm() < 5e-3 * e.norm(), name


def test_the_number_of_threads_changes_nothing():
    gaussians = some(200).map(Tensor.float)
    poses, intrinsics = orbit(3, 130)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(gradients(gaussians, lambda g: render(g, poses, intrinsics, 130)))
    finally:
        torch.set_num_threads(before)
    (one, one_gradients), (three, three_gradients) = results
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    assert all(torch.equal(one_gradients[name], three_gradients[name]) for name in WIDTHS)


def test_half_precision_under_autocast_is_drawn_in_single():
    gaussians = some(60).map(Tensor.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        half = render(gaussians, *orbit(2, 32), 32)
    single = render(gaussians.map(Tensor.float), *orbit(2, 32), 32)
    assert half.colors.dtype == torch.float32
    assert torch.equal(half.colors, single.colors)


def test_unit_quaternions_look_as_the_others_did():
    gaussians = some(40)
    poses, intrinsics = orbit(2, 32)
    expected = render(gaussians, poses, intrinsics, 32, splatting=LGM)
    actual = render(gaussians.with_unit_quaternions(), poses, intrinsics, 32, splatting=replace(LGM, normalise=True))
    assert (
        render(gaussians, poses, intrinsics, 32, splatting=replace(LGM, normalise=True)).colors - expected.colors
    ).abs().max() > 0.01
    torch.testing.assert_close(actual.colors, expected.colors, rtol=0, atol=1e-9)
    assert len(some(0).with_unit_quaternions()) == 0


def test_moving_everything_changes_nothing():
    gaussians = some(40)
    poses, intrinsics = orbit(2, 32)
    rotation = torch.from_numpy(Camera(33.0, 71.0, 1.0, 40.0).world_from_camera()[:3, :3])
    translation = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    moved = poses.clone()
    moved[:, :3, :3] = rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = 2.5 * poses[:, :3, 3] @ rotation.T + translation
    expected = render(gaussians, poses, intrinsics, 32)
    actual = render(gaussians.transformed(rotation, 2.5, translation), moved, intrinsics, 32)
    torch.testing.assert_close(actual.colors, expected.colors, rtol=0, atol=1e-9)
    torch.testing.assert_close(actual.depths, 2.5 * expected.depths, rtol=0, atol=1e-9)


def test_a_point_is_drawn_where_its_camera_projects_it():
    camera = Camera(20.0, 130.0, 1.8, 35.0)
    point = np.array([[0.12, -0.2, 0.17]])
    (u, v), depth = (part[0] for part in project(camera, point, 48))
    one = Gaussians(
        torch.from_numpy(point),
        torch.eye(4)[:1].double(),
        torch.zeros(1, 3).double(),
        torch.full((1,), 0.5).double(),
        torch.ones(1, 3).double(),
    )
    rendered = render(one, *from_cameras(camera, size=48), 48, background=0.0)
    row, column = np.unravel_index(int(rendered.alphas[0].argmax()), (48, 48))
    assert (row, column) == (int(v), int(u))
    np.testing.assert_allclose((rendered.depths / rendered.alphas)[0, row, column], depth, rtol=1e-9)


def test_arrays_and_back():
    gaussians = some(5, 2).map(Tensor.float)
    again = Gaussians.from_arrays(gaussians.arrays())
    assert all(torch.equal(getattr(again, name), getattr(gaussians, name)) for name in WIDTHS)
    chosen = again.index(1).select(torch.tensor([True, False, True, False, False]))
    assert torch.equal(chosen.scales, gaussians.scales[1, [0, 2]])
    with pytest.raises(ValueError, match="scales"):
        replace(gaussians, scales=gaussians.scales[:, :4])


@pytest.mark.parametrize("splatting", [Splatting(near=0.02, eps2d=0.2), LGM])
def test_what_gsplat_is_asked_for(monkeypatch, splatting):
    """With gsplat 1.5.3's parameters and a stand-in for what it computes, the pictures are those of the CPU."""
    gaussians = some(40, 2).map(Tensor.float)
    poses, intrinsics = (part.float().expand(2, -1, -1, -1) for part in orbit(3, 32))
    background = torch.tensor([0.2, 0.5, 0.9])
    expected = render(gaussians, poses, intrinsics, 32, background=background, splatting=splatting)

    def rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmats,
        Ks,
        width,
        height,
        near_plane,
        eps2d,
        packed,
        render_mode,
        backgrounds,
        covars,
    ):
        assert (render_mode, packed, near_plane, eps2d) == ("RGB+D", False, splatting.near, splatting.eps2d)
        own = Gaussians(means, quats, scales, opacities, colors)
        if covars is None:
            assert splatting.normalise
        else:
            torch.testing.assert_close(covars, own.axes(normalise=False) @ own.axes(normalise=False).mT)
            own = own.with_unit_quaternions()
        drawn = render(
            own,
            torch.linalg.inv(viewmats),
            Ks,
            width,
            background=0.0,
            splatting=replace(splatting, normalise=True),
        )
        assert height == width
        assert backgrounds.shape == (*viewmats.shape[:-2], 3)
        colors = drawn.colors + (1 - drawn.alphas[..., None]) * backgrounds[..., None, None, :]
        return torch.cat([colors, drawn.depths[..., None]], dim=-1), drawn.alphas[..., None], {}

    monkeypatch.setattr(cuda, "_gsplat", lambda: rasterization)
    image, weights = cuda.draw_on_cuda(gaussians, torch.linalg.inv(poses), intrinsics, 32, splatting, background)
    for actual, wanted in zip((image[..., :3], weights[..., 0], image[..., 3]), expected, strict=True):
        assert (actual - wanted).abs().mean() < 1e-4


def test_a_gsplat_that_cannot_be_compiled_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "gsplat").mkdir()
    (tmp_path / "gsplat" / "__init__.py").write_text("raise RuntimeError('Error building extension')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gsplat", raising=False)
    cuda._gsplat.cache_clear()
    with pytest.warns(UserWarning, match="Error building extension"):
        assert cuda._gsplat() is None
    cuda._gsplat.cache_clear()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("splatting", [Splatting(), LGM])
def test_gsplat_draws_the_same(splatting):
    pytest.importorskip("gsplat")
    gaussians = some(400, 2).map(Tensor.float)
    gaussians = replace(gaussians, opacities=0.98 * gaussians.opacities)  # below either cap
    poses, intrinsics = orbit(3, 70)
    expected, expected_gradients = gradients(
        gaussians, lambda g: render(g, poses, intrinsics, 70, background=0.3, splatting=splatting)
    )
    actual, actual_gradients = gradients(
        gaussians,
        lambda g: Rendered(
            *(part.cpu() for part in render(g.to("cuda"), poses, intrinsics, 70, background=0.3, splatting=splatting))
        ),
    )
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).abs().mean() < 1e-4
        assert (a - e).abs().max() < 0.02  # where an alpha falls on the other side of 1/255
    for name, e in expected_gradients.items():
        assert (actual_gradients[name] - e).norm() < 0.02 * e.norm(), name


def test_packed_they_are_as_the_wire_has_them():
    gaussians = some(5).map(Tensor.float)
    packed = gaussians.packed()
    assert (packed.shape, packed.dtype) == ((5, 14), np.float32)
    for name, columns in {"means": [0, 1, 2], "scales": [7, 8, 9], "colors": [11, 12, 13]}.items():
        assert np.array_equal(packed[:, columns], getattr(gaussians, name).numpy())
    assert np.array_equal(packed[:, 10], gaussians.opacities.numpy())
    again = Gaussians.unpacked(packed)
    assert all(torch.equal(getattr(again, name), getattr(gaussians, name)) for name in WIDTHS)
