from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.weights import store
from protocol.errors import TurnaroundError


def network(width: int = 4) -> torch.nn.Module:
    torch.manual_seed(width)
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width))


def test_weights_and_config_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.safetensors"
    config = {"width": 4, "levels": [1, 2], "name": "é"}
    store.save_weights(path, network().state_dict(), config)
    assert store.read_config(path) == config
    other = network(4)
    torch.nn.init.zeros_(other[0].weight)
    store.load_into(other, path)
    for name, tensor in network().state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_half_storage_loads_into_the_networks_own_precision(tmp_path: Path) -> None:
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    store.save_weights(full, network(512).state_dict(), {})
    store.save_weights(half, network(512).state_dict(), {}, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = network(512)
    store.load_into(loaded, half)
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, network(512)[0].weight.half().float())
    assert store.weights_digest(half) != store.weights_digest(full)


def test_what_is_not_finite_is_refused_and_the_file_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    store.save_weights(path, network().state_dict(), {"version": 1})
    big = network().state_dict()
    big["0.weight"] = big["0.weight"] * 1e6
    with pytest.raises(ValueError, match=r"0\.weight"):
        store.save_weights(path, big, {"version": 2}, half=True)
    assert store.read_config(path) == {"version": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_mismatch_names_every_key_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    state = dict(network(5).state_dict())
    state["extra"] = state.pop("1.bias")
    store.save_weights(path, state, {})
    module = network(4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(TurnaroundError) as failure:
        store.load_into(module, path)
    assert failure.value.code == "weights.mismatch"
    assert failure.value.sentence.endswith("(7 parts differ, first missing: 1.bias).")
    assert "missing: 1.bias" in failure.value.details
    assert "unexpected: extra" in failure.value.details
    assert "shape of 0.weight: (5, 3) in the file, (4, 3) in the network" in failure.value.details
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@given(st.binary(max_size=200))
def test_any_other_file_is_reported_as_damaged(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    path.write_bytes(content)
    for read in (store.read_config, lambda p: store.load_into(network(), p)):
        with pytest.raises(TurnaroundError) as failure:
            read(path)
        assert failure.value.code == "weights.damaged"


def test_a_cut_off_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    store.save_weights(path, network().state_dict(), {})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TurnaroundError, match="cannot be read") as damaged:
        store.load_into(network(), path)
    assert damaged.value.code == "weights.damaged"
    with pytest.raises(TurnaroundError, match="not there") as missing:
        store.read_config(tmp_path / "nothing.safetensors")
    assert missing.value.code == "weights.missing"


def test_the_catalogue_is_complete_and_its_names_are_unique() -> None:
    entries = store.catalogue()
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.shipped == (entry.layout == "shipped"), entry.name
        assert not (entry.shipped and entry.source), entry.name
        assert entry.licence or entry.commercial == "unknown", entry.name
        assert entry.shipped or entry.layout in store.STORED, entry.name
        assert "://" not in entry.source or (entry.source.startswith("https://") and len(entry.files) == 1), entry.name
        assert set(entry.sha256) <= set(entry.files), entry.name
        assert store.find_entry(entry.name) == entry
    assert {entry.pipeline for entry in entries if entry.shipped} == {"one2345", "3dim", "ouroboros3d"}
    poses = {entry.name: entry.pose for entry in entries if entry.layout == "zero123"}
    assert all(("stable" in name) == (pose == "absolute_polar") for name, pose in poses.items())


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(TurnaroundError, match="zero123-xl") as failure:
        store.find_entry("zero124")
    assert failure.value.code == "weights.unknown"


def test_presence_needs_every_file_of_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path))
    entry = store.find_entry("sam-vit-huge")
    paths = store.stored_files(entry)
    assert [path.name for path in paths] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    (tmp_path / "sam-vit-huge").mkdir()
    for path in paths:
        assert not store.is_present(entry)
        path.write_bytes(b"")
        assert not store.is_present(entry), "an empty file is none"
        path.write_bytes(b"1")
    assert store.is_present(entry)
    assert all(store.is_present(entry) for entry in store.catalogue() if entry.shipped)


def test_a_broken_catalogue_says_where(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_text('[[weights]]\nname = "A B"\n')
    with pytest.raises(TurnaroundError) as failure:
        store.catalogue(path)
    assert failure.value.code == "weights.catalogue"
