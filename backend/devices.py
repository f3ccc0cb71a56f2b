"""Devices that run jobs. torch is imported only when it has to be."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import TurnaroundError
from protocol.messages import DeviceInfo

if TYPE_CHECKING:
    import torch


def resolve(device: str) -> str:
    """The torch device string for "auto", "cpu", "cuda", "cuda:1", "mps"; imports torch."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return "cuda:0" if device == "cuda" else device


def describe(device: str) -> DeviceInfo:
    """Name and memory of a resolved device."""
    if device.startswith("cuda"):
        import torch

        try:
            check(device)
        except TurnaroundError:
            return DeviceInfo(name=f"{device} (missing)", kind="cuda")
        free, total = torch.cuda.mem_get_info(device)
        return DeviceInfo(
            name=torch.cuda.get_device_name(device), kind="cuda", memory_total=total, memory_used=total - free
        )
    kind = "mps" if device == "mps" else "cpu"
    name = "Apple GPU" if kind == "mps" else f"Processor, {os.cpu_count()} cores"
    return DeviceInfo(name=name, kind=kind, memory_total=_memory_total(), memory_used=_resident())  # type: ignore[arg-type]


def others(device: str) -> list[DeviceInfo]:
    """The further GPUs of a machine whose first is `device`."""
    if device != "cuda:0":
        return []
    import torch

    return [describe(f"cuda:{number}") for number in range(1, torch.cuda.device_count())]


def check(device: str) -> None:
    """Checks that a device can be used.

    Raises:
        TurnaroundError: `device.missing`.
    """
    if not device.startswith("cuda"):
        return
    import torch

    number = int(device.partition(":")[2] or 0)
    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        raise TurnaroundError(
            "device.missing",
            f'This machine has no device "{device}" that can be used.',
            "Start the backend with --device auto, or install torch with CUDA.",
            field="device",
        )


def empty_cache() -> None:
    """Gives memory that torch keeps back to the device, if torch is loaded at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's CPU allocator, cuBLAS and cuDNN raise bare RuntimeErrors."""
    text = str(error).lower()
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    words = ("out of memory", "not enough memory", "can't allocate memory", "status_alloc_failed")
    return named or (isinstance(error, RuntimeError) and any(word in text for word in words))


def sampling_dtype(device: torch.device) -> torch.dtype:
    """The fastest type that is good enough to draw in: half precision wherever the hardware multiplies it."""
    import torch

    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def picture_dtype(dtype: torch.dtype) -> torch.dtype:
    """What pictures are encoded and decoded in, beside a U-Net of some type: bfloat16's eight bits show as bands."""
    import torch

    return torch.float32 if dtype == torch.bfloat16 else dtype


def _memory_total() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0
