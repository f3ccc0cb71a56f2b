from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import weights_samples as samples
from typer.testing import CliRunner

from backend.cli import app
from backend.cli.console import CANCELLED
from backend.pipelines import registry
from backend.pipelines.choosing import still_needed
from backend.pipelines.engine import Engine
from backend.weights import install, store

NAME = "one2345-sparseneus"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / "weights"))
    manifest = Path(__file__).parents[1] / "data" / "one2345_recon_checkpoint.json"
    samples.save_sparseneus(tmp_path / "ckpt_215000.pth", json.loads(manifest.read_text()))
    return tmp_path / "ckpt_215000.pth"


def models(*arguments: object, answer: str | None = None) -> Any:
    return CliRunner().invoke(app, ["models", *map(str, arguments)], input=answer, catch_exceptions=False)


def row() -> dict[str, Any]:
    return next(row for row in json.loads(models("list", "--json").stdout) if row["name"] == NAME)


def put_there(*names: str) -> None:
    for path in (path for name in names for path in store.stored_files(store.find_entry(name))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"there")


def test_what_else_is_needed_is_said_at_the_end_and_where_it_is_missed(checkpoint: Path, tmp_path: Path) -> None:
    alone = models("import", NAME, checkpoint).stderr
    assert "can be used once one of zero123-105000, " in " ".join(alone.split())
    models("remove", NAME, "--yes")
    picture = Path(__file__).parents[2] / "examples" / "house.png"

    def refused() -> str:
        arguments = ["generate", str(picture), "-o", str(tmp_path / "house.glb"), "--weights", "zero123-xl"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        return result.stderr

    assert "have to be installed first" in refused()
    put_there("zero123-xl")
    needed = "zero123-xl can be used once one2345-sparseneus is installed too."
    assert needed in refused()
    assert needed in " ".join(models("install", "zero123-xl").stderr.split())
    assert "can be used once" not in models("import", NAME, checkpoint).stderr


@pytest.mark.parametrize(
    ("pipeline", "names"),
    [
        ("one2345", ("zero123-xl", NAME, "loftr-indoor")),
        ("ouroboros3d", ("ouroboros3d", "stable-video-diffusion", "lgm")),
        ("3dim", ("xunet-srn64",)),
    ],
)
def test_what_a_pipeline_can_use_needs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str, names: tuple[str, ...]
) -> None:
    engine = registry.pipeline(pipeline)
    assert isinstance(engine, Engine)
    for number, there in enumerate(itertools.product([False, True], repeat=len(names))):
        monkeypatch.setenv("TURNAROUND_WEIGHTS", str(tmp_path / str(number)))
        put_there(*itertools.compress(names, there))
        whole = all(there[:2])
        assert engine.installed() == (names[:1] if whole else ())
        lacking = [name for name, one in zip(names[:2], there[:2], strict=True) if one and not whole]
        assert [name for name in names if here(name) and still_needed(store.find_entry(name))] == lacking
        info = engine.info()
        assert info.ready
        assert all(f"{name} can be used once" in info.hint for name in lacking)


def here(name: str) -> bool:
    return store.is_present(store.find_entry(name))


def test_from_import_to_removal(checkpoint: Path) -> None:
    assert row()["present"] is False
    done = models("import", NAME, checkpoint)
    assert done.exit_code == 0, done.output
    assert "is ready" in done.stderr
    assert "Converting" in done.stderr
    assert row()["present"] is True
    again = models("install", NAME)
    assert again.exit_code == 0
    assert "here already" in again.stderr

    checked = models("verify", NAME)
    assert checked.exit_code == 0, checked.output
    assert checked.stdout.split() == f"{NAME}: as it should be".split()
    (path,) = store.stored_files(store.find_entry(NAME))
    path.write_bytes(path.read_bytes()[:-1])
    checked = models("verify")
    assert checked.exit_code == 1
    assert "Error: The weights sparseneus.safetensors cannot be read." in checked.stderr
    assert "tiny-xunet: as it should be" in checked.stdout, "the others are checked all the same"

    assert models("remove", NAME, answer="n\n").exit_code == 1
    assert row()["present"] is True
    removed = models("remove", NAME, answer="y\n")
    assert removed.exit_code == 0
    assert "is deleted" in removed.stderr
    assert row()["present"] is False
    assert "was not here" in models("remove", NAME, "--yes").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["install", "zero124"], ['no model called "zero124"', "zero123-xl"]),
        (["install", "stable-zero123"], ["licence of Stable Zero123", "no commercial use", "--accept-licence"]),
        (["install", "xunet-srn64"], ["nobody publishes it", "models import xunet-srn64"]),
        (["import", "zero123-xl", "nowhere"], ["nothing at nowhere", "path"]),
        (["import", "tiny-xunet", "."], ["a part of turnaround"]),
        (["remove", "tiny-xunet"], ["a part of turnaround"]),
        (["verify", "zero123-xl"], ["is not installed", "models install zero123-xl"]),
    ],
)
def test_what_cannot_be_is_said_in_words(checkpoint: Path, arguments: list[str], words: list[str]) -> None:
    result = models(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ") or "\nError: " in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.stderr


def test_a_licence_can_be_accepted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = []

    def fake(entry: store.WeightsEntry, *, accept_licence: bool, **_: object) -> None:
        accepted.append(accept_licence)

    monkeypatch.setattr(install, "install", fake)
    assert models("install", NAME, "--accept-licence").exit_code == 0
    assert models("install", NAME).exit_code == 0
    assert models("install", "zero123-xl").exit_code == 0
    assert accepted == [True, False, False], "nobody is asked where nobody can answer"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_stops_and_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threading.current_thread() is threading.main_thread()
    convert = install.import_from

    def interrupted(entry: store.WeightsEntry, path: Path, **more: Any) -> None:
        report = more.pop("progress")

        def progress(progress: install.InstallProgress) -> None:
            report(progress)
            if progress.stage == "Converting" and progress.done == 0:
                os.kill(os.getpid(), signal.SIGINT)

        convert(entry, path, progress=progress, **more)

    monkeypatch.setattr(install, "import_from", interrupted)
    result = models("import", NAME, checkpoint)
    assert result.exit_code == CANCELLED
    assert "Cancelled." in result.stderr
    assert row()["present"] is False
