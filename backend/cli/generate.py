"""`turnaround generate`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from protocol.errors import TurnaroundError
from protocol.messages import Imagine, OptionSpec, PipelineInfo, Settings, SubjectPoint, Submit
from protocol.validation import check_engine, check_settings, check_submit, extra_names

from .console import Bar, Verbose, output_console
from .device import Device, DeviceChoice
from .imagine import NegativePrompt, PainterName, SingleObject, check_picture_name, draw, write_picture
from .job import Job, Variant
from .pictures import Also, parse_also, read, write_png
from .runner import Backend, Cache, Connect, choose_runner
from .splats import check_makes_splats, check_splats_name, write


def generate(
    output: Annotated[Path, typer.Option("--output", "-o", help="The mesh to write: .glb, .ply or .obj.")],
    picture: Annotated[Path | None, typer.Argument(help="The picture: PNG, JPEG, WebP, TIFF, ...")] = None,
    also: Also = None,
    prompt: Annotated[str, typer.Option(help='Draw the picture from this text first: "a blue mug".')] = "",
    painter: PainterName = "",
    negative_prompt: NegativePrompt = "",
    single_object: SingleObject = True,
    picture_out: Annotated[Path | None, typer.Option(help="The picture that was drawn: .png, .jpg or .webp.")] = None,
    pipeline: Annotated[str, typer.Option(help="The engine.")] = "one2345",
    elevation: Annotated[
        str, typer.Option(help="Degrees of the picture's camera above the horizon, or auto to find it.")
    ] = "auto",
    fov: Annotated[float | None, typer.Option(help="Vertical field of view of the picture's camera, degrees.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same mesh.")] = 0,
    variants: Annotated[int, typer.Option(help="How many meshes to make: OUT.1.glb, OUT.2.glb, ...")] = 1,
    resolution: Annotated[int, typer.Option(help="Marching-cubes cells along a side.")] = 128,
    faces: Annotated[int | None, typer.Option(help="Reduce the mesh to about this many triangles.")] = None,
    quality: Annotated[str, typer.Option(help="draft, standard or fine.")] = "standard",
    matting: Annotated[
        str, typer.Option(help="What takes the background off: auto, sam, rembg or grabcut. A picture's alpha wins.")
    ] = "auto",
    box: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Where the subject is in the picture, in pixels.")
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y[,-]", help="A pixel of the subject, or with - one that is not; may be repeated."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help='Which weights: auto, tiny or installed ones; see "turnaround models list".')
    ] = "",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A setting of the engine's own; may be repeated.")
    ] = None,
    device: Device = DeviceChoice.AUTO,
    backend: Backend = False,
    connect: Connect = None,
    views_out: Annotated[Path | None, typer.Option(help="Folder for the views that were drawn, as PNG.")] = None,
    splats: Annotated[
        Path | None, typer.Option(help="Also write the Gaussians that the mesh was made of, as .ply.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="JSON file for what was done and how long it took.")] = None,
    cache: Cache = True,
    verbose: Verbose = False,
) -> None:
    """Make a coloured mesh from a picture, or from a text."""
    from backend.geometry.export import encoder, write_file, write_mesh

    encoder(output)  # raises if there is no such format, before anything takes time
    if splats is not None:
        check_splats_name(splats)
    if (picture is None) == (not prompt):
        raise typer.BadParameter("Give a picture or a --prompt, one of the two.")
    if picture is not None and (painter or negative_prompt or picture_out):
        raise typer.BadParameter("--painter, --negative-prompt and --picture-out go with --prompt.")
    if picture_out is not None:
        check_picture_name(picture_out)
    others = parse_also(also)
    settings = check_settings(
        Settings(
            seed=seed,
            variants=variants,
            elevation_deg=parse_elevation(elevation),
            fov_deg=fov,
            resolution=resolution,
            target_faces=faces,
            quality=_literal(quality),
            matting=_literal(matting),
            subject_box=_box(box),
            subject_points=tuple(_point(text) for text in point or []),
            extra_pictures=tuple(direction for _, direction in others),
        )
    )
    start = time.perf_counter()
    done: list[dict[str, Any]] = []
    painting = None
    with closing(choose_runner(backend, connect, device, cache)) as runner:
        info = runner.info(pipeline)
        options = [*(option or []), *([f"weights={weights}"] if weights else [])]
        settings = msgspec.structs.replace(settings, options=parse_options(options, info))
        check_engine(pipeline, settings, {pipeline: info})  # before a picture is drawn for it
        if splats is not None:
            check_makes_splats(info)
        if picture is not None:
            pixels = read(picture)
        else:
            request = Imagine(
                request=str(uuid.uuid4()),
                prompt=prompt,
                negative_prompt=negative_prompt,
                single_object=single_object,
                seed=seed,
                painter=painter,
            )
            painting = draw(runner, request)
            pixels = painting.picture
            if picture_out is not None:
                write_picture(painting, picture_out)
        job = Job(pixels, pipeline, settings, tuple(read(path) for path, _ in others))
        arrays = {"picture": job.picture, **dict(zip(extra_names(settings), job.extra_pictures, strict=True))}
        submit = Submit(request=str(uuid.uuid4()), pipeline=pipeline, settings=settings)
        check_submit(submit, arrays, {pipeline: info})
        with Bar() as bar:
            for index, variant in enumerate(runner.run(job, bar)):
                path = numbered(output, index, variants)
                write_mesh(variant.mesh, path)
                if splats is not None:
                    write(variant, numbered(splats, index, variants))
                if views_out is not None:
                    _write_views(variant, views_out if variants == 1 else views_out / str(index + 1))
                done.append(_entry(variant, path))
                bar.note(variant.report.warnings)
                output_console().print(str(path), soft_wrap=True, markup=False)
    if report is not None:
        content = {
            "turnaround": version("turnaround"),
            "picture": painting.report if painting else picture and picture.name,
            "seconds": round(time.perf_counter() - start, 3),
            "variants": done,
        }
        write_file(report, msgspec.json.format(msgspec.json.encode(content)))


def numbered(output: Path, index: int, count: int) -> Path:
    """The file of variant `index` (from 0) of `count`: OUT.glb if it is the only one, else OUT.1.glb, OUT.2.glb, ..."""
    return output if count == 1 else output.with_name(f"{output.stem}.{index + 1}{output.suffix}")


def parse_elevation(text: str) -> float | None:
    """Degrees, or None for auto; raises `settings.invalid`."""
    if text.lower() == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise TurnaroundError(
            "settings.invalid",
            f'Elevation is "{text}", which is not possible.',
            "Elevation can be auto, or degrees from -90 to 90.",
            field="elevation_deg",
        ) from None


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise _not_pixels("Subject Box", text, "X0,Y0,X1,Y1: left, top, right and bottom", "subject_box") from None
    return left, top, right, bottom


def _point(text: str) -> SubjectPoint:
    try:
        x, y, *sign = text.split(",")
        if sign not in ([], ["+"], ["-"]):
            raise ValueError(sign)
        return SubjectPoint(x=float(x), y=float(y), subject=sign != ["-"])
    except ValueError:
        hint = "X,Y, or X,Y,- for a point that is not on the subject"
        raise _not_pixels("Subject Point", text, hint, "subject_points") from None


def _not_pixels(label: str, text: str, form: str, field: str) -> TurnaroundError:
    sentence, hint = f'{label} is "{text}", which is not possible.', f"Write it in pixels as {form}."
    return TurnaroundError("settings.invalid", sentence, hint, field=field)


def _literal(text: str) -> Any:
    return text  # check_settings looks at it next


def parse_options(given: list[str], info: PipelineInfo) -> dict[str, bool | int | float | str]:
    """NAME=VALUE pairs, each value read as the kind that the pipeline expects; `check_options` has the last word.

    Raises:
        TurnaroundError: `settings.option`, if one is no pair.
    """
    specs = {spec.name: spec for spec in info.options}
    options: dict[str, bool | int | float | str] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals:
            raise TurnaroundError(
                "settings.option", f'"{pair}" is not an option.', "Write it as NAME=VALUE.", field="options"
            )
        options[name] = _value(text, specs.get(name))
    return options


def _value(text: str, spec: OptionSpec | None) -> bool | int | float | str:
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    kinds: dict[type, Callable[[str], bool | int | float | str]] = {
        bool: lambda t: words[t.lower()],
        int: int,
        float: float,
        str: str,
    }
    try:
        return kinds[type(spec.default) if spec else str](text)
    except (KeyError, ValueError):
        return text  # of the wrong kind: the check says so, with the option's own words


def _write_views(variant: Variant, folder: Path) -> None:
    write_png(variant.cutout, folder / "cutout.png")
    for number, view in enumerate(variant.views, start=1):
        write_png(view, folder / f"view_{number:02}.png")


def _entry(variant: Variant, path: Path) -> dict[str, Any]:
    return {
        "file": path.name,
        "vertices": len(variant.mesh.vertices),
        "faces": len(variant.mesh.faces),
        "report": variant.report,
        "views": [{"file": f"view_{n:02}.png", "camera": c} for n, c in enumerate(variant.cameras, start=1)],
    }
