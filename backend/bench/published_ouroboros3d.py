"""Ouroboros3D at its published sizes, on a GPU, warm: the views with feedback at every step, then the mesh.

It is the product's own loop, previews for the viewport included, with random weights, which take as long as trained
ones; those of the reconstructor are shaped so that its Gaussians have plausible places, sizes and opacities. As they
are a cloud and no surface, the mesh is made of as many on a ball.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder

from backend.bench._meter import (
    alive,
    forget_peak,
    gpu,
    matmul_rate,
    medians,
    operations,
    peak_gibibytes,
    picture,
    timed,
    watched,
)
from backend.bench.fusion import bumpy_ball
from backend.devices import picture_dtype, sampling_dtype
from backend.generators.multiview_svd import config as multiview
from backend.generators.multiview_svd.cameras import network_cameras
from backend.generators.multiview_svd.config import MultiviewConfig
from backend.generators.multiview_svd.generator import MultiviewGenerator
from backend.generators.multiview_svd.model import MultiviewModel, make_image_encoder
from backend.generators.multiview_svd.network import MultiviewUNet
from backend.generators.multiview_svd.pixels import VideoVAE
from backend.pipelines.ouroboros3d.feedback import maps_of
from backend.pipelines.ouroboros3d.loop import Feeding
from backend.pipelines.ouroboros3d.networks import Networks
from backend.pipelines.ouroboros3d.recipe import Watch, mesh_of
from backend.pipelines.stage import Progress, StageCache, Stages
from backend.preparation.framing import framed_camera
from backend.reconstructors.lgm import config as lgm
from backend.reconstructors.lgm.activation import CHANNELS
from backend.reconstructors.lgm.config import LGMConfig
from backend.reconstructors.lgm.network import LGM
from backend.reconstructors.lgm.rays import INPUT_CHANNELS
from backend.reconstructors.lgm.reconstructor import LGMReconstructor
from protocol.messages import Settings

TARGETS = {"whole_seconds": ("<=", 10.0), "peak_gibibytes": ("<=", 24.0)}

ROUNDS = 3
"""The median of so many, after one to warm up."""

ELEVATION_DEG = 15.0


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        generator: the generator's.
        vae: of AutoencoderKLTemporalDecoder.
        lgm: the reconstructor's.
        steps: denoising steps.
        settings: of the job.
        matrix: side of the matrices that the device's rate is measured with.
    """

    generator: MultiviewConfig = multiview.OUROBOROS3D
    vae: dict[str, Any] = field(default_factory=lambda: multiview.VIDEO_VAE)
    lgm: LGMConfig = lgm.OUROBOROS3D
    steps: int = multiview.OUROBOROS3D.steps
    settings: Settings = field(default_factory=Settings)
    matrix: int = 8192


def measure(device: str | None = None, sizes: Sizes | None = None) -> dict[str, float]:
    """Draws and meshes again and again, nothing remembered.

    Returns:
        Seconds of the whole, of all steps, and of the mesh; then of the parts of the steps, each waited for, which
        takes longer: the U-Net, the decoder, the reconstructor, and drawing its Gaussians. What the U-Net was given, in
        views, both halves of the guidance counted; the most memory, networks included; the device's own rate, and which
        share of it the whole and the U-Net come to.

    Raises:
        TurnaroundError: `bench.gpu`.
    """
    device, sizes = device or gpu(), sizes or Sizes()
    rate = matmul_rate(device, sizes.matrix)
    forget_peak(device)
    networks = RandomNetworks(sizes, device)
    work = operations(networks.run)  # warms up as well
    result = medians([networks.run() for _ in range(ROUNDS)])
    peak = peak_gibibytes(device)
    model = networks.generator.model
    decoder = {"decoder": model.vae.vae.decoder} if isinstance(model.vae, VideoVAE) else {}
    parts = {"unet": model.network, **decoder, "reconstructor": networks.reconstructor.network}
    seen = watched(device, parts, networks.draw_views)
    unet = seen["unet"]
    splatting = median(timed(device, networks.splat)[0] for _ in range(ROUNDS)) * (sizes.steps - 1)
    return result | {
        **{f"{name}_seconds": calls.seconds for name, calls in seen.items()},
        "splatting_seconds": splatting,
        "unet_evaluations": float(unet.rows * sizes.generator.frames),
        "unet_share_of_matmul_rate": unet.operations / (rate * unet.seconds),
        "share_of_matmul_rate": work / (rate * result["whole_seconds"]),
        "matmul_teraflops": rate / 1e12,
        "peak_gibibytes": peak,
    }


