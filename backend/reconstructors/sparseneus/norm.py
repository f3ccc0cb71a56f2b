"""What all kinds of normalisation here keep: scale and shift, and the buffers of a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormParameters(nn.Module):
    """Scale and shift of `channels`; with norm "batch" or "running" also the statistics that only the latter uses."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if norm != "group":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.register_buffer("num_batches_tracked", torch.tensor(0))
