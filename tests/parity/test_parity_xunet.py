"""3DiM against the numbers of its public PyTorch code, and against the formulas of the paper in double precision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from goldens import DATA, Golden, full
from reference_weights import xunet

from backend.generators.xunet.conditioning import noise_embedding, ray_encoding, rays
from backend.generators.xunet.config import SRN64
from backend.generators.xunet.diffusion import (
    add_noise,
    alpha_sigma,
    guided,
    logsnr_at,
    logsnr_table,
    make_sampler,
)
from backend.generators.xunet.network import XUNet

SMALL = dataclasses.replace(SRN64, size=32, channels=32, res_blocks=2, dropout=0.0)
"""The reduced network that the reference numbers were computed with."""

KINDS = ("cond", "uncond")


@pytest.fixture(scope="module")
def network() -> XUNet:
    return xunet(SMALL)


def in_data() -> Golden:
    golden = Golden(DATA / "xunet.npz")
    golden.unread = {name for name in golden.unread if not name.startswith("manifest")}
    return golden


def cameras(golden: Golden) -> tuple[torch.Tensor, torch.Tensor]:
    poses = torch.eye(4).repeat(2, 2, 1, 1)
    poses[..., :3, :3], poses[..., :3, 3] = golden.tensor("R"), golden.tensor("t")
    return poses, golden.tensor("K").expand(2, 2, 3, 3)


def test_network_schedule_and_ancestral_step_agree_with_the_public_code(network: XUNet) -> None:
    golden = in_data()
    encoded = ray_encoding(SMALL, *cameras(golden))
    golden.close("pose_emb144_b0_stride8", encoded[0, ..., ::8, ::8].movedim(1, -1), 2e-3)
    golden.close("posenc_ddpm_out_ch64_maxtime1", noise_embedding(golden.tensor("posenc_ddpm_in"), 64, "raw"), 2e-3)
    second_dropped = encoded * torch.tensor([1.0, 0.0])[:, None, None, None, None]
    x, z, logsnr = (golden.tensor(name) for name in ("x", "z", "logsnr"))
    with torch.inference_mode():
        golden.close("TT_out", network(x, z, logsnr, encoded), 1e-3)
        golden.close("TF_out", network(x, z, logsnr, second_dropped), 1e-3)
    check_steps(golden, z[:, :, ::4, ::4])
    assert not golden.unread


def check_steps(golden: Golden, z: torch.Tensor) -> None:
    """The schedule, and three of the paper's 256 steps from the same outputs: guidance, mean and variance."""
    times = torch.linspace(1, 0, 257, dtype=torch.float64)
    np.testing.assert_allclose(golden["schedule_logsnr"], logsnr_at(times, SRN64), atol=1e-4, rtol=1e-4)
    table, sampler = logsnr_table(SRN64, 257), make_sampler(SRN64, "ancestral", 257)
    sampler.set_timesteps(257)
    for step in (10, 128, 250):
        timestep = 256 - step
        assert table[timestep] == pytest.approx(float(golden[f"step{step}_logsnr"]), abs=1e-4)
        assert table[timestep - 1] == pytest.approx(float(golden[f"step{step}_logsnr_next"]), abs=1e-4)
        assert sampler._get_variance(timestep) == pytest.approx(float(golden[f"step{step}_var"]), rel=1e-4)
        weighed = zip(*(golden.tensor(f"step{step}_pred_{kind}") for kind in KINDS), golden["step_w"], strict=True)
        noise = torch.stack([guided(with_it, without, float(weight)) for with_it, without, weight in weighed])
        golden.close(f"step{step}_mean", mean_of_step(sampler, noise, timestep, z), 2e-4)


def mean_of_step(sampler, noise: torch.Tensor, timestep: int, z: torch.Tensor) -> torch.Tensor:
    """What the ancestral sampler steps to, without the noise that it adds."""
    stepped = sampler.step(noise, timestep, z, generator=torch.Generator().manual_seed(7)).prev_sample
    added = torch.randn(z.shape, generator=torch.Generator().manual_seed(7), dtype=z.dtype)
    return stepped - sampler._get_variance(timestep).sqrt() * added


