"""Networks of diffusers and transformers from a folder: whole, offline, and with what does not fit told.

The libraries would only warn about a network that its file does not fill, and run it on random numbers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANY_KEY = ("",)
"""As `spare`: whatever else is in the file."""


def load_and_check(
    cls: Any,
    folder: Path,
    dtype: Any,
    *,
    safetensors: bool = True,
    variant: str | None = None,
    spare: tuple[str, ...] = (),
    prefix: str = "",
) -> tuple[Any, list[str]]:
    """A network in evaluation mode, and what is wrong with it, by key: it is to be used only if nothing is.

    Args:
        cls: the library's class.
        folder: with its config and weights.
        dtype: torch dtype of the network.
        safetensors: open those files; else *.bin, for tensors alone.
        variant: of the files' names.
        spare: keys beginning so may be in the file though the network has no use for them.
        prefix: before the keys in what is told.

    Raises:
        Exception: of any kind, where a file is cut or foreign.
    """
    with silence():
        network, info = cls.from_pretrained(
            folder,
            variant=variant,
            torch_dtype=dtype,
            use_safetensors=safetensors,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, together with the others
        )
    unexpected = [key for key in sorted(info["unexpected_keys"]) if not any(key.startswith(start) for start in spare)]
    problems = [f"missing: {prefix}{key}" for key in sorted(info["missing_keys"])]
    problems += [f"unexpected: {prefix}{key}" for key in unexpected]
    problems += [
        f"shape of {prefix}{key}: {tuple(stored)} in the file, {tuple(own)} in the network"
        for key, stored, own in sorted(info["mismatched_keys"])
    ]
    return network.eval().requires_grad_(False), problems + list(info["error_msgs"])


@contextmanager
def silence() -> Iterator[None]:
    """Keeps the libraries' bars and remarks off the terminal, where the job's own progress is."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity(logging.CRITICAL)
            library.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
