"""The engines that can find the subject of an opaque picture, and the choice between them.

Segment Anything is best where it is installed, then rembg, then GrabCut, which is always there. A picture's own alpha
or a matte that somebody has painted goes before all of them (see `matting`).
"""

from __future__ import annotations

import os
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.preparation.segmentation import (
    OBJECT_SHARE,
    Mask,
    Prompt,
    check_subject,
    chosen_parts,
    objects,
    segment,
    work_size,
)
from backend.weights.store import catalogue, is_present, weights_folder
from protocol.errors import TurnaroundError

EngineName = Literal["auto", "sam", "rembg", "grabcut"]

REMBG_MODEL = "u2net"


class Segmenter(Protocol):
    """Finds the subject of a picture."""

    @property
    def key(self) -> str:
        """Tells this engine, with its weights, from any other; a part of the matting stage's key."""

    def __call__(self, rgb: NDArray[np.uint8], prompt: Prompt) -> Mask:
        """The subject, [h, w] at `segmentation.work_size`, of an opaque picture, uint8 [H, W, 3].

        Raises:
            TurnaroundError: `picture.no_subject`, nothing stands out.
        """


class GrabCut:
    """A `Segmenter` without weights; best on plain backgrounds."""

    key = "grabcut"

    def __call__(self, rgb: NDArray[np.uint8], prompt: Prompt) -> Mask:
        """See `segmentation.segment`."""
        return segment(rgb, prompt)


class Rembg:
    """A `Segmenter`: the rembg package, if it is installed. It knows no prompts: those crop and choose its answer.

    Args:
        instead: finds the subject where rembg fails; None if that is an error.
    """

    def __init__(self, instead: Segmenter | None = None) -> None:
        self._instead = instead

    @property
    def key(self) -> str:
        """Name and version; with what may answer instead, and the file that makes it: a mended one is asked again."""
        key = f"rembg {version('rembg')} {REMBG_MODEL}"
        if self._instead is None:
            return key
        try:
            stat = _rembg_weights().stat()
        except OSError:
            return f"{key} or {self._instead.key}"
        return f"{key} of {stat.st_size} {stat.st_mtime_ns} or {self._instead.key}"

    def __call__(self, rgb: NDArray[np.uint8], prompt: Prompt) -> Mask:
        """See `Segmenter`; what lies outside of the artist's box is not shown to it.

        Raises:
            TurnaroundError: `picture.no_subject`; `matting.failed`, rembg or its model does not work.
        """
        height, width = rgb.shape[:2]
        left, top, right, bottom = prompt.pixels(width, height)
        matte = np.zeros((height, width), np.uint8)
        part = Image.fromarray(np.ascontiguousarray(rgb[top:bottom, left:right]))
        try:
            matte[top:bottom, left:right] = _ask_rembg(part)
        except TurnaroundError as error:
            if self._instead is None:
                raise
            warnings.warn(f"{error.sentence} Something else finds the subject: {error.details}", stacklevel=2)
            return self._instead(rgb, prompt)
        size = work_size(rgb)
        mask = cv2.resize(matte, size, interpolation=cv2.INTER_AREA) > 127
        chosen = chosen_parts(np.asarray(mask, bool), prompt.scaled(size[0] / width))
        return check_subject(objects(chosen, OBJECT_SHARE))


def _ask_rembg(picture: Image.Image) -> NDArray[np.uint8]:
    """Its matte, [h, w], of a picture.

    Raises:
        TurnaroundError: `matting.failed`.
    """
    try:
        from rembg import new_session, remove

        return np.asarray(remove(picture, session=new_session(REMBG_MODEL), only_mask=True), np.uint8)
    except (Exception, SystemExit) as error:  # a download, a cut file or a library; it exits without a runtime
        raise TurnaroundError(
            "matting.failed",
            "rembg does not work: its model may be damaged, or could not be downloaded.",
            f"Check the connection, delete {_rembg_weights().name} so that it is fetched again, or choose GrabCut.",
            field="matting",
            details=f"{_rembg_weights()}: {error!r}",
        ) from error


def choose(name: EngineName = "auto", *, sam: Path | None = None, device: str = "cpu") -> Segmenter:
    """The engine of a name.

    Args:
        name: "auto" is the best one whose weights are on this machine; the others are as they say.
        sam: folder of Segment Anything's weights; None if there are none.
        device: torch device.

    Raises:
        TurnaroundError: `weights.matting` or `matting.missing`, the engine that was asked for is not installed.
    """
    if name == "sam" and sam is None:
        hint = "Install it with: turnaround models install sam-vit-huge"
        raise TurnaroundError("weights.matting", "Segment Anything is not installed.", hint, field="matting")
    if name == "rembg" and not _has_rembg():
        hint = 'Install it with: pip install "rembg[cpu]"'
        raise TurnaroundError("matting.missing", "rembg is not installed.", hint, field="matting")
    if sam is not None and name in ("auto", "sam"):
        from backend.preparation.sam import Sam  # torch and transformers are imported when they are needed

        return Sam(sam, device)
    if name == "rembg":
        return Rembg()
    if name == "auto" and _has_rembg() and _rembg_weights().is_file():
        return Rembg(GrabCut())
    return GrabCut()


def installed_sam() -> Path | None:
    """Folder of the first Segment Anything of the catalogue whose files are on this machine."""
    return next((weights_folder(e) for e in catalogue() if e.layout == "sam" and is_present(e)), None)


def _has_rembg() -> bool:
    try:
        return find_spec("rembg") is not None and bool(version("rembg"))
    except (PackageNotFoundError, ValueError):
        return False


def _rembg_weights() -> Path:
    """Where rembg keeps its weights: it would download them, which nobody has asked for if the engine is "auto"."""
    home = os.environ.get("U2NET_HOME") or str(Path(os.environ.get("XDG_DATA_HOME", "~")) / ".u2net")
    return Path(home).expanduser() / f"{REMBG_MODEL}.onnx"
