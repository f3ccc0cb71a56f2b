"""Muon on weights that are not matrices."""

from __future__ import annotations

import torch
from torch import nn

from backend.reconstructors.sparseneus.volume import SparseKernel
from backend.training.optimizers import as_matrix, make_optimizers


def test_step_does_not_depend_on_memory_format() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 12, 3)
    laid_out = nn.Conv2d(16, 12, 3).to(memory_format=torch.channels_last)
    laid_out.load_state_dict(plain.state_dict())
    before = plain.weight.detach().clone()
    gradient = torch.randn_like(plain.weight)
    for layer in (plain, laid_out):
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones(12)
        for optimizer in make_optimizers(layer, 1e-2, 0.0):
            optimizer.step()
            optimizer.zero_grad()
        assert layer.weight.grad is None
    step = (plain.weight - before).detach()
    torch.testing.assert_close(laid_out.weight - before, step, atol=1e-4, rtol=2e-2)
    # orthogonalised: every direction moves alike (Newton-Schulz in bf16 leaves singular values of 0.7 to 1.2)
    values = torch.linalg.svdvals(as_matrix(step, plain.weight))
    assert values.min() > 0.4 * values.max()


def test_every_parameter_is_stepped_once() -> None:
    network = nn.Sequential(nn.Conv2d(4, 16, 3), nn.GroupNorm(2, 16), nn.Linear(16, 16), nn.Linear(16, 1))
    network.append(SparseKernel(8, 24))
    optimizers = make_optimizers(network, 1e-2, 0.0)
    before = [p.detach().clone() for p in network.parameters()]
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    assert len(optimizers) == 2
    for optimizer in optimizers:
        optimizer.step()
    assert all((p != b).any() for p, b in zip(network.parameters(), before, strict=True))
    count = sum(p.numel() for o in optimizers for g in o.param_groups for p in g["params"])
    assert count == sum(p.numel() for p in network.parameters())