class RandomNetworks(Networks):
    """The product's networks with random weights, in the types that they compute in."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        torch.manual_seed(0)
        self.generator = MultiviewGenerator(random_generator(sizes, device), device)
        self.reconstructor = LGMReconstructor(random_lgm(sizes.lgm, device), device)
        self.digest = "random"
        self.sizes, self.device = sizes, device
        self.picture, self.camera = picture(), framed_camera(ELEVATION_DEG)
        self.ball = bumpy_ball(sizes.lgm.count).to(device)

    def run(self) -> dict[str, float]:
        """Seconds of the whole and of its two halves."""
        drawing, _ = timed(self.device, self.draw_views)
        meshing, _ = timed(self.device, self.mesh)
        return {"whole_seconds": drawing + meshing, "drawing_seconds": drawing, "mesh_seconds": meshing}

    def draw_views(self) -> None:
        """All steps, in the generator's own guidance."""
        progress = Progress()
        self.draw(
            self.picture,
            self.camera,
            seed=0,
            steps=self.sizes.steps,
            guidance=None,
            feeding=Feeding(),
            stages=Stages(StageCache(), progress),
            on_state=Watch(progress),
        )

    def mesh(self) -> None:
        """Of Gaussians to a mesh with colours."""
        stages = Stages(StageCache(), Progress())
        mesh_of(self.ball, self.picture, self.camera, self.sizes.settings, stages, self.digest, outline=False)

    def splat(self) -> None:
        """What one step is shown."""
        cameras = network_cameras(self.generator.config, [ELEVATION_DEG])
        batch = self.ball.map(lambda tensor: tensor[None])
        maps_of(batch, cameras, self.generator.config.size, self.reconstructor.config)


def random_generator(sizes: Sizes, device: str) -> MultiviewModel:
    """New networks, made where they are to be."""
    dtype = sampling_dtype(torch.device(device))
    of_pictures = picture_dtype(dtype)
    with torch.device(device):
        model = MultiviewModel(
            sizes.generator,
            network=MultiviewUNet(sizes.generator).to(dtype),
            image_encoder=make_image_encoder(sizes.generator).to(of_pictures),
            vae=VideoVAE(AutoencoderKLTemporalDecoder(**sizes.vae), of_pictures),
        )
    return alive(model)


@torch.no_grad()
def random_lgm(config: LGMConfig, device: str) -> LGM:
    """A new network whose last layer makes plausible Gaussians of what the others say of noise."""
    with torch.device(device):
        network = alive(LGM(config))
        noise = torch.randn(len(config.views), INPUT_CHANNELS, config.input_size, config.input_size)
        raw = network.unet(noise, torch.zeros(1) if config.time_channels else None)
        wanted = torch.tensor([0.0, 0.25]).repeat(CHANNELS, 1)  # mean and deviation, here of the place
        wanted[3], wanted[4:7], wanted[7:] = _pair(0.0, 2.0), _pair(-3.0, 0.3), _pair(0.0, 1.0)
        scale = wanted[:, 1] / raw.std((0, 2, 3))
        network.conv.weight.copy_(torch.diag(scale)[:, :, None, None])
        network.conv.bias.copy_(wanted[:, 0] - scale * raw.mean((0, 2, 3)))  # type: ignore[union-attr]
    return network


def _pair(mean: float, deviation: float) -> torch.Tensor:
    return torch.tensor([mean, deviation])
