"""One-2-3-45 whole at its published sizes, on a GPU, warm: from a framed picture to the mesh.

It is the product's own recipe, in its default quality, with random weights, which take as long as trained ones; those
of the reconstructor are shaped so that there is a surface. The views are noise, so that the flow which matches them
finds little, and the elevation that the picture itself suggests is what is built on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

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
from backend.bench.reconstruction import with_surface
from backend.devices import picture_dtype, sampling_dtype
from backend.elevation.matching import match_views
from backend.generators.zero123 import published
from backend.generators.zero123.components import Components, NoiseConfig
from backend.generators.zero123.generator import Zero123Generator
from backend.generators.zero123.pose import POSE_SIZE
from backend.pipelines.one2345.published import Published
from backend.pipelines.stage import Progress, StageCache, Stages
from backend.reconstructors.sparseneus.config import PUBLISHED, SparseNeuSConfig
from backend.reconstructors.sparseneus.network import SparseNeuS
from backend.reconstructors.sparseneus.reconstructor import SparseNeuSReconstructor
from backend.weights.store import WeightsEntry
from protocol.messages import Settings

TARGETS = {"whole_seconds": ("<=", 3.0), "unet_evaluations": ("<=", 1120.0)}

ROUNDS = 3
"""The median of so many, after one to warm up."""

STAGES = ("elevation", "preview", "around", "near", "shape", "meshing")
"""As the recipe names them: reading and matching the elevation, the shape of the picture alone by the small weights,
eight views, 32 views, the reconstruction, and surface and colours."""


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        unet: of UNet2DConditionModel.
        vae: of AutoencoderKL.
        image_encoder: of CLIPVisionConfig.
        sparseneus: the reconstructor's.
        settings: of the job.
        matrix: side of the matrices that the device's rate is measured with.
    """

    unet: dict[str, Any] = field(default_factory=lambda: published.UNET)
    vae: dict[str, Any] = field(default_factory=lambda: published.VAE)
    image_encoder: dict[str, Any] = field(default_factory=lambda: published.IMAGE_ENCODER)
    sparseneus: SparseNeuSConfig = PUBLISHED
    settings: Settings = field(default_factory=Settings)
    matrix: int = 8192


def measure(device: str | None = None, sizes: Sizes | None = None) -> dict[str, float]:
    """Makes the mesh again and again, nothing remembered.

    Returns:
        Seconds of the whole and of each of `STAGES`; what the U-Net was given, in latents, both halves of the guidance
        counted, and the seconds in it; the most memory, networks included; the device's own rate, and which share of
        it the whole and the U-Net come to.

    Raises:
        TurnaroundError: `bench.gpu`.
    """
    device, sizes = device or gpu(), sizes or Sizes()
    rate = matmul_rate(device, sizes.matrix)
    forget_peak(device)
    recipe = RandomWeights(sizes, device)
    work = operations(recipe.run)  # warms up as well
    result = medians([recipe.run() for _ in range(ROUNDS)])
    peak = peak_gibibytes(device)
    unet = watched(device, {"unet": recipe.generator.components.unet}, recipe.run)["unet"]
    return result | {
        "unet_seconds": unet.seconds,
        "unet_evaluations": float(unet.rows),
        "unet_share_of_matmul_rate": unet.operations / (rate * unet.seconds),
        "share_of_matmul_rate": work / (rate * result["whole_seconds"]),
        "matmul_teraflops": rate / 1e12,
        "peak_gibibytes": peak,
    }


class RandomWeights(Published):
    """The product's recipe with random weights, in the types that it computes in."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        super().__init__("zero123-xl", device)
        self.settings = sizes.settings
        torch.manual_seed(0)
        self.generator = Zero123Generator(random_zero123(sizes, device), device)
        self.reconstructor = SparseNeuSReconstructor(
            with_surface(SparseNeuS(sizes.sparseneus)), device, input_is_source=self.input_is_source
        )
        self.matcher = match_views

    def digest(self, entry: WeightsEntry) -> str:
        """Of no file."""
        return "random"

    def run(self) -> dict[str, float]:
        """Seconds of the whole and of its stages."""
        progress = Progress()
        stages = Stages(StageCache(), progress)
        self.generator.forget()
        whole, _ = timed(str(self.device), lambda: self.make([picture()], self.settings, 0, stages))
        return {"whole_seconds": whole} | {f"{name}_seconds": progress.seconds[name] for name in STAGES}


def random_zero123(sizes: Sizes, device: str) -> Components:
    """New networks, made where they are to be."""
    dtype = sampling_dtype(torch.device(device))
    of_pictures = picture_dtype(dtype)
    with torch.device(device):
        unet: Any = UNet2DConditionModel(**sizes.unet)
        vae: Any = AutoencoderKL(**sizes.vae)
        image_encoder: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes.image_encoder))
        projection = nn.Linear(image_encoder.config.projection_dim + POSE_SIZE, unet.config.cross_attention_dim)
    noise = msgspec.convert(published.SCHEDULER, NoiseConfig)
    return Components(
        unet=alive(unet).to(dtype),
        vae=alive(vae).to(of_pictures),
        image_encoder=alive(image_encoder).to(of_pictures),
        cc_projection=alive(projection),
        noise=noise,
        pose="relative",
    )
