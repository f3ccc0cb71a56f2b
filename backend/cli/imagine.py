"""`turnaround imagine`, and the picture that `turnaround generate --prompt` begins with."""

from __future__ import annotations

import io
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from protocol.messages import SINGLE_OBJECT, Imagine
from protocol.validation import check_imagine

from .console import Bar, Verbose, error_console, output_console, warn
from .device import Device, DeviceChoice
from .job import Runner
from .runner import Backend, Cache, Connect, choose_runner

if TYPE_CHECKING:
    from backend.generators.text.base import Painting

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

PainterName = Annotated[
    str, typer.Option("--painter", help="The painter, from `turnaround models list`; the first one installed if none.")
]
NegativePrompt = Annotated[str, typer.Option("--negative-prompt", help="What the picture shall not show.")]
SingleObject = Annotated[
    bool, typer.Option("--single-object/--no-single-object", help=f'Add "{SINGLE_OBJECT}" to the prompt.')
]


def imagine(
    prompt: Annotated[str, typer.Argument(help='What to draw: "a blue mug".')],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write: .png, .jpg or .webp.")],
    painter: PainterName = "",
    negative_prompt: NegativePrompt = "",
    single_object: SingleObject = True,
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the painter's own if none.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the picture follows the prompt; the painter's own if none.")
    ] = None,
    device: Device = DeviceChoice.AUTO,
    backend: Backend = False,
    connect: Connect = None,
    cache: Cache = True,
    verbose: Verbose = False,
) -> None:
    """Draw a picture from a text, to look at before a mesh is made from it."""
    check_picture_name(output)
    request = Imagine(
        request=str(uuid.uuid4()),
        prompt=prompt,
        negative_prompt=negative_prompt,
        single_object=single_object,
        seed=seed,
        painter=painter,
        steps=steps,
        guidance=guidance,
    )
    with closing(choose_runner(backend, connect, device, cache)) as runner:
        painting = draw(runner, request)
    write_picture(painting, output)
    output_console().print(str(output), soft_wrap=True, markup=False)


def draw(runner: Runner, request: Imagine) -> Painting:
    """The picture, with what is to be known of it said on the way; raises like `check_imagine` and `Runner.imagine`."""
    request = check_imagine(request, runner.painters())
    with Bar() as bar:
        painting = runner.imagine(request, bar)
    report = painting.report
    licence = f", whose licence is {report.licence}" if report.licence else ""
    error_console().print(f"Drawn by {report.label}{licence}.", soft_wrap=True, markup=False)
    if report.commercial == "no":
        warn("This licence does not allow commercial use.")
    for sentence in report.warnings:
        warn(sentence)
    return painting


def check_picture_name(path: Path) -> str:
    """The format that a picture's name asks for; asking early spares the work for nothing.

    Raises:
        TurnaroundError: `export.format`.
    """
    from backend.geometry.export import by_suffix

    return by_suffix(path, FORMATS, "Pictures")


def write_picture(painting: Painting, path: Path) -> None:
    """Writes a picture; a PNG carries its report, so that its prompt and licence stay with it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from backend.geometry.export import write_file

    kind = check_picture_name(path)
    image = Image.fromarray(painting.picture)
    content = io.BytesIO()
    if kind == "PNG":
        story = PngInfo()
        story.add_itxt("turnaround", msgspec.json.encode(painting.report).decode())
        image.save(content, kind, pnginfo=story)
    else:
        image.convert("RGB").save(content, kind, quality=95)
    write_file(path, content.getvalue())
