"""The multi-view U-Net: Stable Video Diffusion's, told where each view looks and what was reconstructed so far.

The U-Net is diffusers' as it is, and so are its names; only the order in which its blocks are called is written here,
because the two additions go in between them (Wen et al. 2024, section 3.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .adapters import Adapter
from .config import MultiviewConfig
from .plucker import PluckerEmbedding, encode_plucker

FEW_TOKENS = 256
"""Up to so many pixels of a latent, attention is computed in plain products, which saves an eighth of the time."""


class Cameras(NamedTuple):
    """Where the views look from.

    Attributes:
        world_from_camera: float32 [B, F, 4, 4], OpenCV's axes, in the network's frame: see `cameras`.
        intrinsics: float32 [B, F, 3, 3], of a picture that is one unit wide and high.
    """

    world_from_camera: Tensor
    intrinsics: Tensor


class Maps(NamedTuple):
    """Feedback: the reconstruction seen from each view.

    Attributes:
        colors: [B, F, 3, S, S] in 0..1, on white.
        coordinates: [B, F, 3, S, S] in 0..1, where each pixel's surface lies; 0.5 in the background.
    """

    colors: Tensor
    coordinates: Tensor


class MultiviewUNet(nn.Module):
    """Predicts the velocity of all views' latents at once; its state dict has the keys of `mv_model_unet.pth`."""

    def __init__(self, config: MultiviewConfig) -> None:
        super().__init__()
        self.config = config
        channels, last = config.channels, config.levels - 1
        unet: Any = UNetSpatioTemporalConditionModel(
            sample_size=config.latent_size,
            in_channels=2 * config.latent_channels,
            out_channels=config.latent_channels,
            down_block_types=("CrossAttnDownBlockSpatioTemporal",) * last + ("DownBlockSpatioTemporal",),
            up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * last,
            block_out_channels=channels,
            addition_time_embed_dim=config.time_id_width,
            projection_class_embeddings_input_dim=3 * config.time_id_width,
            layers_per_block=config.layers,
            cross_attention_dim=config.context,
            num_attention_heads=config.heads,
            num_frames=config.frames,
        )
        if config.latent_size**2 <= FEW_TOKENS:
            unet.set_default_attn_processor()
        self.unet = unet
        self.cond_encoder = nn.ModuleList(Adapter(config.factor, channels, config.adapter_layers) for _ in Maps._fields)
        into_up = (channels[last], *channels[:0:-1])
        self.down_plucker = nn.ModuleList(
            PluckerEmbedding(config.octaves, width) for width in (channels[0], *channels[:-1])
        )
        self.mid_plucker = PluckerEmbedding(config.octaves, channels[last])
        self.up_plucker = nn.ModuleList(PluckerEmbedding(config.octaves, width) for width in into_up)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.unet.conv_in.weight.dtype

    def enable_gradient_checkpointing(self) -> None:
        """Computes the U-Net's blocks twice in training, to keep less of them in memory."""
        self.unet.enable_gradient_checkpointing()

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        context: Tensor,
        added_time_ids: Tensor,
        cameras: Cameras,
        feedback: Maps | None = None,
    ) -> Tensor:
        """The velocity.

        Args:
            latents: [B, F, 2 C, h, w]: noisy and scaled for the noise's level, then the condition's.
            timestep: [B], 0.25 ln sigma.
            context: [B, 1, D], the picture's embedding.
            added_time_ids: [B, 3]: frames per second less one, motion, noise on the condition.
            cameras: of the views, [B, ...]; or [b, ...] if that many rows of `latents` follow one another B / b times,
                as the two halves of guidance do.
            feedback: likewise; None leaves the adapters out, which is not the same as maps of zeros.

        Returns:
            [B, F, C, h, w].
        """
        unet, (batch, frames) = self.unet, latents.shape[:2]
        embedding = self._embed_times(timestep, added_time_ids).repeat_interleave(frames, dim=0)
        context = context.to(self.dtype).repeat_interleave(frames, dim=0)
        each = {"temb": embedding, "image_only_indicator": latents.new_zeros(batch, frames, dtype=self.dtype)}
        attended = {**each, "encoder_hidden_states": context}
        extra = self._features(feedback, batch)
        looks = _Looks(cameras, self.config.octaves, batch, self.dtype)

        h = unet.conv_in(latents.flatten(0, 1).to(self.dtype))
        skips = [h]
        # The published code adds to h in place, and h is the newest skip as well; so that one has to have it too.
        for block, plucker, feature in zip(unet.down_blocks, self.down_plucker, extra, strict=True):
            skips[-1] = h = h + looks.add(plucker, h)
            h, outputs = _down(block, h, context, embedding, each["image_only_indicator"], feature)
            skips += outputs
        skips[-1] = h = h + looks.add(self.mid_plucker, h)
        h = unet.mid_block(h, **attended)
        if extra[-1] is not None:
            h = h + extra[-1]
        for block, plucker in zip(unet.up_blocks, self.up_plucker, strict=True):
            h = h + looks.add(plucker, h)
            count = len(block.resnets)
            taken, skips = tuple(skips[-count:]), skips[:-count]
            h = block(h, res_hidden_states_tuple=taken, **(attended if _attends(block) else each))
        h = unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
        return h.unflatten(0, (batch, frames))

    def encode_feedback(self, feedback: Maps) -> list[Tensor]:
        """The sum of both adapters' features, [B F, C, s, s] of each level."""
        both = [
            adapter(maps.flatten(0, 1).to(self.dtype))
            for adapter, maps in zip(self.cond_encoder, feedback, strict=True)
        ]
        return [sum(features[1:], features[0]) for features in zip(*both, strict=True)]

    def _features(self, feedback: Maps | None, batch: int) -> list[Tensor | None]:
        if feedback is None:
            return [None] * self.config.levels
        repeats = batch // len(feedback.colors)
        return [feature.repeat(repeats, 1, 1, 1) for feature in self.encode_feedback(feedback)]

    def _embed_times(self, timestep: Tensor, added_time_ids: Tensor) -> Tensor:
        """[B, 4 C]."""
        unet, batch = self.unet, len(added_time_ids)
        time = unet.time_embedding(unet.time_proj(timestep.expand(batch)).to(self.dtype))
        added = unet.add_time_proj(added_time_ids.flatten()).reshape(batch, -1).to(self.dtype)
        return time + unet.add_embedding(added)


