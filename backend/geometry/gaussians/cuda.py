"""Gaussians drawn by gsplat. Imported only where there is CUDA: gsplat, elsewhere, can start a build that crashes.

Where it differs from the CPU: alpha is capped at 0.999 whatever `Splatting.alpha_cap` says, because gsplat (1.5.3 and
1.6.0) has no such parameter, so what covers a pixel by more than 0.99 does so a little more than in LGM's own
rasteriser; and everything is float32. Quaternions are always normalised there, so the covariances of those that must
not be are handed over instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.gaussians.projection import Splatting


def draw_on_cuda(
    gaussians: Gaussians,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    size: int,
    splatting: Splatting,
    background: Tensor,
) -> tuple[Tensor, Tensor] | None:
    """At least one Gaussian, in float32; None where gsplat is missing or could not be built.

    Args: see `render`; both matrices have the Gaussians' leading dimensions.

    Returns:
        Colours over the background and the sum of weight times depth, [..., V, size, size, 4]; and the sums of the
        weights, [..., V, size, size, 1].
    """
    rasterization = _gsplat()
    if rasterization is None:
        return None
    gaussians = gaussians.map(Tensor.float)
    axes = None if splatting.normalise else gaussians.axes(normalise=False)
    image, weights, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quaternions,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors,
        viewmats=camera_from_world.float().contiguous(),
        Ks=intrinsics.float().contiguous(),
        width=size,
        height=size,
        near_plane=splatting.near,
        eps2d=splatting.eps2d,
        packed=False,  # an object is in all pictures whole: nothing is saved by listing what is
        render_mode="RGB+D",
        backgrounds=background.float().expand(*camera_from_world.shape[:-2], 3),  # of the colours alone
        covars=None if axes is None else axes @ axes.mT,
    )
    return image, weights


@cache
def _gsplat() -> Callable[..., Any] | None:
    """gsplat's entry point; None, with a warning, where it is not installed or its kernels cannot be compiled."""
    try:
        from gsplat import rasterization
        from gsplat.cuda import _backend

        missing = "it found no compiler" if _backend._C is None else ""
    except Exception as error:  # where there is a compiler, importing it compiles it, which can fail in any way
        missing = str(error)
    if missing:
        warnings.warn(f"Gaussians are drawn on the CPU, more slowly, for want of gsplat: {missing}", stacklevel=2)
        return None
    return rasterization
