"""A set of 3D Gaussians (Kerbl et al. 2023, section 4), as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

WIDTHS = {"means": 3, "quaternions": 4, "scales": 3, "opacities": 0, "colors": 3}
"""Field -> length of its last axis; 0 where a Gaussian has one number."""


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians, or batches of them with the same leading dimensions.

    Attributes:
        means: [..., N, 3], centres in world units.
        quaternions: [..., N, 4], rotations from the Gaussian's axes to the world's, (w, x, y, z).
        scales: [..., N, 3], standard deviations along the Gaussian's axes in world units.
        opacities: [..., N] in 0..1.
        colors: [..., N, 3], sRGB in 0..1, the same from all sides.
    """

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor

    def __post_init__(self) -> None:
        lead = self.opacities.shape
        for name, width in WIDTHS.items():
            expected = (*lead, width) if width else tuple(lead)
            if not lead or tuple(getattr(self, name).shape) != expected:
                raise ValueError(f"{name} must be {expected}, not {tuple(getattr(self, name).shape)}")

    def __len__(self) -> int:
        """N."""
        return self.opacities.shape[-1]

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """Every field through a function."""
        return Gaussians(*(function(getattr(self, field.name)) for field in fields(self)))

    def to(self, device: torch.device | str) -> Gaussians:
        """On a device."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self) -> Gaussians:
        """Without their history."""
        return self.map(Tensor.detach)

    def index(self, i: int) -> Gaussians:
        """Entry i of the first batch dimension."""
        if self.opacities.ndim < 2:
            raise IndexError("these Gaussians have no batch dimension")
        return self.map(lambda tensor: tensor[i])

    def select(self, which: Tensor) -> Gaussians:
        """Those of an unbatched set that a mask [N] or indices [M] choose."""
        if self.opacities.ndim != 1:
            raise IndexError("only an unbatched set can be chosen from")
        return self.map(lambda tensor: tensor[which])

    def transformed(self, rotation: Tensor, scale: float = 1.0, translation: Tensor | None = None) -> Gaussians:
        """The Gaussians after x -> scale * rotation @ x + translation.

        Args:
            rotation: proper, [3, 3].
            scale: positive.
            translation: [3]; none if left out.
        """
        matrix = rotation.to(self.means)
        means = scale * self.means @ matrix.mT
        if translation is not None:
            means = means + translation.to(self.means)
        x, y, z, w = Rotation.from_matrix(rotation.detach().cpu().double().numpy()).as_quat()
        left = self.quaternions.new_tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
        return Gaussians(means, self.quaternions @ left.mT, scale * self.scales, self.opacities, self.colors)

    def axes(self, *, normalise: bool = True) -> Tensor:
        """The scaled axes A as columns, [..., N, 3, 3]; the covariance is A A^T.

        Args:
            normalise: whether quaternions are brought to unit length first, as gsplat does. Without, the polynomial of
                a unit quaternion is evaluated as they are, as the original rasteriser does: short quaternions then
                hardly turn anything.
        """
        quaternions = F.normalize(self.quaternions, dim=-1) if normalise else self.quaternions
        w, x, y, z = quaternions.unbind(-1)
        rotation = torch.stack(
            [
                *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
                *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
                *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
            ],
            dim=-1,
        )
        return rotation.unflatten(-1, (3, 3)) * self.scales[..., None, :]

    @torch.no_grad()
    def with_unit_quaternions(self) -> Gaussians:
        """The Gaussians that look, with normalisation, as these do without: principal axes of the same covariances."""
        # on the CPU, where the rotations go anyway: cuSOLVER refuses more than some ten thousand matrices at once
        axes = self.axes(normalise=False).double().cpu()
        variances, directions = torch.linalg.eigh(axes @ axes.mT)
        directions = directions * torch.linalg.det(directions)[..., None, None].sign()  # no reflections
        xyzw = Rotation.from_matrix(directions.reshape(-1, 3, 3).numpy()).as_quat() if axes.numel() else []
        quaternions = torch.as_tensor(np.asarray(xyzw)).reshape(self.quaternions.shape).roll(1, -1)
        return Gaussians(
            self.means,
            quaternions.to(self.quaternions),
            variances.clamp_min(0).sqrt().to(self.scales),
            self.opacities,
            self.colors,
        )

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Field -> float32 array."""
        return {name: getattr(self, name).detach().cpu().float().numpy() for name in WIDTHS}

    def packed(self) -> NDArray[np.float32]:
        """An unbatched set as one array [N, 14]: the fields' numbers side by side, in the fields' order."""
        return np.concatenate([array.reshape(len(self), -1) for array in self.arrays().values()], axis=1)

    @classmethod
    def unpacked(cls, packed: NDArray[np.floating]) -> Gaussians:
        """The Gaussians whose `packed` this is."""
        ends = np.cumsum([max(width, 1) for width in WIDTHS.values()])
        parts = dict(zip(WIDTHS, np.split(packed, ends[:-1], axis=1), strict=True))
        return cls.from_arrays(parts | {"opacities": parts["opacities"][:, 0]})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.floating]]) -> Gaussians:
        """The Gaussians whose `arrays` these are; others under other names do not matter."""
        return cls(*(torch.from_numpy(np.array(arrays[name], np.float32)) for name in WIDTHS))
