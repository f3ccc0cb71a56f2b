"""What is each process's own where several train together."""

from __future__ import annotations

import os

import torch

from protocol.errors import TurnaroundError


def own_device(device: str) -> str:
    """This process's own device of "auto", "cpu", "cuda" or "cuda:0"; several processes have a GPU each.

    Raises:
        TurnaroundError: `train.device`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not device.startswith("cuda"):
        return device
    if not torch.cuda.is_available():
        raise TurnaroundError("train.device", "There is no CUDA device here.", "Use --device cpu.", field="device")
    own = os.environ.get("LOCAL_RANK")  # of a process that `accelerate launch` has started
    return f"cuda:{own or device.partition(':')[2] or 0}"
