"""From the artist's picture to the framed cutout that every pipeline works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.pipelines.registry import Request
from backend.pipelines.stage import Stages
from backend.preparation.engines import choose, installed_sam
from backend.preparation.framing import frame
from backend.preparation.matting import cut_out, warnings
from backend.preparation.picture import check_picture, reduce_picture
from backend.preparation.segmentation import Prompt
from protocol.messages import Framing

PICTURE_SIZE = 512
"""Side of the framed picture that colours are taken from, in pixels."""


Framer = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], Framing]]
"""From a cutout [H, W, 4] to the framed picture [S, S, 4] and where its square lies."""


def frame_finely(cutout: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Framing]:
    """`frame` at the size that colours are taken at."""
    return frame(cutout, PICTURE_SIZE)


def prepare(
    request: Request, stages: Stages, device: str = "cpu", framer: Framer = frame_finely
) -> tuple[NDArray[np.uint8], Framing, tuple[str, ...]]:
    """The framed picture [S, S, 4], where its square lies, and what an artist should know of the cutout."""
    check_picture(request.picture, has_matte=request.matte is not None)
    small, factor = reduce_picture(request.picture)
    matte = request.matte
    if matte is not None and factor > 1:
        matte = np.asarray(cv2.resize(matte, small.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)

    settings = request.settings
    segmenter = choose(settings.matting, sam=installed_sam(), device=device)
    points = tuple((point.x, point.y, point.subject) for point in settings.subject_points)
    prompt = Prompt(settings.subject_box, points).scaled(1 / factor)

    def compute() -> dict[str, NDArray[Any]]:
        return {"cutout": cut_out(small, matte, segmenter=segmenter, prompt=prompt)}

    cutout = stages.run("matting", compute, picture=small, matte=matte, engine=segmenter.key, prompt=prompt)["cutout"]
    picture, framing = framer(cutout)
    framing = Framing(
        center_x=framing.center_x * factor, center_y=framing.center_y * factor, side=framing.side * factor
    )
    return picture, framing, tuple(warnings(cutout, small))
