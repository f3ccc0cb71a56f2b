"""Tensors that are read when they are written: a checkpoint of any size goes through the memory of its largest tensor.

The safetensors library reads one tensor at a time but writes a file only from a dictionary that holds all of them, so
`write_safetensors` writes the format itself: eight bytes of header length, the header in JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.weights.store import damaged, open_safetensors
from protocol.errors import TurnaroundError

Shapes = Mapping[str, tuple[int, ...]]
Report = Callable[[int], None]
"""Told how many more bytes have been written; raises to stop."""

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The dtypes that weights have, and what safetensors calls them."""

COUNTER = "num_batches_tracked"
"""End of the only names whose tensors are integers in a network: batch normalisation's."""

DTYPES = {code: dtype for dtype, code in CODES.items()}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in its file.

    Attributes:
        name: what its file calls it, for messages.
        shape: known without reading.
        dtype: one of `CODES`.
        read: reads it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size when read."""
        return math.prod(self.shape) * self.dtype.itemsize

    def mapped(self, change: Callable[[Tensor], Tensor]) -> LazyTensor:
        """The tensor after `change`, which is done when it is read."""
        after = change(torch.empty(self.shape, dtype=self.dtype, device="meta"))
        return replace(self, shape=tuple(after.shape), dtype=after.dtype, read=lambda: change(self.read()))

    def __getitem__(self, index: Any) -> LazyTensor:
        """A slice; what renames and slices tensors works on these as well."""
        return self.mapped(lambda tensor: tensor[index])


LazyState = Mapping[str, LazyTensor]


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file, none of them read yet.

    Raises:
        TurnaroundError: `weights.missing`, `weights.damaged`.
    """
    file = open_safetensors(path)
    tensors = {}
    for name in file.keys():  # noqa: SIM118 (a file, not a dictionary)
        part = file.get_slice(name)
        dtype = DTYPES.get(part.get_dtype())
        if dtype is None:
            raise damaged(path, f"{name} has the dtype {part.get_dtype()}")
        tensors[name] = LazyTensor(
            name, tuple(part.get_shape()), dtype, lambda name=name: file.get_tensor(name)  # type: ignore[misc]
        )  # fmt: skip
    return tensors


def check_shapes(part: str, tensors: LazyState, expected: Shapes, unused: Iterable[str] = ()) -> None:
    """Compares a state dict with what a network asks for.

    Args:
        part: what the tensors are, in the artist's words.
        tensors: under the network's names.
        expected: the network's keys and shapes.
        unused: tensors of the source that have found no place; each is named as unexpected.

    Raises:
        TurnaroundError: `weights.mismatch`, which lists in its details every key that is missing, unexpected or of
            another shape or kind.
    """
    problems = [f"missing: {key}" for key in expected if key not in tensors]
    problems += [f"unexpected: {tensors[key].name}" for key in tensors if key not in expected]
    problems += [f"unexpected: {name}" for name in unused]
    for key, shape in expected.items():
        if key in tensors and tensors[key].shape != shape:
            name = tensors[key].name
            called = key if name == key else f"{key} ({name})"
            problems.append(f"shape of {called}: {tensors[key].shape} in the file, {shape} in the network")
    for key, tensor in tensors.items():
        if not tensor.dtype.is_floating_point and not key.endswith(COUNTER):
            problems.append(f"dtype of {tensor.name}: {tensor.dtype} in the file, floating point in the network")
    if problems:
        first = f"{problems[0]}{f' and {len(problems) - 1} more' if len(problems) > 1 else ''}"
        raise TurnaroundError(
            "weights.mismatch",
            f"These are not the weights of this model: {part} does not fit ({first}).",
            "Check that the file belongs to the model, or get it again.",
            details="\n".join(problems),
        )


def write_safetensors(
    path: Path,
    tensors: LazyState,
    *,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
    report: Report = lambda count: None,
) -> None:
    """Writes tensors one after another; never more than one is in memory.

    Args:
        path: a new file.
        tensors: what to write.
        half: store floating-point tensors as float16.
        metadata: strings for the header.
        report: told the bytes of every tensor that is written.

    Raises:
        TurnaroundError: `weights.damaged`, if a value is not finite, or too large for float16.
    """

    def stored(tensor: LazyTensor) -> torch.dtype:
        return torch.float16 if half and tensor.dtype.is_floating_point else tensor.dtype

    names = sorted(tensors, key=lambda name: (-stored(tensors[name]).itemsize, name))  # keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in names:
        dtype, start = stored(tensors[name]), end
        end += math.prod(tensors[name].shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            dtype = stored(tensors[name])
            tensor = tensors[name].read().to(dtype).contiguous()
            if tuple(tensor.shape) != tensors[name].shape:
                raise damaged(path, f"{name} was read as {tuple(tensor.shape)}")
            if dtype.is_floating_point and not torch.isfinite(tensor).all():
                raise damaged(path, f"{tensors[name].name} holds values that are not finite as {dtype}")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            report(tensor.nbytes)


def size_of(tensors: LazyState, *, half: bool = False) -> int:
    """Bytes that `write_safetensors` will report for these tensors."""
    return sum(
        math.prod(tensor.shape) * (2 if half and tensor.dtype.is_floating_point else tensor.dtype.itemsize)
        for tensor in tensors.values()
    )
