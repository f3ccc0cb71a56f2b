"""Weights files of the X-UNet: safetensors whose metadata holds the config, so that one file is one network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from protocol.errors import TurnaroundError

from .config import XUNetConfig
from .network import XUNet


def save_xunet(
    path: Path, state: Mapping[str, Tensor], config: XUNetConfig, *, dtype: torch.dtype = torch.float16
) -> None:
    """Writes a state dict and its config; `load_xunet` reads them."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"config": config.to_json()})


def load_xunet(path: Path) -> XUNet:
    """The network of a weights file, in float32, on the CPU, ready to draw.

    Raises:
        TurnaroundError: `weights.missing` without the file, `weights.damaged` if it is no X-UNet or lacks a tensor.
    """
    if not path.is_file():
        raise TurnaroundError(
            "weights.missing",
            "The view generator's weights are not installed.",
            "Run `turnaround models list` to see what is, and install them.",
            details=str(path),
        )
    try:
        with safe_open(path, framework="pt") as file:
            config = XUNetConfig.from_json((file.metadata() or {}).get("config", ""))
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (it is no dict)
        with torch.device("meta"):
            network = XUNet(config)
        network.load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, msgspec.MsgspecError, OSError, RuntimeError) as error:
        raise TurnaroundError(
            "weights.damaged",
            f"The view generator's weights in {path.name} cannot be used: {_first_fault(error)}.",
            "Install them again.",
            details=f"{path}: {error}",
        ) from error
    return network.channels_last().eval()


def _first_fault(error: Exception) -> str:
    """The part of a loading error that names what is wrong; torch's has it after a headline."""
    lines = str(error).strip().splitlines()
    return (lines[1] if isinstance(error, RuntimeError) and len(lines) > 1 else lines[0]).strip().rstrip(".")[:200]
