"""Maps of a shape that is already known, as feedback for whoever draws the next views (Ouroboros3D, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.mesh import Mesh
from backend.geometry.render import prepare, render


def feedback_maps(mesh: Mesh, cameras: Sequence[Camera], size: int) -> NDArray[np.float32]:
    """What each camera would see of the shape, unlit: float32 [V, size, size, 7].

    Channels: straight RGB and alpha in 0..1, then the object-frame coordinates of the nearest point, 0 where there is
    nothing.
    """
    scene = prepare(mesh)
    renderings = [render(scene, camera, size) for camera in cameras]
    return np.stack(
        [
            np.concatenate([r.rgba.astype(np.float32) / 255, coordinates(r.depth, camera)], axis=-1)
            for r, camera in zip(renderings, cameras, strict=True)
        ]
    )


def coordinates(depth: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Object-frame points [S, S, 3] of a depth map [S, S], 0 where the depth is."""
    size = len(depth)
    focal = camera.focal(size)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    local = np.stack([(x - size / 2) / focal, (y - size / 2) / focal, np.ones_like(x)], axis=-1) * depth[..., None]
    pose = camera.world_from_camera()
    return ((local @ pose[:3, :3].T + pose[:3, 3]) * (depth > 0)[..., None]).astype(np.float32)
