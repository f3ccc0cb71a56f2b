"""Meshes that the project writes are read back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.geometry.export import FORMATS, write_mesh
from backend.geometry.mesh import Mesh
from backend.training.data.meshes import load_mesh


@pytest.mark.parametrize("suffix", FORMATS)
def test_shape_and_every_shade_come_back(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    vertices = rng.uniform(-1, 1, (256, 3))
    vertices -= (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    vertices *= 0.5 / np.linalg.norm(vertices, axis=1).max()
    colors = np.stack([np.arange(256), np.arange(256)[::-1], rng.permutation(256), np.full(256, 255)], axis=1)
    faces = np.append(rng.permutation(255).reshape(-1, 3), [[255, 0, 1]], axis=0)
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int32), colors.astype(np.uint8))
    read = load_mesh(write_mesh(mesh, tmp_path / f"mesh{suffix}"))
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_array_equal(read.colors, mesh.colors)
