"""Where weights are, and what they hash to."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

TINY = Path(__file__).parent / "tiny"
"""Weights that ship with the package: trained by this project, no network needed."""


def tiny_path(name: str) -> Path:
    """File of the shipped weights called `name`: a safetensors file whose metadata holds the network's config."""
    return TINY / f"{name}.safetensors"


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def weights_digest(path: Path) -> str:
    """Hash of a weights file; a part of every stage's key that depends on it."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)
