"""`turnaround train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.errors import TurnaroundError

from .console import Verbose, error_console, output_console
from .device import Device, DeviceChoice, choose


class Form(StrEnum):
    """See `backend.training.threedim.FORMS`."""

    PAPER = "paper"
    SRN64 = "srn64"


OF_SPARSENEUS = "Of sparseneus-published alone"
OF_PUBLISHED = "Of the published trainings"


def train(
    name: Annotated[str, typer.Argument(help="The network to train.")],
    meshes: Annotated[
        Path,
        typer.Option(
            help="Folder of meshes to train on; of 3dim-published also one of posed pictures as SRN's.",
            exists=True,
            file_okay=False,
            resolve_path=True,
        ),
    ],
    minutes: Annotated[
        float, typer.Option(help="Of training in all; a later run goes on where this one stopped.", min=0.01)
    ] = 60.0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoints and weights.", file_okay=False)
    ] = Path("out/train"),
    start_from: Annotated[
        Path | None,
        typer.Option(
            help="Weights to begin with instead of random ones; of zero123 a folder, of ouroboros3d-published one with "
            "both networks, by default the installed one.",
            exists=True,
        ),
    ] = None,
    reconstructor: Annotated[
        Path | None,
        typer.Option(
            help="Reconstructor whose shapes the view generator looks at; of ouroboros3d-published the LGM that it "
            "begins with, by default the installed one.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            help="Generator whose views a reconstructor learns from too: a file; of sparseneus-published a Zero123's "
            "folder, of ouroboros3d-published that of the video model that it begins with; by default the one that is "
            "installed.",
            exists=True,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Objects a step; of ouroboros3d-published of each of the four batches a step.", min=1),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; a lower one suits weights that are trained already.", min=1e-7)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="In all; as published 300,000 for sparseneus, 1,000,000 for 3dim, 40,000 for ouroboros3d.",
            min=1,
            rich_help_panel=OF_PUBLISHED,
        ),
    ] = None,
    drawn_share: Annotated[
        float | None,
        typer.Option(
            help="Of the source views, those that are drawn; 0.5.", min=0, max=1, rich_help_panel=OF_SPARSENEUS
        ),
    ] = None,
    depth_weight: Annotated[
        float | None,
        typer.Option(
            help="Of the depth loss: 1 as in the paper, 0 as in the released configuration.",
            min=0,
            rich_help_panel=OF_SPARSENEUS,
        ),
    ] = None,
    mask_weight: Annotated[
        float | None,
        typer.Option(
            help="Of the mask loss: 0 as in the paper, 0.01 to 0.1 as in the released configuration.",
            min=0,
            rich_help_panel=OF_SPARSENEUS,
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            help="paper is 128 pixels, the default; srn64 is what the public program trains, quirks included.",
            rich_help_panel="Of 3dim-published alone",
        ),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where rendered training pictures are kept.")] = Path(".cache"),
    device: Device = DeviceChoice.AUTO,
    verbose: Verbose = False,
) -> None:
    """Train one of the networks on a folder of meshes, or go on where the last run stopped.

    First sparseneus and elevation, then xunet with --reconstructor, then sparseneus again with --start-from and
    --generator, so that it learns what drawn views are worth. These are the small networks that ship.

    lgm and multiview are the two networks of ouroboros3d, each alone; then ouroboros3d with --reconstructor and
    --generator trains both together, each looking at the other, and leaves a file of each.

    3dim is the view generator of the engine 3dim, which looks at no shape. zero123 is a small Zero123, or with
    --start-from an installed one that is trained further.

    sparseneus-published is the reconstructor of One-2-3-45 at its published size and trained as published, which takes
    days on GPUs: "accelerate launch -m backend.cli train sparseneus-published ..." uses several. 3dim-published is the
    same of 3DiM's view generator, ouroboros3d-published of both networks of Ouroboros3D: it begins with a folder of
    Stable Video Diffusion (--generator) or goes on with published weights, and leaves a folder that can be imported.
    """

    def log(line: str) -> None:
        error_console().print(line, markup=False, highlight=False)

    options = {
        "steps": steps,
        "drawn_share": drawn_share,
        "depth_weight": depth_weight,
        "mask_weight": mask_weight,
        "form": None if form is None else form.value,
        "reconstructor": reconstructor,
        "generator": generator,
        "start_from": start_from,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    given = {option: value for option, value in options.items() if value is not None}
    training = _published().get(name) or _small(name)
    training.check(name, given)
    run = {"minutes": minutes, "device": choose(device), "output": output, "cache": cache, "log": log}
    output_console().print(str(training.start(meshes, given, run)), markup=False)


COMMON = ("start_from", "batch_size", "learning_rate")
"""Options that all trainings take."""

PATHS = ("start_from", "generator")
"""Options that are a weights file for some trainings and a folder for others."""

SIZES = ("steps", "batch_size", "learning_rate")
"""Options that change the same settings of all published trainings."""

Start = Callable[[Path, Mapping[str, Any], Mapping[str, Any]], Path]
"""Trains on a folder of meshes, with the options that are given and with what says where and how long to run."""


@dataclass(frozen=True)
class _Training:
    """One kind of training.

    Attributes:
        start: runs it; returns where the weights are.
        options: that it takes beside `COMMON`.
        folders: which of `PATHS` are folders, and of what.
    """

    start: Start
    options: tuple[str, ...]
    folders: Mapping[str, str]

    def check(self, name: str, given: Mapping[str, Any]) -> None:
        """Says what has no meaning for this network, rather than to leave it out in silence.

        Raises:
            TurnaroundError: `train.option`, `train.start_from`, `train.generator`.
        """
        unfit = [f"--{option.replace('_', '-')}" for option in given if option not in (*COMMON, *self.options)]
        if unfit:
            sentence = f"{' and '.join(unfit)} cannot be used with {name}."
            raise TurnaroundError("train.option", sentence, "Leave them out.")
        for option in PATHS:
            path, kind = given.get(option), self.folders.get(option)
            if path is not None and path.is_dir() != (kind is not None):
                is_so = f"--{option.replace('_', '-')} is a {'folder' if path.is_dir() else 'file'}"
                wanted = f"the folder of {kind}" if kind else "a weights file"
                raise TurnaroundError(f"train.{option}", f"{is_so}: {path}.", f"For {name}, give {wanted}.")


def _published() -> dict[str, _Training]:
    """Those at the published sizes."""
    from backend.training import ouroboros3d_published, published, threedim
    from backend.training.ouroboros3d_start import chosen_start

    def chosen(choose: Callable[..., Any], given: Mapping[str, Any], *more: str, **others: Any) -> Any:
        return choose(**{option: given[option] for option in (*SIZES, *more) if option in given}, **others)

    def sparseneus(meshes: Path, given: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
        loss = {part: given.get(f"{part}_weight") for part in ("depth", "mask")}
        training = chosen(published.chosen, given, "drawn_share", loss=loss)
        zero123 = given.get("generator") or published.installed_zero123()
        return published.train(meshes, training, start_from=given.get("start_from"), zero123=zero123, **run)

    def xunet(meshes: Path, given: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
        training = chosen(threedim.chosen, given, "form")
        return threedim.train(meshes, training, start_from=given.get("start_from"), **run)

    def ouroboros3d(meshes: Path, given: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
        start = chosen_start(given.get("start_from"), given.get("generator"), given.get("reconstructor"))
        return ouroboros3d_published.train(meshes, chosen(ouroboros3d_published.chosen, given), start, **run)

    of_sparseneus = ("steps", "drawn_share", "depth_weight", "mask_weight", "generator")
    of_ouroboros3d = ("steps", "generator", "reconstructor")
    folders = {"start_from": "both networks", "generator": "Stable Video Diffusion"}
    return {
        published.NAME: _Training(sparseneus, of_sparseneus, {"generator": "a Zero123"}),
        threedim.NAME: _Training(xunet, ("steps", "form"), {}),
        ouroboros3d_published.NAME: _Training(ouroboros3d, of_ouroboros3d, folders),
    }


def _small(name: str) -> _Training:
    """The networks that ship, and a small Zero123."""
    from backend.training.run import ZERO123
    from backend.training.run import train as run_training

    def start(meshes: Path, given: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
        return run_training(name, meshes, **given, **run)

    return _Training(start, ("reconstructor", "generator"), {"start_from": "a Zero123"} if name == ZERO123 else {})
