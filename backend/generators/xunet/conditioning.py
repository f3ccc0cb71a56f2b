"""What the X-UNet is told besides the pictures: the rays of both cameras and the noise level of both frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import XUNetConfig


def positional_encoding(x: Tensor, octaves: int) -> Tensor:
    """NeRF's encoding in 3DiM's order: x, then sin(2^i x) for all i, then the same a quarter turn on.

    Args:
        x: [..., 3].
        octaves: frequencies 2^0 .. 2^(octaves - 1).

    Returns:
        [..., 3 + 6 * octaves], the three coordinates side by side within each octave.
    """
    scales = 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    scaled = (x[..., None, :] * scales[:, None]).flatten(-2)
    return torch.cat([x, torch.sin(torch.cat([scaled, scaled + math.pi / 2], dim=-1))], dim=-1)


def rays(world_from_camera: Tensor, intrinsics: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres (at + 0.5) of square pictures, in world coordinates.

    Args:
        world_from_camera: [..., 4, 4], OpenCV camera axes.
        intrinsics: [..., 3, 3] for pictures of `size` pixels.
        size: S.

    Returns:
        Origins [..., S, S, 3] and unit directions [..., S, S, 3].
    """
    centres = torch.arange(size, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1)
    world_from_pixel = world_from_camera[..., :3, :3] @ torch.linalg.inv(intrinsics)
    directions = torch.einsum("...ij,hwj->...hwi", world_from_pixel, pixels)
    directions = nn.functional.normalize(directions, dim=-1)
    return world_from_camera[..., None, None, :3, 3].expand_as(directions), directions


def ray_encoding(config: XUNetConfig, world_from_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """Encoded ray origins and directions at the resolution of level 0.

    Args:
        config: the network's.
        world_from_camera: float32 [B, F, 4, 4], OpenCV camera axes.
        intrinsics: float32 [B, F, 3, 3] for pictures of `config.size` pixels.

    Returns:
        float32 [B, F, config.ray_channels, h, h] with h = config.inner_size.
    """
    scale = torch.tensor([1.0 / config.patch, 1.0 / config.patch, 1.0], device=intrinsics.device)
    origins, directions = rays(world_from_camera.float(), intrinsics.float() * scale[:, None], config.inner_size)
    encoded = [
        positional_encoding(origins, config.origin_octaves),
        positional_encoding(directions, config.direction_octaves),
    ]
    return torch.cat(encoded, dim=-1).movedim(-1, -3)


def turn_to_input(world_from_camera: Tensor, maps: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Turns scenes about the vertical so that the first camera, the input's, has azimuth 0.

    The azimuth is read off the right axis, which is level in every orbit camera and defined at the poles as well.

    Args:
        world_from_camera: [B, F, 4, 4] in the object frame (Z up).
        maps: [B, F, H, W, 7]; channels 4 to 6 are object-frame coordinates and turn along.

    Returns:
        Both, turned.
    """
    right = world_from_camera[:, 0, :2, 0]
    c, s = (right / torch.linalg.vector_norm(right, dim=-1, keepdim=True)).unbind(-1)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    turn = torch.stack([c, s, zero, -s, c, zero, zero, zero, one], dim=-1).view(-1, 1, 3, 3)
    turned = world_from_camera.clone()
    turned[..., :3, :] = turn @ world_from_camera[..., :3, :]
    if maps is None:
        return turned, None
    coordinates = torch.einsum("bij,bfhwj->bfhwi", turn[:, 0].to(maps.dtype), maps[..., 4:7])
    return turned, torch.cat([maps[..., :4], coordinates], dim=-1)


def noise_embedding(logsnr: Tensor, channels: int, kind: str) -> Tensor:
    """Sinusoids of the noise level: DDPM's timestep embedding of 1000 u.

    Args:
        logsnr: [...].
        channels: even.
        kind: "arctan" has u = 2 atan(exp(-logsnr / 2)) / pi, between 0 (clean) and 1; "raw" has u = logsnr.

    Returns:
        float32 [..., channels]: sines, then cosines.
    """
    logsnr = logsnr.float().clamp(-20.0, 20.0)
    u = logsnr if kind == "raw" else 2 * torch.atan(torch.exp(-logsnr / 2)) / math.pi
    half = channels // 2
    exponents = torch.arange(half, device=logsnr.device, dtype=torch.float32) / (half - 1)
    angles = 1000.0 * u[..., None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConditioningProcessor(nn.Module):
    """Embeds noise levels and rays; the rays once per level, by a convolution with the level's stride."""

    def __init__(self, config: XUNetConfig) -> None:
        super().__init__()
        self.config = config
        rays, width, size = config.ray_channels, config.emb_channels, config.inner_size
        std = 1 / math.sqrt(rays)
        self.logsnr_emb_emb = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pos_emb = nn.Parameter(torch.randn(rays, size, size) * std)
        self.first_emb = nn.Parameter(torch.randn(1, 1, rays, 1, 1) * std)
        self.other_emb = nn.Parameter(torch.randn(1, 1, rays, 1, 1) * std)
        self.convs = nn.ModuleList(
            nn.Conv2d(rays, width, 3, stride=2**level, padding=1) for level in range(config.levels)
        )

    def embed_noise(self, logsnr: Tensor) -> Tensor:
        """Log-SNR [B, 2] to [B, 2, emb_channels]."""
        sinusoids = noise_embedding(logsnr, self.config.emb_channels, self.config.noise_embedding)
        return self.logsnr_emb_emb(sinusoids.to(self.pos_emb.dtype))

    def embed_poses(self, rays: Tensor) -> tuple[Tensor, ...]:
        """Ray encodings [B, 2, ray_channels, h, h], zeros where unconditional, to one map per level.

        Returns:
            [B * 2, emb_channels, h / 2^level, h / 2^level] for each level.
        """
        frames = torch.cat([self.first_emb, self.other_emb], dim=1)
        x = (rays.to(self.pos_emb.dtype) + self.pos_emb + frames).flatten(0, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        return tuple(conv(x) for conv in self.convs)
