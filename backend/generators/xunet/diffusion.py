"""The noise schedule of 3DiM in log-SNR, and diffusers' samplers on it.

A noisy picture is z = alpha x + sigma e with alpha^2 = sigmoid(logsnr) and sigma^2 = sigmoid(-logsnr).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor

from .config import Prediction, XUNetConfig

Sampler = Literal["ancestral", "ddim", "dpmsolver++"]


def logsnr_at(t: Tensor, config: XUNetConfig) -> Tensor:
    """The cosine schedule: logsnr(t) = -2 ln tan(a t + b), from `logsnr_max` at t = 0 to `logsnr_min` at t = 1."""
    b = math.atan(math.exp(-config.logsnr_max / 2))
    a = math.atan(math.exp(-config.logsnr_min / 2)) - b
    return -2 * torch.log(torch.tan(a * t + b))


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise amplitudes at the given log-SNR, of its shape."""
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def add_noise(x: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """x [B, C, H, W] noised to logsnr [B]."""
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(logsnr))
    return alpha * x + sigma * noise


def target(prediction: Prediction, x: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """What a network with that kind of output is to predict, [B, C, H, W]; v is Salimans & Ho's alpha e - sigma x."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return x
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(logsnr))
    return alpha * noise - sigma * x


def clean_image(prediction: Prediction, output: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
    """The clean picture that an output [B, C, H, W] at z and logsnr (scalar or [B]) stands for, clamped to -1..1."""
    if prediction == "sample":
        return output.clamp(-1, 1)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in alpha_sigma(logsnr))
    x = (z - sigma * output) / alpha if prediction == "epsilon" else alpha * z - sigma * output
    return x.clamp(-1, 1)


def guided(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance as 3DiM writes it: (1 + w) c - w u; linear, so the same for every kind of output."""
    return (1 + weight) * conditional - weight * unconditional


def logsnr_table(config: XUNetConfig, train_steps: int = 1000) -> NDArray[np.float64]:
    """Log-SNR of diffusers' integer timesteps: [train_steps], clean to noise, evenly spaced in t."""
    return logsnr_at(torch.linspace(0, 1, train_steps, dtype=torch.float64), config).numpy()


def make_sampler(config: XUNetConfig, name: Sampler, train_steps: int = 1000) -> Any:
    """A diffusers scheduler that walks this schedule; its timesteps index `logsnr_table`.

    "ancestral" with 256 steps is the paper's sampler; the others need far fewer steps. All of them clamp the clean
    picture to -1..1 at every step.

    Args:
        config: the network's, for its schedule and kind of output.
        name: which scheduler.
        train_steps: resolution of the table.
    """
    signal = 1 / (1 + np.exp(-logsnr_table(config, train_steps)))
    common: dict[str, Any] = {
        "num_train_timesteps": train_steps,
        "trained_betas": 1 - signal / np.concatenate([[1.0], signal[:-1]]),
        "prediction_type": config.prediction,
        "timestep_spacing": "trailing",  # begins at pure noise, however few the steps
    }
    scheduler: Any
    if name == "ancestral":
        scheduler = DDPMScheduler(**common, variance_type="fixed_small", clip_sample=True)
    elif name == "ddim":
        scheduler = DDIMScheduler(**common, clip_sample=True, set_alpha_to_one=True)
    else:  # its thresholding is dynamic, and with a greatest value of 1 it is the clamp
        scheduler = DPMSolverMultistepScheduler(**common, thresholding=True, sample_max_value=1.0)
    scheduler.alphas_cumprod = torch.from_numpy(signal)  # diffusers' own, float32, has no noise beyond a log-SNR of 16
    return scheduler
