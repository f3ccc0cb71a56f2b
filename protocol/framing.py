"""Messages to frames and back: frame 0 is msgpack, the frames after it are the raw bytes of the message's arrays.

Each array travels in chunks of `CHUNK` bytes: CURVE encrypts frame by frame, so that chunks let one end encrypt while
the other decrypts. Nothing here trusts what it reads: sizes are added up from frame 0 and compared with the bounds and
with the frames before memory is taken for an array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from .directions import BackendMessage, ClientMessage
from .errors import TurnaroundError
from .messages import ArraySpec, JobId, Message
from .validation import explain

CHUNK = 4 << 20
"""Bytes of an array in one frame; the fastest over CURVE of 1, 4, 16 and 64 MiB."""

MAX_HEADER = 4 << 20
"""Bytes of frame 0: a job list of a thousand jobs fits many times."""

MAX_ARRAYS = 16_384 * 16_384 * 5
"""Bytes of all arrays of one message: the largest picture and its matte."""

MAX_FRAME = max(CHUNK, MAX_HEADER) + 1024
"""Bytes of one frame with what CURVE adds; what a socket's MAXMSGSIZE is set to."""

Arrays = dict[str, NDArray[Any]]
Buffer = Any  # whatever gives its bytes to memoryview: bytes, memoryview, zmq.Frame (typing has no name for it in 3.11)


class ProtocolError(TurnaroundError):
    """What arrived is no message of this protocol; whoever sent it gets no answer."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "wire.malformed",
            "What arrived is not a message of Turnaround.",
            "Check that both ends are the same version of Turnaround.",
            details=why,
        )


class FieldError(TurnaroundError):
    """A message whose form is right and one of whose fields is not; whoever sent it is told which.

    Attributes:
        request: the `request` of the message, where it has one that can be repeated safely.
    """

    def __init__(self, error: TurnaroundError, request: str | None) -> None:
        super().__init__(error.code, error.sentence, error.hint, field=error.field, details=error.details)
        self.request = request


class Received(NamedTuple):
    """A message and its arrays by name. Arrays may be read-only views of what arrived."""

    message: Any
    arrays: Arrays


_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(Union[kind])  # noqa: UP007 - the value is a types.UnionType already
    for kind in (ClientMessage, BackendMessage)
}


def encode(message: Message, arrays: Mapping[str, NDArray[Any]] | None = None) -> list[Buffer]:
    """The frames of a message; contiguous arrays are not copied and must stay unchanged until they are sent.

    Args:
        message: its `arrays` field is filled in here.
        arrays: name -> array of a dtype and rank that `ArraySpec` allows.

    Raises:
        ValueError: an array that the protocol cannot carry; a mistake of the program, not of its input.
    """
    arrays = {name: _plain(array) for name, array in (arrays or {}).items()}
    specs = tuple(ArraySpec(name=name, dtype=array.dtype.str, shape=array.shape) for name, array in arrays.items())
    _total(specs, MAX_ARRAYS)
    frames: list[Buffer] = [_encoder.encode(msgspec.structs.replace(message, arrays=specs))]
    for array in arrays.values():
        frames += split(memoryview(array.reshape(-1).data).cast("B") if array.size else memoryview(b""))
    return frames


def split(data: memoryview) -> list[memoryview]:
    """One array's bytes as the frames that carry them; none for an empty array."""
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


def frames_of(header: bytes, body: memoryview, specs: Sequence[ArraySpec]) -> list[Buffer]:
    """The frames of a message stored as frame 0 and the bytes of its arrays end to end.

    Raises:
        ProtocolError: `body` is not as long as `specs` say.
    """
    if _total(specs, MAX_ARRAYS) != len(body):
        raise ProtocolError(f"stored arrays have {len(body)} bytes")
    frames: list[Buffer] = [header]
    start = 0
    for spec in specs:
        frames += split(body[start : start + nbytes(spec)])
        start += nbytes(spec)
    return frames


def decode(frames: Sequence[Buffer], kind: Any, max_bytes: int = MAX_ARRAYS) -> Received:
    """The message in `frames`.

    Args:
        frames: as they came from a socket (zmq.Frame or bytes). An array in a single frame becomes a view of it.
        kind: `ClientMessage` or `BackendMessage`, whichever may arrive here.
        max_bytes: bound of all arrays together.

    Raises:
        ProtocolError: not a message of this kind, or its frames are not what frame 0 says.
        FieldError: a message of this kind with a field out of bounds.
    """
    message = decode_header(frames[:1], kind)
    return Received(message, join(message.arrays, frames[1:], max_bytes))


