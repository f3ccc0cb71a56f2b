"""What both kinds of normalisation here keep: scale and shift, and the buffers of a checkpoint."""

from __future__ import annotations

import torch
from torch import nn


class NormParameters(nn.Module):
    """Scale and shift of `channels`; with norm "batch" also the running statistics, which are loaded and never used."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if norm == "batch":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.register_buffer("num_batches_tracked", torch.tensor(0))
