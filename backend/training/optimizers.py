"""Muon for the matrices of a network, AdamW for what is not one.

Muon (Jordan et al. 2024) steps along the orthogonalised momentum of a weight matrix, so that directions which the
gradient seldom shows are learnt as fast as the common ones. For networks and budgets as small as ours that is worth
about twice the samples (docs/results.md, "How the weights were made").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_SIDE = 8
"""Matrices narrower than this have too few directions to balance: AdamW's."""


def as_matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """A weight, or its gradient, as the matrix that the weight multiplies by.

    Args:
        tensor: to lay out.
        like: the weight, whose memory format gives the order: [out, in, ...] of a linear layer or convolution, or
            [27, in, out] of a sparse convolution.

    Returns:
        [out, rest] or its transpose; a view where `tensor` is `like` itself and dense. The order of the rest does not
        matter, as Muon's step turns with it, but it has to be the same for both.
    """
    if like.ndim == 3:
        return tensor.flatten(0, 1)
    rest = sorted(range(1, like.ndim), key=like.stride, reverse=True)
    return tensor.permute(0, *rest).reshape(len(like), -1)


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, which knows matrices only, on views of weights of any shape.

    Args:
        weights: to train, each with at least two axes.
        lr: in AdamW's measure.
        weight_decay: decoupled.
    """

    def __init__(self, weights: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        self.weights = weights
        self.matrices = [nn.Parameter(as_matrix(w.detach(), w)) for w in weights]
        for weight, matrix in zip(weights, self.matrices, strict=True):
            if matrix.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
                raise ValueError("a weight whose memory is not dense cannot be viewed as a matrix")
        super().__init__(self.matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """A step with the weights' gradients."""
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad, weight)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of the weights and of their views."""
        super().zero_grad(set_to_none)
        for weight in self.weights:
            weight.grad = None


def make_optimizers(network: nn.Module, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Optimizers that together step every parameter once.

    Args:
        network: on the device that it will be trained on.
        learning_rate: of Muon, in AdamW's measure; AdamW takes a quarter of it, since norms and biases want less.
        weight_decay: of both.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2 and min(as_matrix(p, p).shape) >= SMALLEST_SIDE]
    chosen = set(map(id, matrices))
    rest = [p for p in parameters if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, learning_rate, weight_decay))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, learning_rate / 4, betas=(0.9, 0.99), weight_decay=weight_decay))
    return optimizers
