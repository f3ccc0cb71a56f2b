"""Painters that are Stable Diffusion checkpoints (Rombach et al., 2022; Podell et al., 2023), run by diffusers."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.generators.text.base import Painting
from backend.generators.text.loading import load_pipeline, pipeline_class
from backend.pipelines.stage import Progress, StageCache, Stages, digest
from backend.weights.components import silence
from backend.weights.store import WeightsEntry, catalogue, is_present, weights_folder, weights_root
from protocol.errors import TurnaroundError
from protocol.messages import Imagine, PainterInfo, PictureReport

PIPELINE = "text-to-image"
"""What painters stand under in the catalogue."""

WORKING_BYTES = 2 << 30
"""What a GPU needs beside the weights for a picture of the painter's own size."""


NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
"""Folders called otherwise are being installed, or cannot be named in a message."""


@dataclass(frozen=True)
class Effort:
    """How a painter is asked when nobody says otherwise.

    Attributes:
        steps: denoising steps.
        guidance: classifier-free guidance weight; at most 1 is none.
    """

    steps: int
    guidance: float


USUAL, DISTILLED = Effort(25, 7.5), Effort(4, 0.0)
"""`DISTILLED` is for the turbo checkpoints, which were taught to need few steps and no guidance."""


class StableDiffusion:
    """One checkpoint; loads its networks when first asked for a picture.

    Args:
        entry: of the catalogue; None for a folder that it does not name.
        folder: in diffusers' layout; it may come and go while this lives.
    """

    def __init__(self, entry: WeightsEntry | None, folder: Path) -> None:
        self._entry, self.folder = entry, folder
        self._loaded: tuple[str, str, Any] | None = None

    @property
    def effort(self) -> Effort:
        """Its own steps and guidance."""
        return DISTILLED if "turbo" in self.folder.name.lower() else USUAL

    def info(self) -> PainterInfo:
        """See `registry.Painter`."""
        name, entry = self.folder.name, self._entry
        ready = bool(pipeline_class(self.folder)) and (entry is None or is_present(entry))
        return PainterInfo(
            name=name,
            label=entry.title if entry else name,
            ready=ready,
            hint="" if ready else f"Install it: turnaround models install {name}" if entry else "Its folder has gone.",
            licence=entry.licence if entry else "",
            commercial=entry.commercial if entry else "unknown",
        )

    def free(self) -> None:
        """Drops the loaded networks."""
        self._loaded = None

    def paint(self, request: Imagine, *, device: str, cache: StageCache, progress: Progress) -> Painting:
        """See `registry.Painter`."""
        start = time.perf_counter()
        steps = request.steps or self.effort.steps
        guidance = self.effort.guidance if request.guidance is None else request.guidance
        weights = self._digest()
        progress.begin("Loading the Painter", (0.0, 0.1))

        def compute() -> dict[str, NDArray[Any]]:
            pipeline = self._load(device, weights)
            progress.begin("Painting", (0.1, 1.0))
            notes = msgspec.json.encode(_notes(pipeline, request, guidance))
            picture = _draw(pipeline, request, steps, guidance, progress)
            return {"picture": picture, "notes": np.frombuffer(notes, np.uint8)}

        painted = Stages(cache, progress).run(
            "painting",
            compute,
            text=request.text,
            negative=request.negative_prompt,
            seed=request.seed,
            steps=steps,
            guidance=guidance,
            weights=weights,
        )
        progress.step(1, 1)
        info = self.info()
        report = PictureReport(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            single_object=request.single_object,
            seed=request.seed,
            steps=steps,
            guidance=guidance,
            painter=info.name,
            label=info.label,
            licence=info.licence,
            commercial=info.commercial,
            seconds=round(time.perf_counter() - start, 4),
            warnings=msgspec.json.decode(painted["notes"].tobytes(), type=tuple[str, ...]),
            versions={name: version(name) for name in ("turnaround", "torch", "diffusers", "transformers")},
            device=device,
        )
        return Painting(painted["picture"], report)

    def _load(self, device: str, weights: str) -> Any:
        if self._loaded is None or self._loaded[:2] != (device, weights):
            import torch

            self._loaded = None
            if not pipeline_class(self.folder):
                info = self.info()
                raise TurnaroundError("painter.missing", f"{info.label} has no weights yet.", info.hint)
            dtype = torch.float16 if device.startswith("cuda") else torch.float32
            self._loaded = device, weights, _placed(load_pipeline(self.folder, dtype), device)
        return self._loaded[2]

    def _digest(self) -> str:
        """Tells the installed files from others; their names, sizes and times are enough, they are gigabytes."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        stats = [(str(path.relative_to(self.folder)), path.stat()) for path in files]
        return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _draw(pipeline: Any, request: Imagine, steps: int, guidance: float, progress: Progress) -> NDArray[np.uint8]:
    """The picture, uint8 [H, W, 4], of the size that the checkpoint was trained at."""
    import torch

    def step_done(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        progress.step(step + 1, pipe.num_timesteps)
        return tensors

    try:
        with torch.inference_mode(), silence():
            painted = pipeline(
                prompt=request.text,
                negative_prompt=request.negative_prompt or None,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
                callback_on_step_end=step_done,
                output_type="pt",
            ).images[0]
    except BaseException:
        pipeline.maybe_free_model_hooks()  # as it does at its own end: nothing stays on a GPU that is too small
        raise
    rgb = painted.float().permute(1, 2, 0).cpu().numpy()
    if not np.isfinite(rgb).all():
        raise TurnaroundError(
            "painter.failed",
            "The painter drew nothing that can be shown.",
            "Try another seed, or another painter.",
            details=f"not finite with {pipeline.unet.dtype}",
        )
    opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    return np.concatenate([(rgb.clip(0.0, 1.0) * 255.0).round().astype(np.uint8), opaque], axis=-1)


def _notes(pipeline: Any, request: Imagine, guidance: float) -> tuple[str, ...]:
    """What the artist should know of how her words were read."""
    notes = []
    tokens = pipeline.tokenizer(request.text, verbose=False).input_ids
    unread = pipeline.tokenizer.decode(tokens[pipeline.tokenizer.model_max_length - 1 : -1]).strip()
    if unread:
        notes.append(f'The prompt is too long; this was not read: "{unread}".')
    if request.negative_prompt and guidance <= 1.0:
        notes.append("What is to be avoided was not looked at: this painter works without guidance.")
    return tuple(notes)


def _placed(pipeline: Any, device: str) -> Any:
    """The pipeline on its device; where memory is short, each network only while it works."""
    if device.startswith("cuda"):
        import torch
        from diffusers.utils import is_accelerate_available

        tensors = [t for m in pipeline.components.values() if isinstance(m, torch.nn.Module) for t in m.parameters()]
        needed = sum(t.numel() * t.element_size() for t in tensors) + WORKING_BYTES
        if needed > torch.cuda.mem_get_info(device)[0] and is_accelerate_available():
            pipeline.vae.enable_tiling()
            pipeline.enable_model_cpu_offload(device=device)
            return pipeline
    if device == "mps":
        pipeline.enable_attention_slicing()
    return pipeline.to(device)


# ---------------------------------------------------------------------------------------------------- the installed

_known: dict[str, StableDiffusion] = {}
"""One instance for each name, so that what is loaded is not loaded again."""


def _folders(root: Path) -> list[Path]:
    """What is in a folder; nothing if it is none, or may not be read."""
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


def painters() -> dict[str, StableDiffusion]:
    """The catalogue's painters, installed or not, then what other checkpoints are in the weights folder."""
    entries = {entry.name: entry for entry in catalogue()}
    found = {name: weights_folder(entry) for name, entry in entries.items() if entry.pipeline == PIPELINE}
    for folder in _folders(weights_root()):
        if folder.name not in entries and re.fullmatch(NAME, folder.name) and pipeline_class(folder):
            found[folder.name] = folder
    for name, folder in found.items():
        if name not in _known or _known[name].folder != folder:
            _known[name] = StableDiffusion(entries.get(name), folder)
    return {name: _known[name] for name in found}
