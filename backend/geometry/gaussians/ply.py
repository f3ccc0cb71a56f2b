"""Gaussians in .ply files, as the original 3D Gaussian splatting wrote them and viewers read them.

Float32 little-endian vertices: x y z, nx ny nz (zero), f_dc_0..2 (zeroth spherical harmonic of the colour), opacity
(logit), scale_0..2 (natural logarithm), rot_0..3 (w, x, y, z). The axes are the object frame's, Z up and front to -Y,
as for mesh .ply files: Blender reads them as they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from backend.geometry.export import by_suffix, write_file
from backend.geometry.gaussians.gaussians import Gaussians
from protocol.errors import TurnaroundError

LEAST_OPACITY = 0.005
"""Gaussians fainter than this are left out of files, as published (Ouroboros3D's own writer)."""

MOST_GAUSSIANS = 8_000_000
"""No file with more is read: it would need more than 2 GB."""

_Y00 = 0.28209479177387814  # the zeroth spherical harmonic, 1 / (2 sqrt(pi))

_PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_HEADER_LINES, _LINE = 512, 1024


def write_splats(gaussians: Gaussians, path: str | Path) -> Path:
    """Writes an unbatched set; the file appears whole or not at all.

    Args:
        gaussians: in the object frame; quaternions are written at unit length, so those that are not meant to be
            normalised go through `Gaussians.with_unit_quaternions` first.
        path: where to, ending in .ply.

    Returns:
        The path written.

    Raises:
        TurnaroundError: `export.format`, `export.empty` where every Gaussian is fainter than LEAST_OPACITY,
            `export.disk_full`, `export.failed`.
    """
    path = Path(path)
    encode = by_suffix(path, {".ply": _encode}, "Gaussians")
    shown = gaussians.detach().select(gaussians.opacities >= LEAST_OPACITY)
    if not len(shown):
        raise TurnaroundError("export.empty", "All Gaussians are transparent.", "Generate them again.", field="output")
    write_file(path, encode(shown))
    return path


def read_splats(path: str | Path) -> Gaussians:
    """Reads a file of this kind from anywhere: nothing in it is trusted.

    Colours that change with the direction (f_rest_*) are read as what they are on average.

    Raises:
        TurnaroundError: `splats.unreadable` where there is no such file, `splats.format` for another kind of file or a
            damaged one, `splats.too_many`, `splats.values` for numbers that no Gaussian can have.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            vertices = _decode(file, path.name)
    except OSError as error:
        raise TurnaroundError(
            "splats.unreadable", f'"{path.name}" cannot be read.', "Choose another file.", details=str(error)
        ) from error

    def columns(*names: str) -> torch.Tensor:
        with np.errstate(over="ignore"):  # from double; not finite then, which is looked for below
            return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], axis=-1))

    raw = [columns(*names) for names in (_PROPERTIES[:3], _PROPERTIES[13:], _PROPERTIES[10:13], _PROPERTIES[6:9])]
    means, quaternions, scales, harmonics = raw
    opacities = torch.sigmoid(columns("opacity")[..., 0])
    colors = (harmonics * _Y00 + 0.5).clamp(0, 1)
    gaussians = Gaussians(means, F.normalize(quaternions, dim=-1), scales.exp(), opacities, colors)
    finite = all(bool(part.isfinite().all()) for part in (*raw, gaussians.scales, opacities))
    if not finite or not bool((gaussians.quaternions.norm(dim=-1) > 0.5).all()):
        raise TurnaroundError(
            "splats.values",
            f'"{path.name}" has Gaussians without a proper place, size or direction.',
            "Export it again from where it comes.",
        )
    return gaussians


def _encode(gaussians: Gaussians) -> bytes:
    parts = gaussians.map(lambda tensor: tensor.cpu().float())
    columns = torch.cat(
        [
            parts.means,
            torch.zeros_like(parts.means),
            (parts.colors - 0.5) / _Y00,
            torch.logit(parts.opacities, eps=1e-6)[:, None],
            parts.scales.clamp_min(1e-9).log(),
            F.normalize(parts.quaternions, dim=-1),
        ],
        dim=-1,
    )
    properties = "".join(f"property float {name}\n" for name in _PROPERTIES)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(gaussians)}\n{properties}end_header\n"
    return header.encode() + columns.numpy().astype("<f4").tobytes()


def _decode(file: BinaryIO, name: str) -> NDArray[np.void]:
    """The vertices of a binary .ply, a structured array with at least this module's properties."""
    wrong = TurnaroundError(
        "splats.format",
        f'"{name}" is not a whole .ply file with Gaussians.',
        "Choose a binary .ply as 3D Gaussian splatting writes it.",
    )
    lines = []
    for _ in range(_HEADER_LINES):
        lines.append(file.readline(_LINE).decode("ascii", "replace").split())
        if lines[-1] in (["end_header"], []):
            break
    if lines[0] != ["ply"] or lines[-1] != ["end_header"]:
        raise wrong
    order, count, fields = "", -1, dict[str, str]()
    elements = 0
    for line in lines[1:-1]:
        match line:
            case ["format", "binary_little_endian" | "binary_big_endian" as format_, "1.0"]:
                order = "<" if "little" in format_ else ">"
            case ["element", "vertex", number] if not elements and number.isdecimal():
                count, elements = int(number), 1
            case ["element", *_] if elements:  # whatever follows the vertices is not read
                elements += 1
            case ["property", *_] if elements > 1:
                pass
            case ["property", kind, field] if elements and kind in _TYPES and field not in fields:
                fields[field] = _TYPES[kind]
            case ["comment" | "obj_info", *_]:
                pass
            case _:
                raise wrong
    if not order or count < 0 or not set(_PROPERTIES[:3] + _PROPERTIES[6:]) <= set(fields):
        raise wrong
    if count > MOST_GAUSSIANS:
        raise TurnaroundError(
            "splats.too_many",
            f'"{name}" has {count} Gaussians; {MOST_GAUSSIANS} are the most that can be read.',
            "Choose a smaller one.",
        )
    vertex = np.dtype([(field, order + kind) for field, kind in fields.items()])
    if os.fstat(file.fileno()).st_size - file.tell() < count * vertex.itemsize:
        raise wrong
    return np.frombuffer(file.read(count * vertex.itemsize), vertex)
