"""3DiM at its published size, on a GPU, warm: the 128-pixel X-UNet in the paper's 256 ancestral steps.

The weights are random, which takes as long as trained ones. Users of the public code report ten minutes a view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.bench import views
from backend.bench._meter import alive, forget_peak, gpu, matmul_rate, operations, peak_gibibytes, timed, watched
from backend.generators.xunet.config import PAPER, XUNetConfig
from backend.generators.xunet.network import XUNet
from backend.generators.xunet.stochastic import PAPER_STEPS, PoolGenerator

TARGETS = {"view_seconds": ("<=", 600.0)}

GUIDANCE = 3.0
"""What the public code's users report their ten minutes with."""

TOGETHER = 8
"""Views in one batch."""


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        xunet: the network's.
        steps: denoising steps.
        warm_up: steps before.
        matrix: side of the matrices that the device's rate is measured with.
    """

    xunet: XUNetConfig = PAPER
    steps: int = PAPER_STEPS
    warm_up: int = 8
    matrix: int = 8192


def measure(device: str | None = None, sizes: Sizes | None = None) -> dict[str, float]:
    """Draws views of one picture.

    Returns:
        Seconds of one view, with guidance and without, and of each of eight that are drawn together, with; what the
        network was given for one guided view, in pairs of frames; which share of the device's own rate one view comes
        to, and eight together; that rate; and the most memory, network included.

    Raises:
        TurnaroundError: `bench.gpu`.
    """
    device, sizes = device or gpu(), sizes or Sizes()
    rate = matmul_rate(device, sizes.matrix)
    forget_peak(device)
    torch.manual_seed(0)
    with torch.device(device):
        network = alive(XUNet(sizes.xunet))
    generator = PoolGenerator(network, device)

    def draw(count: int = 1, guidance: float = GUIDANCE, steps: int = sizes.steps) -> None:
        views.draw(generator, count, steps, batch=count, guidance=guidance, sampler="ancestral")

    def seconds(count: int = 1, guidance: float = GUIDANCE) -> float:
        draw(count, guidance, sizes.warm_up)
        return timed(device, lambda: draw(count, guidance))[0]

    guided, unguided, together = seconds(), seconds(guidance=0.0), seconds(TOGETHER)
    peak = peak_gibibytes(device)
    # the last layer sees each pair once: the picture's frame does not reach it
    pairs = watched(device, {"last": network.lastconv}, draw)["last"].rows
    step = operations(lambda: draw(steps=3)) - operations(lambda: draw(steps=2))
    return {
        "view_seconds": guided,
        "view_unguided_seconds": unguided,
        "view_of_eight_seconds": together / TOGETHER,
        "network_evaluations": float(pairs),
        "share_of_matmul_rate": step * sizes.steps / (rate * guided),
        "share_of_matmul_rate_of_eight": step * sizes.steps * TOGETHER / (rate * together),
        "matmul_teraflops": rate / 1e12,
        "peak_gibibytes": peak,
    }