def decode_header(frames: Sequence[Buffer], kind: Any) -> Any:
    """The message in frame 0 alone; raises like `decode`."""
    if not frames:
        raise ProtocolError("no frames")
    header = memoryview(frames[0])
    if header.nbytes > MAX_HEADER:
        raise ProtocolError(f"frame 0 has {header.nbytes} bytes")
    try:
        return _decoders[kind].decode(header)
    except msgspec.ValidationError as error:
        raise _field_error(header, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"frame 0: {error}") from None


def join(specs: Sequence[ArraySpec], frames: Sequence[Buffer], max_bytes: int = MAX_ARRAYS) -> Arrays:
    """The arrays that `frames` carry.

    Raises:
        ProtocolError: more bytes than allowed, a name twice, or frames that do not fit `specs`.
    """
    joining = Joining(specs, frames, max_bytes)
    while not joining.step():
        pass
    return joining.arrays


class Joining:
    """Arrays put together from their frames a frame at a time, for who must not be held for long.

    Raises:
        ProtocolError: see `join`; raised here, before memory is taken.
    """

    def __init__(self, specs: Sequence[ArraySpec], frames: Sequence[Buffer], max_bytes: int = MAX_ARRAYS) -> None:
        _total(specs, max_bytes)
        if len({spec.name for spec in specs}) != len(specs):
            raise ProtocolError("two arrays of one name")
        views = [memoryview(frame).cast("B") for frame in frames]
        expected = [size for spec in specs for size in _chunk_sizes(nbytes(spec))]
        if [view.nbytes for view in views] != expected:
            raise ProtocolError(f"{len(views)} frames where {len(expected)} of other sizes are announced")
        self.arrays: Arrays = {}
        self._todo: list[tuple[NDArray[np.uint8], int, memoryview]] = []
        start = 0
        for spec in specs:
            count = len(_chunk_sizes(nbytes(spec)))
            parts, start = views[start : start + count], start + count
            if count == 1:
                flat = np.frombuffer(parts[0], np.uint8)
            else:
                flat = np.empty(nbytes(spec), np.uint8)
                self._todo += [(flat, i * CHUNK, part) for i, part in enumerate(parts)]
            dtype = np.dtype(spec.dtype)
            if dtype.kind == "b" and any(np.frombuffer(part, np.uint8).max() > 1 for part in parts):
                raise ProtocolError(f'array "{spec.name}" has truth values other than 0 and 1')
            self.arrays[spec.name] = flat.view(dtype).reshape(spec.shape)
        self._todo.reverse()

    def step(self) -> bool:
        """Copies at most one frame; True when all are in place."""
        if self._todo:
            flat, offset, part = self._todo.pop()
            flat[offset : offset + part.nbytes] = part
        return not self._todo


def nbytes(spec: ArraySpec) -> int:
    """Bytes of the array that `spec` describes."""
    return math.prod(spec.shape) * int(spec.dtype[2:])


def _chunk_sizes(size: int) -> list[int]:
    return [CHUNK] * (size // CHUNK) + ([size % CHUNK] if size % CHUNK else [])


def _total(specs: Sequence[ArraySpec], max_bytes: int) -> int:
    total = sum(nbytes(spec) for spec in specs)
    if total > max_bytes:
        raise ProtocolError(f"{total} bytes of arrays, {max_bytes} are allowed")
    return total


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(array) if array.ndim else array
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    spec = {"name": "", "dtype": array.dtype.str, "shape": array.shape}
    try:
        msgspec.convert(spec, ArraySpec)
    except msgspec.ValidationError as error:
        raise ValueError(f"{array.dtype} {array.shape} cannot be sent: {error}") from None
    return array


def _field_error(header: memoryview, why: str) -> TurnaroundError:
    """A wrong field is told to the sender; a wrong type, array description or shape of the whole is not a message."""
    try:
        raw = msgspec.msgpack.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = None
    path = why.partition(" - at `$.")[2]
    if not isinstance(raw, dict) or not path or path.startswith(("type", "arrays")):
        return ProtocolError(f"frame 0: {why}")
    request = raw.get("request")
    try:
        return FieldError(explain(why, raw), msgspec.convert(request, JobId))
    except msgspec.ValidationError:
        return FieldError(explain(why, raw), None)