def test_all_of_the_public_codes_numbers(network: XUNet) -> None:
    golden = full("xunet")
    poses, intrinsics = cameras(golden)
    origins, directions = rays(poses, intrinsics, 32)
    golden.close("ray_pos_b0_pix00", origins[0, :, 0, 0], 1e-5)
    golden.close("ray_dir_b0", directions[0], 1e-5)
    encoded, conditioning = ray_encoding(SMALL, poses, intrinsics), network.conditioningprocessor
    golden.close("pose_emb144_b0_stride8", encoded[0, ..., ::8, ::8].movedim(1, -1), 2e-3)
    golden.close("posenc_ddpm_out_ch64_maxtime1", noise_embedding(golden.tensor("posenc_ddpm_in"), 64, "raw"), 2e-3)
    second_dropped = encoded * torch.tensor([1.0, 0.0])[:, None, None, None, None]
    x, z, logsnr = (golden.tensor(name) for name in ("x", "z", "logsnr"))
    with torch.inference_mode():
        for name, given in (("TT", encoded), ("TF", second_dropped)):
            golden.close(f"{name}_logsnr_emb", conditioning.embed_noise(logsnr), 1e-3)
            for level, embedded in enumerate(conditioning.embed_poses(given)):
                expected = f"{name}_pose_emb_level{level}_ch::64_yx::4"
                stride = embedded.shape[-1] // golden[expected].shape[-1]
                golden.close(expected, embedded.unflatten(0, (2, 2))[:, :, ::64, ::stride, ::stride], 2e-3)
            golden.close(f"{name}_out", network(x, z, logsnr, given), 1e-3)
        for step in (10, 128, 250):
            levels = torch.tensor([SMALL.logsnr_max, float(golden[f"step{step}_logsnr"])]).expand(2, 2)
            inputs = ((x, encoded), (golden.tensor(f"step{step}_uncond_x_noise"), torch.zeros_like(encoded)))
            for kind, (pictures, given) in zip(KINDS, inputs, strict=True):
                golden.close(f"step{step}_pred_{kind}", network(pictures, z, levels, given), 1e-3)
    check_steps(golden, z)
    golden.close("schedule_t", torch.linspace(1, 0, 257), 1e-6)
    alpha, sigma = alpha_sigma(logsnr[:, 1])
    golden.close("qsample_alpha", alpha, 1e-6)
    golden.close("qsample_sigma", sigma, 1e-6)
    assert not golden.unread


# ----------------------------------------------------------------------------------------------------- closed forms


def test_the_schedule_is_a_quarter_of_a_circle() -> None:
    """logsnr = -2 ln tan(p) means alpha = cos p and sigma = sin p; p runs evenly between the ends' angles."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    low, high = (np.arctan(np.exp(-logsnr / 2)) for logsnr in (SRN64.logsnr_max, SRN64.logsnr_min))
    angle = low + (high - low) * t
    logsnr = logsnr_at(t, SRN64)
    alpha, sigma = alpha_sigma(logsnr)
    torch.testing.assert_close(alpha, angle.cos(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma, angle.sin(), rtol=1e-12, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=1e-15, atol=1e-15)
    ends = torch.tensor([SRN64.logsnr_max, SRN64.logsnr_min], dtype=torch.float64)
    torch.testing.assert_close(logsnr[[0, -1]], ends, rtol=1e-12, atol=0)
    assert (logsnr.diff() < 0).all()


def test_every_ancestral_step_is_the_posterior_in_double_precision() -> None:
    """By Bayes' rule, by the paper's formula, and by the sampler itself, at each of the 256 steps."""
    sampler, table = make_sampler(SRN64, "ancestral", 257), torch.from_numpy(logsnr_table(SRN64, 257))
    sampler.set_timesteps(257)
    source = torch.Generator().manual_seed(0)
    x = torch.rand((1, 3, 4, 4), generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(x.shape, generator=source, dtype=torch.float64)
    for timestep in range(256, 0, -1):
        now, then = table[timestep], table[timestep - 1]
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(now), alpha_sigma(then)
        z = add_noise(x, noise, now)

        shrink = alpha_t / alpha_s  # z_t given z_s is Gaussian about shrink * z_s
        spread = sigma_t**2 - shrink**2 * sigma_s**2
        precision = 1 / sigma_s**2 + shrink**2 / spread
        mean = (alpha_s * x / sigma_s**2 + shrink * z / spread) / precision

        c = -torch.expm1(now - then)
        torch.testing.assert_close(alpha_s * (z * (1 - c) / alpha_t + c * x), mean, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(sigma_s**2 * c, 1 / precision, rtol=1e-9, atol=0)

        stepped = mean_of_step(sampler, (z - alpha_t * x) / sigma_t, timestep, z)
        assert stepped.dtype == torch.float64
        torch.testing.assert_close(stepped, mean, rtol=1e-7, atol=1e-9)
        assert float(sampler._get_variance(timestep) * precision) == pytest.approx(1, rel=1e-6)
