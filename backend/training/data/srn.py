"""Posed pictures in the form of the SRN data set (Sitzmann et al. 2019): a folder for each object.

    OBJECT/rgb/NAME.png
    OBJECT/pose/NAME.txt        world-from-camera, 16 numbers by rows, OpenCV camera axes
    OBJECT/intrinsics.txt       first line: focal length and principal point in pixels; last: height and width

or, instead of the last, OBJECT/intrinsics/NAME.txt with the 9 numbers of a matrix for pictures as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from protocol.errors import TurnaroundError

MAX_SIDE = 4096
MAX_TEXT = 4096
"""Bytes of a pose or of intrinsics; real ones have some hundred."""

VALIDATION = 16
"""Every so manieth object is kept for validation."""

READERS = 8
"""Threads that decode pictures."""


@dataclass(frozen=True)
class PosedPicture:
    """A picture and its camera.

    Attributes:
        image: uint8 [S, S, 4].
        world_from_camera: [4, 4], OpenCV axes, in the data's world.
        intrinsics: [3, 3], in shares of the picture's side.
    """

    image: NDArray[np.uint8]
    world_from_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]


@dataclass(frozen=True)
class SrnObject:
    """An object's folder and the names of its pictures, at least two."""

    folder: Path
    names: tuple[str, ...]

    def read(self, name: str, size: int) -> PosedPicture:
        """One picture, resized to `size` pixels.

        Raises:
            TurnaroundError: `srn.picture`, `srn.pose`, `srn.intrinsics`.
        """
        path = self.folder / "rgb" / f"{name}.png"
        try:
            with Image.open(path, formats=("PNG",)) as file:
                if file.width != file.height or file.width > MAX_SIDE:
                    raise _error("picture", path, f"it is {file.width} x {file.height}, not a square of {MAX_SIDE}")
                side = file.width
                image = file.convert("RGBA")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise _error("picture", path, repr(error)) from error
        if side != size:
            image = image.resize((size, size), Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR)
        pose = _pose(self.folder / "pose" / f"{name}.txt")
        return PosedPicture(np.asarray(image), pose, self._intrinsics(name, side))

    def _intrinsics(self, name: str, side: int) -> NDArray[np.float64]:
        path = self.folder / "intrinsics.txt"
        if path.is_file():
            lines = [_numbers(path, line) for line in _text("intrinsics", path).splitlines() if line.strip()]
            if len(lines) < 2 or len(lines[0]) < 3 or len(lines[-1]) != 2:
                raise _error("intrinsics", path, "the first line has no focal length and middle, or the last no size")
            (focal, x, y), side = lines[0][:3], int(lines[-1][0])
            matrix = np.array([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])
        else:
            path = self.folder / "intrinsics" / f"{name}.txt"
            values = _numbers(path, _text("intrinsics", path))
            if len(values) != 9:
                raise _error("intrinsics", path, f"{len(values)} numbers instead of 9")
            matrix = np.array(values).reshape(3, 3)
        if side < 1 or not (matrix[0, 0] > 0 and matrix[1, 1] > 0) or not np.allclose(matrix[2], [0, 0, 1]):
            raise _error("intrinsics", path, f"{matrix.tolist()} for {side} pixels")
        return np.diag([1 / side, 1 / side, 1.0]) @ matrix


def is_srn(folder: Path) -> bool:
    """Whether a folder holds objects in this form."""
    return any((child / "rgb").is_dir() and (child / "pose").is_dir() for child in folder.iterdir() if child.is_dir())


