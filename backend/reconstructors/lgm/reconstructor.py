"""LGM as a reconstructor: views in, Gaussians in the object frame out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.geometry.gaussians.gaussians import Gaussians
from backend.geometry.mesh import ViewSet
from backend.weights.store import load_into, read_typed_config
from protocol.errors import TurnaroundError

from .config import LGMConfig
from .frame import first_camera_frame
from .network import LGM
from .rays import network_input

BRIGHTEST = 10.0
"""No guess at a picture in 0..1, however early, is as far away from it as this."""

LARGEST = 10.0
"""Nor is a Gaussian of an object in a cube of side 2 as large."""

VISIBLE = 0.005
"""Gaussians below this opacity are not there, as in the published code's files."""


def load_lgm(path: Path) -> LGM:
    """The network of a weights file, in float32, on the CPU.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, or `weights.mismatch`, whose details name each key.
    """
    network = LGM(read_typed_config(path, LGMConfig, "an LGM"))
    load_into(network, path)
    return network


class LGMReconstructor:
    """One set of weights, ours or published ones.

    Args:
        weights: safetensors with the network's config; or a network.
        device: torch device.

    Raises:
        TurnaroundError: the weights are missing, damaged, or of another network.
    """

    def __init__(self, weights: Path | LGM, device: str = "cpu") -> None:
        self.network = load_lgm(weights) if isinstance(weights, Path) else weights
        self.device = torch.device(device)
        self.network.eval().requires_grad_(requires_grad=False).to(self.device).channels_last()

    @property
    def config(self) -> LGMConfig:
        """The network's."""
        return self.network.config

    @torch.no_grad()
    def gaussians(self, views: ViewSet, timestep: float | None = None) -> Gaussians:
        """What the views show, in the object frame, with unit quaternions.

        Args:
            views: a round of `config.cameras` pictures, the first of which is the input; all are of one size.
            timestep: of the noise that is still in the views; none if left out.

        Raises:
            TurnaroundError: `views.few`; `shape.empty`, nothing was found; `shape.broken`, the network failed.
        """
        if len(views) != self.config.cameras:
            raise TurnaroundError(
                "views.few",
                f"These weights build a shape from {self.config.cameras} views, not {len(views)}.",
                "Ask for as many views.",
            )
        frame = first_camera_frame(views.cameras[0], self.config.radius)
        poses, intrinsics = frame.cameras(views.cameras)
        x = torch.from_numpy(np.asarray(views.images, np.float32) / 255)
        images = (x[..., :3] * x[..., 3:] + 1 - x[..., 3:]).permute(0, 3, 1, 2)
        time = torch.full((1,), timestep or 0.0)
        found = self.look(images[None], poses[None], intrinsics[None], time).index(0)
        require_visible(found)
        return frame.to_object(found if self.config.rotation == "each" else found.with_unit_quaternions())

    def look(self, images: Tensor, world_from_camera: Tensor, intrinsics: Tensor, timestep: Tensor) -> Gaussians:
        """What rounds of views show, in the network's frame, as the network says it.

        Args:
            images: RGB on white in about 0..1, [B, cameras, 3, H, H].
            world_from_camera: OpenCV in the network's frame, [B, cameras, 4, 4].
            intrinsics: in shares of the picture's side, [B, cameras, 3, 3].
            timestep: [B]; weights without time embedding do not look at it.

        Returns:
            [B, N] Gaussians in float32, to be drawn with `config.splatting`.

        Raises:
            TurnaroundError: `shape.broken`, what comes in or out is not finite, or has exploded.
        """
        images, poses, intrinsics, timestep = (
            x.to(self.device) for x in (images, world_from_camera, intrinsics, timestep)
        )
        _require_sound(images, BRIGHTEST, "pictures")
        dtype = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        x = network_input(images, poses, intrinsics, self.config)
        with torch.autocast(self.device.type, dtype):
            found = self.network(x, timestep)
        for name, tensor in vars(found).items():
            _require_sound(tensor, LARGEST, name)
        return found


def require_visible(gaussians: Gaussians) -> None:
    """Refuses Gaussians that are all transparent.

    Raises:
        TurnaroundError: `shape.empty`.
    """
    if not (gaussians.opacities >= VISIBLE).any():
        raise TurnaroundError(
            "shape.empty",
            "Nothing was found in the picture.",
            "Try another seed, or a picture in which the object is larger and stands out from its background.",
        )


def _require_sound(x: Tensor, limit: float, name: str) -> None:
    """Refuses what is not finite or exceeds a limit."""
    largest = float(x.detach().abs().amax())  # NaN if any is
    if not largest <= limit:
        raise TurnaroundError(
            "shape.broken",
            "The shape broke down while it was built.",
            "Try another seed, or more steps.",
            details=f"{name}: largest value {largest}, {int((~x.isfinite()).sum())} not finite",
        )
