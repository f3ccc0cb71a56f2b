"""What the published training of Ouroboros3D begins with: a video model and LGM, or both networks as stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backend.generators.multiview_svd.loading import begin_with_video, load_published
from backend.generators.multiview_svd.model import MultiviewModel
from backend.reconstructors.lgm.config import LGMConfig
from backend.reconstructors.lgm.network import LGM
from backend.weights.store import find_entry, is_present, load_into, stored_files, weights_folder
from protocol.errors import TurnaroundError

VIDEO, BOTH, FIRST_LGM = "stable-video-diffusion", "ouroboros3d", "lgm-first"
"""Entries of the catalogue."""

GENERATOR, RECONSTRUCTOR = "mv_model_unet", "recon_model"
"""Stems of the files that hold the two networks."""

NEW_IN_LGM = ("unet.time_embed.", ".emb_layers.")
"""Parts of the names of what the original LGM lacks: how it is told of the noise."""


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        video: folder of Stable Video Diffusion, as in `generators.multiview_svd.loading`.
        both: folder with both networks, `GENERATOR` and `RECONSTRUCTOR`; None begins with the video model's U-Net.
        reconstructor: file of the original LGM, if there is one to begin with; goes before the one in `both`.
    """

    video: Path
    both: Path | None = None
    reconstructor: Path | None = None


def chosen_start(both: Path | None, video: Path | None, reconstructor: Path | None) -> Start:
    """What is given, else what is installed: the published networks, unless a video model is given to begin with.

    Raises:
        TurnaroundError: `train.start_from`.
    """
    if both is None and video is None:
        both = _installed(BOTH)
    elif both is not None and not (both / f"{GENERATOR}.safetensors").is_file():
        raise TurnaroundError(
            "train.start_from",
            f"There is no {GENERATOR}.safetensors in {both}.",
            "Give the folder that a run has left, or that of an installed Ouroboros3D.",
            field="start_from",
        )
    if both is None and reconstructor is None and _installed(FIRST_LGM):
        (reconstructor,) = stored_files(find_entry(FIRST_LGM))
    return Start(video or weights_folder(find_entry(VIDEO)), both, reconstructor)


def load_start(
    start: Start, size: int, config: LGMConfig, log: Callable[[str], None] = print
) -> tuple[MultiviewModel, LGM]:
    """Both networks on the CPU, in float32, ready to be trained; the autoencoder and the image encoder are frozen.

    Args:
        start: see there.
        size: side of the pictures.
        config: of the reconstructor.
        log: told what is begun with.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`; `weights.mismatch`, whose details name each key.
    """
    if start.both is not None:
        log(f"begins with the networks in {start.both}")
        model = load_published(start.video, start.both / f"{GENERATOR}.safetensors", size=size)
    else:
        log(f"begins with the video model in {start.video}; what Ouroboros3D adds to it is new")
        model = begin_with_video(start.video, size)
    reconstructor = LGM(config)
    if start.reconstructor is not None:
        log(f"begins with the LGM in {start.reconstructor}; how it is told of the noise is new")
        _begin_with_lgm(reconstructor, start.reconstructor)
    elif start.both is not None:
        load_into(reconstructor, start.both / f"{RECONSTRUCTOR}.safetensors")
    else:
        log(f"no LGM to begin with: the reconstructor's weights are new ({FIRST_LGM} can be installed)")
    model.network.train().requires_grad_(True)
    return model, reconstructor.channels_last()


def _begin_with_lgm(network: LGM, path: Path) -> None:
    """Copies the original LGM, all of it; the noise has no effect at first, since the last layers are made as zeros."""
    original = LGM(replace(network.config, time_channels=0))
    load_into(original, path)
    missing, unexpected = network.load_state_dict(original.state_dict(), strict=False)
    assert not unexpected
    assert all(any(part in key for part in NEW_IN_LGM) for key in missing)


def _installed(name: str) -> Path | None:
    entry = find_entry(name)
    return weights_folder(entry) if is_present(entry) else None
