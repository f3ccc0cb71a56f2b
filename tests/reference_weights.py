"""Weights that follow from their names and shapes: what the reference's numbers in tests/data were computed with."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from backend.generators.xunet.config import XUNetConfig
from backend.generators.xunet.network import XUNet
from backend.reconstructors.sparseneus.config import SparseNeuSConfig
from backend.reconstructors.sparseneus.network import SparseNeuS


def filled(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The values of one entry of a state dict; nothing else is looked at than its key and its shape."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tensor.numel()).reshape(tensor.shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_mean" or leaf.endswith("bias"):
        n = 0.1 * n
    elif leaf == "running_var":
        n = np.exp(0.2 * n)
    elif leaf == "kernel":
        n = n * np.sqrt(2 / np.prod(n.shape[:-1]))
    elif leaf == "weight_g" or n.ndim == 1:
        n = 1 + 0.1 * n
    elif n.ndim >= 2:
        n = n / np.sqrt(np.prod(n.shape[1:]))
    else:
        n = 0.3 + 0.05 * n
    return torch.from_numpy(np.asarray(n, np.float32))


def xunet(config: XUNetConfig) -> XUNet:
    """The network with these weights."""
    network = XUNet(config)
    network.load_state_dict({key: filled(key, value) for key, value in network.state_dict().items()})
    return network.eval()


def sparseneus(config: SparseNeuSConfig) -> SparseNeuS:
    """The network with these weights, and a smooth, closed zero level set in the middle of the volume."""
    network = SparseNeuS(config)
    network.load_state_dict({key: filled(key, value) for key, value in network.state_dict().items()})
    lin0, lin1, lin2 = (getattr(network.sdf_network_lod0.sdf_layer, f"lin{i}") for i in range(3))
    latent = torch.from_numpy(0.001 * np.random.default_rng(5).standard_normal(16))
    with torch.no_grad():
        lin0.weight_v[:, 3:] *= 0.1
        lin1.weight_v[:, :128].abs_()
        lin1.weight_v[:, 128:] *= 0.1
        lin1.weight_g *= 0.1
        lin2.weight_v[0, :128] = 1 / 128
        lin2.weight_v[0, 128:] = latent
        lin2.weight_g[0], lin2.bias[0] = 0.5, -0.7
    return network
