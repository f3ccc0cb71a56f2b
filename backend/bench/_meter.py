"""What the benchmarks of published sizes share: a GPU's clock, rate, operations and memory; random weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backend.bench.reconstruction import peak_gigabytes
from protocol.errors import TurnaroundError

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)

GIBIBYTE = 1 << 30


def gpu() -> str:
    """The device that published sizes are measured on.

    Raises:
        TurnaroundError: `bench.gpu`, there is none.
    """
    if not torch.cuda.is_available():
        raise TurnaroundError(
            "bench.gpu",
            "The networks of published sizes are measured on a GPU, and this machine has none that torch can use.",
            "Run it where torch finds a CUDA device.",
        )
    return "cuda:0"


def finished(device: str) -> float:
    """The time, in seconds, when the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(device: str, function: Callable[[], T]) -> tuple[float, T]:
    """Seconds until a function's work is done, and what it gives."""
    start = finished(device)
    result = function()
    return finished(device) - start, result


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each number, over runs that give the same."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def matmul_rate(device: str, side: int = 8192, rounds: int = 20) -> float:
    """Operations per second of a large product of matrices in bfloat16, warm: what this device can do at most.

    The matrices are random: of zeros, a GPU multiplies more.
    """
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))

    def multiply() -> None:
        for _ in range(rounds):
            torch.mm(a, b)

    multiply()
    return 2 * side**3 * rounds / timed(device, multiply)[0]


def operations(function: Callable[[], object]) -> float:
    """Multiplications and additions of all matrix products, convolutions and attentions in a function."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def forget_peak(device: str) -> None:
    """Begins to watch the memory anew."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gibibytes(device: str) -> float:
    """The most memory that tensors have taken on the device since `forget_peak`; on a CPU, that the process has."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / GIBIBYTE
    return peak_gigabytes() * 1e9 / GIBIBYTE


@dataclass
class Calls:
    """What was seen of a network at work.

    Attributes:
        seconds: spent in it, the device waited for before and after.
        rows: it was given in all, along the first axis.
        operations: in all, as `operations` counts them.
    """

    seconds: float = 0.0
    rows: int = 0
    operations: float = 0.0
    _began: float = 0.0
    _last: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})


def watched(device: str, networks: Mapping[str, nn.Module], function: Callable[[], object]) -> dict[str, Calls]:
    """Watches networks by name while a function calls them; that costs time, so that the whole is measured without."""
    seen = {name: Calls() for name in networks}

    def before(calls: Calls) -> Callable[..., None]:
        def hook(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls.rows += len(given[0])
            calls._last = given, named
            calls._began = finished(device)

        return hook

    def after(calls: Calls) -> Callable[..., None]:
        def hook(network: nn.Module, given: tuple[Any, ...], result: object) -> None:
            calls.seconds += finished(device) - calls._began

        return hook

    hooks = [
        network.register_forward_pre_hook(before(seen[name]), with_kwargs=True) for name, network in networks.items()
    ]
    hooks += [network.register_forward_hook(after(seen[name])) for name, network in networks.items()]
    try:
        function()
    finally:
        for hook in hooks:
            hook.remove()
    for name, calls in seen.items():
        given, named = calls._last
        if given:
            once = operations(partial(networks[name], *given, **named))
            calls.operations = once * calls.rows / len(given[0])
    return seen


# ---------------------------------------------------------------------------------------------------- random weights


@torch.no_grad()
def alive(network: Module) -> Module:
    """The network, ready to draw, with random numbers where a new one has nothing but zeros.

    Of zeros a GPU multiplies more than of what training leaves; and a last layer of zeros would draw nothing.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=0.1 * parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(requires_grad=False)


def picture(size: int = 512) -> NDArray[np.uint8]:
    """A framed picture, uint8 [size, size, 4]: a ball of many colours."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size - 0.5
    inside = x**2 + y**2 < 0.375**2
    waves = [np.sin(40 * x + 9 * y), np.sin(31 * y - 7 * x), np.cos(25 * (x + y))]
    colors = np.stack([127.5 + 100 * wave for wave in waves], axis=-1) * inside[..., None]
    return np.concatenate([colors, 255.0 * inside[..., None]], axis=-1).astype(np.uint8)
