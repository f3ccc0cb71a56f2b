"""Loading a Stable Diffusion checkpoint from a folder in diffusers' layout: whole, from safetensors, offline.

Nothing is unpickled or downloaded, no code of the folder's own is run, and a network that the files do not fill is an
error that names what is missing: the libraries would only warn, and paint with random numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.weights.components import ANY_KEY, load_and_check, silence
from backend.weights.store import first_of
from protocol.errors import TurnaroundError

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
NETWORKS = {
    "diffusers": ("UNet2DConditionModel", "AutoencoderKL"),
    "transformers": ("CLIPTextModel", "CLIPTextModelWithProjection"),
}
"""What is loaded here, by library; tokenizers and schedulers have no weights and are left to the pipeline."""

NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
LARGEST_INDEX = 1 << 20


def pipeline_class(folder: Path) -> str:
    """Name of the diffusers pipeline that a folder holds, "" if that is none of `PIPELINES`; cheap."""
    name = _index(folder).get("_class_name")
    return name if name in PIPELINES else ""


def load_pipeline(folder: Path, dtype: Any) -> Any:
    """The pipeline of a folder, on the CPU.

    Args:
        folder: with model_index.json and a folder for each component.
        dtype: torch dtype of all networks.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`, `weights.mismatch`.
    """
    import diffusers
    import transformers

    index = _index(folder)
    libraries = {"diffusers": diffusers, "transformers": transformers}
    parts: dict[str, Any] = {name: None for name in NOT_NEEDED if name in index}
    try:
        with silence():
            for name, described in index.items():
                library, kind = described if isinstance(described, list) and len(described) == 2 else ("", "")
                if name not in parts and kind in NETWORKS.get(str(library), ()):
                    parts[name] = _load_network(getattr(libraries[library], kind), folder, name, dtype)
            pipeline = getattr(diffusers, pipeline_class(folder)).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, **parts
            )
    except (TurnaroundError, MemoryError):
        raise
    except Exception as error:  # a cut or foreign file fails in the libraries in any of a dozen ways
        raise _damaged(folder, repr(error)) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_network(kind: Any, folder: Path, name: str, dtype: Any) -> Any:
    files = sorted(path.name for path in (folder / name).glob("*.safetensors"))
    if not files:
        raise TurnaroundError(
            "weights.missing",
            f"The painter {folder.name} is not complete: there is no {name} in safetensors.",
            "Install it again; files of another kind are not opened.",
            details=str(folder / name),
        )
    variant = "fp16" if all(".fp16." in file for file in files) else None
    network, problems = load_and_check(kind, folder / name, dtype, variant=variant, spare=ANY_KEY, prefix=f"{name}.")
    if problems:
        raise TurnaroundError(
            "weights.mismatch",
            f"The weights of the painter {folder.name} do not fit its {name} ({first_of(problems)}).",
            "Install it again, or choose another painter.",
            details="\n".join(problems),
        )
    return network


def _index(folder: Path) -> dict[str, Any]:
    """The content of a folder's model_index.json; empty if there is none."""
    path = folder / "model_index.json"
    try:
        if path.stat().st_size > LARGEST_INDEX:
            return {}
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _damaged(folder: Path, why: str) -> TurnaroundError:
    return TurnaroundError(
        "weights.damaged",
        f"The painter {folder.name} cannot be loaded.",
        "Install it again: a file may be cut off or of another kind.",
        details=f"{folder}: {why}",
    )
