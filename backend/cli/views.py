"""`turnaround views`."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from protocol.messages import Settings, Submit
from protocol.options import of_views_alone
from protocol.validation import check_engine, check_settings, check_submit, extra_names

from .console import Bar, Verbose, output_console
from .device import Device, DeviceChoice
from .generate import parse_elevation, parse_options
from .job import Job
from .pictures import Also, parse_also, parse_direction, read, write_png
from .runner import Backend, Cache, Connect, choose_runner


def views(
    picture: Annotated[Path, typer.Argument(help="The picture: PNG, JPEG, WebP, TIFF, ...")],
    cameras: Annotated[
        list[str],
        typer.Option(
            metavar="AZIMUTH[,ELEVATION]",
            help="From where to look, in degrees about the picture's camera: 180 is from behind. May be repeated, and "
            "later views look at earlier ones.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the views, as PNG.")],
    also: Also = None,
    pipeline: Annotated[str, typer.Option(help="The engine.")] = "3dim",
    elevation: Annotated[
        str, typer.Option(help="Degrees of the picture's camera above the horizon, or auto to find it.")
    ] = "auto",
    fov: Annotated[float | None, typer.Option(help="Vertical field of view of the picture's camera, degrees.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same views.")] = 0,
    quality: Annotated[str, typer.Option(help="draft, standard or fine.")] = "standard",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting of the engine's own; may be repeated. views=8 draws those of a mesh first, which the "
            "wanted ones then agree with.",
        ),
    ] = None,
    device: Device = DeviceChoice.AUTO,
    backend: Backend = False,
    connect: Connect = None,
    cache: Cache = True,
    verbose: Verbose = False,
) -> None:
    """Draw what a picture shows from other sides, without a mesh."""
    others = parse_also(also)
    settings = check_settings(
        Settings(
            seed=seed,
            elevation_deg=parse_elevation(elevation),
            fov_deg=fov,
            quality=quality,  # type: ignore[arg-type]  # check_settings looks at it
            extra_pictures=tuple(direction for _, direction in others),
            look_from=tuple(parse_direction(text, "look_from") for text in cameras),
        )
    )
    with closing(choose_runner(backend, connect, device, cache)) as runner:
        info = runner.info(pipeline)
        options = of_views_alone(parse_options(option or [], info), info)
        settings = msgspec.structs.replace(settings, options=options)
        check_engine(pipeline, settings, {pipeline: info})
        job = Job(read(picture), pipeline, settings, tuple(read(path) for path, _ in others))
        arrays = {"picture": job.picture, **dict(zip(extra_names(settings), job.extra_pictures, strict=True))}
        check_submit(Submit(request=str(uuid.uuid4()), pipeline=pipeline, settings=settings), arrays, {pipeline: info})
        with Bar() as bar:
            (drawn,) = runner.run(job, bar)
            bar.note(drawn.report.warnings)
            for number, view in enumerate(drawn.views, start=1):
                path = output / f"view_{number:02}.png"
                write_png(view, path)
                output_console().print(str(path), soft_wrap=True, markup=False)
