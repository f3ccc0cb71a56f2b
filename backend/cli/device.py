"""Which device a command runs on."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from protocol.errors import TurnaroundError


class DeviceChoice(StrEnum):
    """What `--device` can be."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Device = Annotated[DeviceChoice, typer.Option("--device", help="Where to run; auto takes a CUDA GPU if there is one.")]


def choose(wanted: DeviceChoice) -> str:
    """The torch device string for a choice.

    Raises:
        TurnaroundError: `device.missing`, if CUDA was asked for and is not there.
    """
    from backend.devices import resolve

    if wanted is DeviceChoice.CPU:
        return "cpu"
    if wanted is DeviceChoice.CUDA:
        import torch

        if not torch.cuda.is_available():
            raise TurnaroundError(
                "device.missing",
                "There is no CUDA device that can be used here.",
                "Use --device cpu, or install the GPU's driver and a torch with CUDA.",
                field="device",
                details=f"torch {torch.__version__}",
            )
    return resolve(wanted.value)
