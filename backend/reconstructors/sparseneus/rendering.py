"""Volume rendering of the signed distance (NeuS, Wang et al. 2021), as SparseNeuS trains through it.

Rays are sampled evenly, then four times where the surface seems to be; at the samples the distance becomes opacity and
the blending network gives colours as seen from the rendered camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.reconstructors.sparseneus.network import Conditional, SparseNeuS
from backend.reconstructors.sparseneus.sdf import lookup, smooth_lookup

FAR_OUTSIDE = 100.0
"""Distance of samples where too few views look."""

REFINEMENTS = 4
"""Times that samples are added near the surface, each time with a sharper idea of where it is."""

LEAST_VIEWS, LEAST_SAMPLES = 2, 8
"""A ray's colour counts if more than so many of its samples are seen by at least so many views."""


@dataclass
class Rendered:
    """What rays see.

    Attributes:
        colors: over the background, [N, 3].
        valid: whether a ray's colour is to be learned from, bool [N].
        depths: along the rays, [N].
        depth_variances: [N].
        opacities: sums of the weights, [N].
        weights: of the samples, [N, S].
        distances: signed, at the samples, [N, S].
        gradients: of the signed distance at the samples, [N, S, 3]; zero where too few views look.
        active: whether enough views look at a sample, [N, S].
    """

    colors: Tensor
    valid: Tensor
    depths: Tensor
    depth_variances: Tensor
    opacities: Tensor
    weights: Tensor
    distances: Tensor
    gradients: Tensor
    active: Tensor

    def eikonal(self) -> Tensor:
        """How far the gradients are from unit length, squared, on average (SparseNeuS, equation 9)."""
        error = (torch.linalg.vector_norm(self.gradients, dim=-1) - 1).square()
        return (error * self.active).sum() / (self.active.sum() + 1e-5)


