"""Inception v3 (Szegedy et al. 2016) as FID uses it: the network of 2015 that TensorFlow published.

It differs from the later ones in that average pooling leaves the padding out of the mean, and in that the last block
takes the maximum instead. Names are torchvision's, under which pytorch-fid publishes the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Unit = tuple[str, int, tuple[int, int]]
"""Name, channels out, kernel (height, width)."""

Branch = Sequence[Unit]


class Inception(nn.Module):
    """Pictures [N, 3, 299, 299] in -1..1 to features [N, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), stride=2, padding=(0, 0))
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3), padding=(0, 0))
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3), padding=(0, 0))
        self.Mixed_5b = Mixed(192, _fine(), pooled=32)
        self.Mixed_5c = Mixed(256, _fine(), pooled=64)
        self.Mixed_5d = Mixed(288, _fine(), pooled=64)
        self.Mixed_6a = Mixed(288, _TO_MIDDLE)
        self.Mixed_6b = Mixed(768, _middle(128), pooled=192)
        self.Mixed_6c = Mixed(768, _middle(160), pooled=192)
        self.Mixed_6d = Mixed(768, _middle(160), pooled=192)
        self.Mixed_6e = Mixed(768, _middle(192), pooled=192)
        self.Mixed_7a = Mixed(768, _TO_COARSE)
        self.Mixed_7b = Mixed(1280, _COARSE, pooled=192)
        self.Mixed_7c = Mixed(2048, _COARSE, pooled=192, maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for name, module in self.named_children():
            x = module(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean((2, 3))


class Mixed(nn.Module):
    """Several chains of convolutions side by side, and the input pooled.

    Args:
        channels: in.
        branches: chains of units; those that begin alike share the beginning.
        pooled: channels of the convolution after the pooling; 0 is a block that halves the side: its chains' last units
            and its pooling, which is of the maximum and has no convolution, move by two pixels without padding.
        maximum: pool the maximum instead of the mean.
    """

    def __init__(self, channels: int, branches: Sequence[Branch], *, pooled: int = 0, maximum: bool = False) -> None:
        super().__init__()
        self.halves, self.maximum = not pooled, maximum
        self.chains = [tuple(name for name, _, _ in branch) for branch in branches]
        for branch in branches:
            before = channels
            for place, (name, after, kernel) in enumerate(branch):
                last = self.halves and place == len(branch) - 1
                if not hasattr(self, name):
                    unit = ConvNorm(before, after, kernel, 2, (0, 0)) if last else ConvNorm(before, after, kernel)
                    self.add_module(name, unit)
                before = after
        if pooled:
            self.branch_pool = ConvNorm(channels, pooled, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, all chains' channels, H, W], or half the side."""
        known: dict[tuple[str, ...], Tensor] = {(): x}
        for chain in self.chains:
            for end in range(1, len(chain) + 1):
                if chain[:end] not in known:
                    known[chain[:end]] = self.get_submodule(chain[end - 1])(known[chain[: end - 1]])
        if self.halves:
            pooled = F.max_pool2d(x, 3, 2)
        elif self.maximum:
            pooled = self.branch_pool(F.max_pool2d(x, 3, 1, 1))
        else:
            pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return torch.cat([*(known[chain] for chain in self.chains), pooled], dim=1)


class ConvNorm(nn.Module):
    """Convolution, batch normalisation with fixed statistics, ReLU; the padding keeps the size unless given."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        same = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(channels, out, kernel, stride, same if padding is None else padding, bias=False)
        self.bn = FixedNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, out, ...]."""
        return F.relu(self.bn(self.conv(x)))


class FixedNorm(nn.Module):
    """Batch normalisation that is never trained, and so counts no batches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=1e-3)


def _fine() -> list[Branch]:
    double = [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))]
    return [[("branch1x1", 64, (1, 1))], [("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))], double]


def _middle(inner: int) -> list[Branch]:
    single = [("branch7x7_1", inner, (1, 1)), ("branch7x7_2", inner, (1, 7)), ("branch7x7_3", 192, (7, 1))]
    double = [
        ("branch7x7dbl_1", inner, (1, 1)),
        ("branch7x7dbl_2", inner, (7, 1)),
        ("branch7x7dbl_3", inner, (1, 7)),
        ("branch7x7dbl_4", inner, (7, 1)),
        ("branch7x7dbl_5", 192, (1, 7)),
    ]
    return [[("branch1x1", 192, (1, 1))], single, double]


_TO_MIDDLE: list[Branch] = [
    [("branch3x3", 384, (3, 3))],
    [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))],
]

_TO_COARSE: list[Branch] = [
    [("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3))],
    [
        ("branch7x7x3_1", 192, (1, 1)),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, (3, 3)),
    ],
]

_COARSE: list[Branch] = [
    [("branch1x1", 320, (1, 1))],
    [("branch3x3_1", 384, (1, 1)), ("branch3x3_2a", 384, (1, 3))],
    [("branch3x3_1", 384, (1, 1)), ("branch3x3_2b", 384, (3, 1))],
    [("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)), ("branch3x3dbl_3a", 384, (1, 3))],
    [("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
]