class _Looks:
    """Plücker encodings at each resolution, made in float32 when they are first asked for."""

    def __init__(self, cameras: Cameras, octaves: int, batch: int, dtype: torch.dtype) -> None:
        self._cameras = Cameras(*(matrix.flatten(0, 1).float() for matrix in cameras))
        self._repeats = batch // len(cameras.world_from_camera)
        self._octaves, self._dtype = octaves, dtype
        self._encoded: dict[tuple[int, int], Tensor] = {}

    def add(self, embedding: nn.Module, h: Tensor) -> Tensor:
        """What `embedding` adds to h [B F, C, h, w]."""
        size = (h.shape[-2], h.shape[-1])
        if size not in self._encoded:
            with torch.autocast(h.device.type, enabled=False):  # the highest octave multiplies half precision's error
                encoded = encode_plucker(*self._cameras, size, self._octaves)
            self._encoded[size] = encoded.to(self._dtype)
        return embedding(self._encoded[size]).repeat(self._repeats, 1, 1, 1)


def _attends(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _down(
    block: Any, h: Tensor, context: Tensor, embedding: Tensor, indicator: Tensor, feature: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """A block on the way down: the feedback's feature goes into what is made smaller, and not into the skips.

    The lowest block makes nothing smaller and takes no feature in: that is added after the middle.
    """
    skips = []
    for number, resnet in enumerate(block.resnets):
        if block.gradient_checkpointing and torch.is_grad_enabled():
            h = checkpoint(resnet, h, embedding, indicator, use_reentrant=False)
        else:
            h = resnet(h, embedding, indicator)
        if _attends(block):
            h = block.attentions[number](h, context, indicator, return_dict=False)[0]
        skips.append(h)
    if block.downsamplers is not None:
        if feature is not None:
            h = h + feature
        for downsampler in block.downsamplers:
            h = downsampler(h)
        skips.append(h)
    return h, skips
