"""What the generator is shown of the reconstruction (Wen et al. 2024, section 3.2)."""

from __future__ import annotations

import torch

from backend.generators.multiview_svd.network import Cameras, Maps
from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.render import Rendered, render
from backend.reconstructors.lgm.ccm import coordinate_map
from backend.reconstructors.lgm.config import LGMConfig


def maps_of(gaussians: Gaussians, cameras: Cameras, size: int, config: LGMConfig) -> Maps:
    """Colours on white and coordinates of Gaussians [B, N] in the network's frame, from each of the cameras [B, F].

    Args:
        gaussians: as the reconstructor gives them.
        cameras: of the views.
        size: side of the maps in pixels.
        config: the reconstructor's: how its Gaussians are drawn, and which coordinates the generator has learned.
    """
    world_from_camera, intrinsics = (matrix.to(gaussians.means.device) for matrix in cameras)
    pixels = intrinsics.clone()
    pixels[..., :2, :] *= size
    with torch.no_grad():
        seen = render(gaussians, world_from_camera, pixels, size, splatting=config.splatting)
        return maps_seen(seen, Cameras(world_from_camera, intrinsics), config)


def maps_seen(seen: Rendered, cameras: Cameras, config: LGMConfig) -> Maps:
    """The same of Gaussians that have been drawn already, from all of the cameras; differentiable."""
    coordinates = coordinate_map(seen.depths, seen.alphas, *cameras, config)
    return Maps(seen.colors.clamp(0, 1).movedim(-1, -3), coordinates)
