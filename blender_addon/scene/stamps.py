"""A result's story, kept on its object so that it survives saving, reopening and copying."""

from __future__ import annotations

import base64
import zlib

import bpy
import msgspec
import numpy as np

from ..protocol.errors import TurnaroundError
from ..protocol.messages import PictureReport, Report
from .meshes import Base
from .silhouettes import Mask

KEY = "turnaround_result"
"""Name of the custom property; its value is JSON, so that other tools can read it too.

It is not the name of a property group: before Blender 5 those are kept among the custom properties.
"""
MATTE_SIDE = 128


class Stamp(msgspec.Struct, kw_only=True):
    """What made an object.

    Attributes:
        job: the backend's id of the job; its cache answers a rebuild.
        index: which of the job's variants.
        group: shared by the variants of one picture, so that they can be compared.
        picture: name of the picture's datablock.
        size: width and height of the picture as it was sent.
        report: the backend's account, with settings, seed, camera and framing.
        matte: the subject in the framed square, packed by `pack_matte`.
        scale: see `Base`.
        bottom: see `Base`.
        views: name of the contact sheet's datablock.
        drawn: how the picture was drawn, if that was from a text.
        further: names of the further pictures' datablocks.
        overlap: intersection over union with the subject since *Match Camera*; None while it stands elsewhere.
    """

    job: str
    index: int
    group: str
    picture: str
    size: tuple[int, int]
    report: Report
    matte: str
    scale: float
    bottom: float
    views: str = ""
    drawn: PictureReport | None = None
    further: tuple[str, ...] = ()
    overlap: float | None = None

    @property
    def base(self) -> Base:
        """How the mesh lies in the object frame."""
        return Base(self.scale, self.bottom)

    def matte_mask(self) -> Mask:
        """The subject in the framed square, bool [MATTE_SIDE, MATTE_SIDE]."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(self.matte)), dtype=np.uint8)
        return np.unpackbits(bits).astype(bool).reshape(MATTE_SIDE, MATTE_SIDE)

    def put(self, obj: bpy.types.Object) -> None:
        """Writes it onto an object."""
        obj[KEY] = msgspec.json.encode(self).decode()


def pack_matte(cutout: np.ndarray) -> str:
    """The alpha of a cutout, uint8 [S, S, 4], as text of about a kilobyte."""
    cells = ((np.arange(MATTE_SIDE) + 0.5) * len(cutout) / MATTE_SIDE).astype(int)
    mask = cutout[cells[:, None], cells, 3] >= 128
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def stamp_of(obj: bpy.types.Object | None) -> Stamp | None:
    """The stamp of an object; None if Turnaround did not make it, or it cannot be read."""
    text = obj.get(KEY) if obj is not None and obj.type == "MESH" else None
    if not isinstance(text, str):
        return None
    try:
        return msgspec.json.decode(text, type=Stamp)
    except msgspec.DecodeError:
        return None


def stamped(obj: bpy.types.Object | None) -> Stamp:
    """The stamp of an object that must have one.

    Raises:
        TurnaroundError: `object.foreign`.
    """
    stamp = stamp_of(obj)
    if stamp is None:
        raise TurnaroundError(
            "object.foreign", "Turnaround did not make this object.", "Select one that it made.", field="object"
        )
    return stamp


def variants_of(group: str) -> list[bpy.types.Object]:
    """The objects of a group, by seed."""
    found = [
        (stamp.report.seed, obj.name, obj)
        for obj in bpy.data.objects
        if (stamp := stamp_of(obj)) and stamp.group == group
    ]
    return [obj for _, _, obj in sorted(found, key=lambda entry: entry[:2])]
