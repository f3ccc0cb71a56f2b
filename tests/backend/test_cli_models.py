from __future__ import annotations

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