def find_objects(folder: Path) -> list[SrnObject]:
    """The objects of a folder, by name.

    Raises:
        TurnaroundError: `srn.none`; `srn.object`, pictures or poses are without each other, or there are too few.
    """
    objects = []
    for child in sorted(path for path in folder.iterdir() if (path / "rgb").is_dir() and (path / "pose").is_dir()):
        names = {path.stem for path in (child / "rgb").glob("*.png")}
        poses = {path.stem for path in (child / "pose").glob("*.txt")}
        if names != poses or len(names) < 2:
            alone = ", ".join(sorted(names ^ poses)[:3])
            raise TurnaroundError(
                "srn.object",
                f"The pictures and poses of {child.name} do not go together, or there are fewer than two.",
                "Give each rgb/NAME.png its pose/NAME.txt.",
                details=f"{child}: {len(names)} pictures, {len(poses)} poses; alone: {alone}",
            )
        objects.append(SrnObject(child, tuple(sorted(names))))
    if not objects:
        raise TurnaroundError("srn.none", f"There are no posed pictures in {folder}.", "Use the folder of the objects.")
    return objects


class SrnPictures:
    """Pairs of pictures of objects, read when they are drawn.

    Args:
        objects: to draw from.
        size: side of the pictures in pixels.
        device: where batches go.
    """

    def __init__(self, objects: Sequence[SrnObject], size: int, device: torch.device | str = "cpu") -> None:
        self.objects, self.size, self.device = objects, size, torch.device(device)
        self._readers = ThreadPoolExecutor(READERS)

    def __len__(self) -> int:
        return len(self.objects)

    def batch(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random pairs of different pictures of random objects, see `pairs`; `generator` is on the CPU."""
        chosen = []
        for number in torch.randint(len(self.objects), (count,), generator=generator).tolist():
            thing = self.objects[number]
            first, second = torch.randperm(len(thing.names), generator=generator)[:2].tolist()
            chosen.append((thing, first, second))
        return self.pairs(chosen)

    def first(self, count: int) -> dict[str, Tensor]:
        """A pair of each of the first objects: its first picture, and the one in the middle of the others."""
        return self.pairs([(thing, 0, max(1, len(thing.names) // 2)) for thing in self.objects[:count]])

    def pairs(self, chosen: Sequence[tuple[SrnObject, int, int]]) -> dict[str, Tensor]:
        """`images` uint8 [B, 2, S, S, 4], `world_from_camera` [B, 2, 4, 4], `intrinsics` [B, 2, 3, 3] for S pixels."""
        wanted = [(thing, thing.names[number]) for thing, *numbers in chosen for number in numbers]
        read = list(self._readers.map(lambda item: item[0].read(item[1], self.size), wanted))
        pixels = np.diag([self.size, self.size, 1.0])
        arrays = {
            "images": np.stack([picture.image for picture in read]),
            "world_from_camera": np.stack([picture.world_from_camera for picture in read]).astype(np.float32),
            "intrinsics": np.stack([pixels @ picture.intrinsics for picture in read]).astype(np.float32),
        }
        return {name: torch.from_numpy(array).unflatten(0, (-1, 2)).to(self.device) for name, array in arrays.items()}

    def camera_distance(self) -> float:
        """From the origin to the cameras: the median of a picture each of some objects."""
        poses = self.first(64)["world_from_camera"]
        return float(poses[..., :3, 3].norm(dim=-1).median())


def _pose(path: Path) -> NDArray[np.float64]:
    values = _numbers(path, _text("pose", path))
    if len(values) != 16:
        raise _error("pose", path, f"{len(values)} numbers instead of 16")
    pose = np.array(values).reshape(4, 4)
    rotation = pose[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
        raise _error("pose", path, "not a rotation and a place")
    return pose


def _text(kind: str, path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT:
            raise _error(kind, path, "too long")
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise _error(kind, path, repr(error)) from error


def _numbers(path: Path, text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError as error:
        raise _error("pose" if path.parent.name == "pose" else "intrinsics", path, str(error)) from error
    if not all(map(math.isfinite, values)):
        raise _error("pose" if path.parent.name == "pose" else "intrinsics", path, "a number is not finite")
    return values


def _error(kind: str, path: Path, why: str) -> TurnaroundError:
    words = {"picture": "is not a square picture", "pose": "is not a camera's pose", "intrinsics": "has no intrinsics"}
    name = "/".join(path.parts[-3:])
    return TurnaroundError(
        f"srn.{kind}", f"{name} {words[kind]}.", "Mend or remove this object's folder.", details=f"{path}: {why}"
    )
