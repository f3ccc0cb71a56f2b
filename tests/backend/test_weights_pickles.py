from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.weights.lazy import read_safetensors, write_safetensors
from backend.weights.pickles import Bystander, open_pickle
from protocol.errors import TurnaroundError

BASE = torch.arange(40, dtype=torch.float32)
TENSORS = {
    "flat": BASE[3:11],
    "turned": BASE.view(5, 8).t(),
    "every other": BASE[::2],
    "half": torch.ones(2, 3, dtype=torch.float16),
    "brain": torch.full((3,), 1.5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 4),
    "learned": torch.nn.Parameter(torch.ones(2)),
}


def saved(content: object, **how: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind_come_back_lazily(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.pt"
    content = {"state_dict": TENSORS, "step": 7, "deeper": {"still": {"flat": TENSORS["flat"]}}, "list": [BASE]}
    path.write_bytes(saved(content, _use_new_zipfile_serialization=zipped))
    opened = open_pickle(path)
    assert opened.keys() == {"state_dict", "deeper"}
    assert opened["deeper"]["still"]["flat"].name == "deeper.still.flat"
    for name, tensor in opened["state_dict"].items():
        assert tensor.shape == tuple(TENSORS[name].shape)
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor.read(), TENSORS[name])
    parts = opened["state_dict"]
    assert torch.equal(parts["turned"][2:4, 1].read(), TENSORS["turned"][2:4, 1])
    assert parts["turned"][2:4, 1].shape == (2,)

    write_safetensors(tmp_path / "a.safetensors", parts, half=True, metadata={"config": "{}"})
    stored = read_safetensors(tmp_path / "a.safetensors")
    for name, tensor in TENSORS.items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert stored[name].dtype == expected.dtype
        assert torch.equal(stored[name].read(), expected), name


SMALL = {"a": torch.arange(6.0).view(2, 3), "b": {"c": torch.ones(2, dtype=torch.int64)}}
WHOLE = saved(SMALL)


def mutated() -> st.SearchStrategy[bytes]:
    def flip(where: int, bits: int) -> bytes:
        data = bytearray(WHOLE)
        data[where] ^= bits
        return bytes(data)

    flips = st.builds(flip, st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
    return st.one_of(flips, st.integers(0, len(WHOLE) - 1).map(lambda end: WHOLE[:end]), st.binary(max_size=300))


@given(mutated())
def test_a_damaged_file_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("pickles") / "a.pt"
    path.write_bytes(data)
    with contextlib.suppress(TurnaroundError):
        opened = open_pickle(path)
        assert opened.keys() == SMALL.keys()
        assert torch.equal(opened["a"].read(), SMALL["a"])
        assert torch.equal(opened["b"]["c"].read(), SMALL["b"]["c"])


class Call:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("function", [exec, eval, __import__, open, Path])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_pickle_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., object], zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    path.write_bytes(saved({"a": Call(function, "attacked.py")}, _use_new_zipfile_serialization=zipped))
    with pytest.raises(TurnaroundError) as failure:
        open_pickle(path)
    assert failure.value.code == "weights.unsafe"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_what_is_too_small_or_packed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    storage = torch.zeros(2)._typed_storage()
    beyond = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1000, 1000), (1000, 1), False, {})
    path.write_bytes(saved({"a": beyond}))
    with pytest.raises(TurnaroundError) as failure:
        open_pickle(path)
    assert failure.value.code == "weights.damaged"

    with zipfile.ZipFile(io.BytesIO(WHOLE)) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for info in whole.infolist():
            packed.writestr(info.filename, whole.read(info))
    with pytest.raises(TurnaroundError, match="cannot be read") as failure:
        open_pickle(path)
    assert "compressed" in failure.value.details


def test_a_bystander_takes_anything() -> None:
    Bystander(1, "two").__setstate__({"three": 3})