def render_rays(
    network: SparseNeuS,
    conditional: Conditional,
    origins: Tensor,
    directions: Tensor,
    near_far: tuple[float, float],
    *,
    anneal: float = 1.0,
    samples: int = 64,
    refined: int = 64,
    background: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rendered:
    """Renders rays of one scene.

    Args:
        network: gives distances and colours.
        conditional: of one scene (B = 1).
        origins: in unit coordinates, [N, 3]; all rays are of one camera.
        directions: unit, [N, 3].
        near_far: depths between which to sample; near may lie behind the camera.
        anneal: from 0 to 1 during training: how far the opacity trusts the angle between ray and surface.
        samples: even ones.
        refined: samples added near the surface; a multiple of four.
        background: brightness behind everything.
        generator: moves the even samples at random within their intervals; None leaves them.
    """
    near, far = near_far
    z = torch.linspace(near, far, samples, device=origins.device).expand(len(origins), -1)
    if generator is not None:
        middle = (z[:, 1:] + z[:, :-1]) / 2
        low, high = torch.cat([z[:, :1], middle], -1), torch.cat([middle, z[:, -1:]], -1)
        z = low + (high - low) * torch.rand(z.shape, generator=generator, device=generator.device).to(z.device)
    with torch.no_grad():
        z = _refine(network, conditional, origins, directions, z, refined)
    return _integrate(network, conditional, origins, directions, z, (far - near) / samples, anneal, background)


def _refine(
    network: SparseNeuS, conditional: Conditional, origins: Tensor, directions: Tensor, z: Tensor, count: int
) -> Tensor:
    """Depths [N, S + count], ascending: those given, and more where the surface is."""
    distances = network.sdf(_points(origins, directions, z).reshape(1, -1, 3), conditional)[0].view(z.shape)
    for step in range(REFINEMENTS):
        active = _active(_points(origins, directions, z), conditional)
        weights = _weights(_section_opacities(distances, z, active[:, :-1] * active[:, 1:], 64.0 * 2**step))
        new = _sample_sections(z, weights, count // REFINEMENTS)
        points = _points(origins, directions, new)
        found = network.sdf(points.reshape(1, -1, 3), conditional)[0].view(new.shape)
        found = torch.where(_active(points, conditional) > 0, found, FAR_OUTSIDE)
        z, order = torch.cat([z, new], -1).sort(-1)
        distances = torch.cat([distances, found], -1).gather(-1, order)
    return z


def _section_opacities(distances: Tensor, z: Tensor, active: Tensor, sharpness: float) -> Tensor:
    """Opacities [N, S - 1] between samples, from their distances alone; a section behind a surface has none."""
    length = z[:, 1:] - z[:, :-1]
    slope = (distances[:, 1:] - distances[:, :-1]) / (length + 1e-5)
    before = F.pad(slope[:, :-1], (1, 0))
    slope = torch.minimum(before, slope).clamp(-10, 0) * active
    middle = (distances[:, 1:] + distances[:, :-1]) / 2
    return active * _opacities(middle, slope, length, sharpness)


def _opacities(distances: Tensor, slope: Tensor, length: Tensor, sharpness: Tensor | float) -> Tensor:
    """NeuS, equation 13, of sections about samples with these distances, not clamped."""
    before = torch.sigmoid((distances - slope * length / 2) * sharpness)
    after = torch.sigmoid((distances + slope * length / 2) * sharpness)
    return (before - after + 1e-5) / (before + 1e-5)


def _weights(opacities: Tensor) -> Tensor:
    """What each section adds to the ray: its opacity times what those before it let through."""
    clear = F.pad((1 - opacities + 1e-7)[:, :-1], (1, 0), value=1.0)
    return opacities * torch.cumprod(clear, dim=-1)


def _sample_sections(z: Tensor, weights: Tensor, count: int) -> Tensor:
    """`count` depths [N, count], evenly spaced in the distribution that the weights [N, S - 1] of the sections are."""
    weights = weights + 1e-5
    cdf = F.pad((weights / weights.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    u = torch.linspace(0.5 / count, 1 - 0.5 / count, count, device=z.device).expand(len(z), -1).contiguous()
    above = torch.searchsorted(cdf, u, right=True)
    low, high = (above - 1).clamp(min=0), above.clamp(max=cdf.shape[-1] - 1)
    width = cdf.gather(-1, high) - cdf.gather(-1, low)
    share = (u - cdf.gather(-1, low)) / torch.where(width < 1e-5, torch.ones_like(width), width)
    return z.gather(-1, low) + share * (z.gather(-1, high) - z.gather(-1, low))


def _integrate(
    network: SparseNeuS,
    conditional: Conditional,
    origins: Tensor,
    directions: Tensor,
    z: Tensor,
    last: float,
    anneal: float,
    background: float,
) -> Rendered:
    length = torch.cat([z[:, 1:] - z[:, :-1], torch.full_like(z[:, :1], last)], -1)
    z = z + length / 2
    points = _points(origins, directions, z)
    active = _active(points, conditional)
    picked = active.flatten() > 0
    if not picked.any():
        picked[0] = True  # it has no weight, and nothing below has to bear an empty list
    inside = points.reshape(1, -1, 3)[:, picked]

    distance, gradient = _distance_and_gradient(network, inside, conditional)
    distances = z.new_full((z.numel(),), FAR_OUTSIDE).masked_scatter(picked, distance).view(z.shape)
    gradients = z.new_zeros(z.numel(), 3).masked_scatter(picked[:, None], gradient).view(*z.shape, 3)
    towards = F.normalize(origins[:1, None] - inside, dim=-1)
    color = network.colors(inside, towards, conditional)[0]
    colors = z.new_zeros(z.numel(), 3).masked_scatter(picked[:, None], color).view(*z.shape, 3)

    cosine = (directions[:, None] * gradients).sum(-1)
    slope = -(F.relu(0.5 - 0.5 * cosine) * (1 - anneal) + F.relu(-cosine) * anneal) * active
    sharpness = network.variance_network_lod0.inverse()
    weights = _weights(_opacities(distances, slope.clamp(-10, 10), length, sharpness).clamp(0, 1) * active)
    opacities = weights.sum(-1)
    depths = (z * weights).sum(-1)
    with torch.no_grad():
        views = network.visible(points.reshape(1, -1, 3), conditional)[0].sum(0).view(z.shape)
    return Rendered(
        colors=(colors * weights[..., None]).sum(1) + background * (1 - opacities[:, None]),
        valid=(views >= LEAST_VIEWS).sum(-1) > LEAST_SAMPLES,
        depths=depths,
        depth_variances=((z - depths[:, None]).square() * weights).sum(-1),
        opacities=opacities,
        weights=weights,
        distances=distances,
        gradients=gradients,
        active=active,
    )


def _distance_and_gradient(network: SparseNeuS, points: Tensor, conditional: Conditional) -> tuple[Tensor, Tensor]:
    """Signed distance [P] and its gradient [P, 3] at points [1, P, 3]; to be learned from if gradients are enabled."""
    learning = torch.is_grad_enabled()
    with torch.enable_grad():
        x = points.detach().requires_grad_()
        latent = (smooth_lookup if learning else lookup)(conditional.volume, x)
        distance = network.sdf_network_lod0.sdf_layer.distance(x, latent)[0]
        (gradient,) = torch.autograd.grad(distance.sum(), x, create_graph=learning)
    return (distance, gradient[0]) if learning else (distance.detach(), gradient[0])


def _points(origins: Tensor, directions: Tensor, z: Tensor) -> Tensor:
    """[N, S, 3] at depths [N, S]."""
    return origins[:, None] + directions[:, None] * z[..., None]


def _active(points: Tensor, conditional: Conditional) -> Tensor:
    """1 where enough views look, else 0: [N, S] at points [N, S, 3]. Cells here lie about the lattice's points."""
    grid = points.flip(-1)[None, :, :, None]
    return F.grid_sample(conditional.mask, grid, mode="nearest", align_corners=False)[0, 0, ..., 0]
