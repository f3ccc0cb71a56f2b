"""Further pictures of the artist's own, painted over a finished mesh where the first one does not see it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.geometry.cameras import Camera
from backend.geometry.colors import project_picture
from backend.geometry.export import vertex_normals
from backend.geometry.mesh import Mesh
from backend.geometry.render import prepare


def paint_over(mesh: Mesh, pictures: Sequence[NDArray[np.uint8]], cameras: Sequence[Camera]) -> Mesh:
    """The mesh in the pictures' colours wherever they see it; each yields to those before it.

    Args:
        mesh: painted already, in the first picture's colours where that one sees it.
        pictures: uint8 [S, S, 4] each, straight alpha, framed; the first is only yielded to.
        cameras: one per picture.
    """
    if not len(mesh.vertices):
        return mesh
    normals = vertex_normals(mesh.vertices, mesh.faces).astype(np.float32)
    scene = prepare(mesh)
    free = np.ones(len(mesh.vertices), np.float32)
    rgb = mesh.colors[:, :3].astype(np.float32)
    for number, (picture, camera) in enumerate(zip(pictures, cameras, strict=True)):
        seen = project_picture(mesh, scene, normals, picture, camera)
        share = (free * seen.weight)[:, None]
        if number:
            rgb = (1 - share) * rgb + share * 255 * seen.rgb
        free *= 1 - seen.weight
    return Mesh(mesh.vertices, mesh.faces, np.hstack([np.round(rgb.clip(0, 255)).astype(np.uint8), mesh.colors[:, 3:]]))
