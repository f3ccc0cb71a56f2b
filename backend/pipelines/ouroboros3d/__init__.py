"""Ouroboros3D (Wen et al. 2024): views drawn while their reconstruction is looked at, Gaussians, a coloured mesh."""

from backend.pipelines.ouroboros3d.pipeline import Ouroboros3D

PIPELINE = Ouroboros3D()
