"""What an artist asked for, checked before anything acts on it, in words that name the setting at fault.

Decoding validates a message's own bounds; here these bounds become sentences, and what no schema can say is checked:
that the engine is on offer and has the options, and the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import TurnaroundError
from .messages import MAX_PICTURE_SIDE, Imagine, PainterInfo, PipelineInfo, Settings, Submit
from .options import check_options

LABELS = {
    "seed": "Seed",
    "variants": "Variants",
    "elevation_deg": "Elevation",
    "fov_deg": "Field of View",
    "resolution": "Mesh Resolution",
    "target_faces": "Target Faces",
    "quality": "Quality",
    "matting": "Background Removal",
    "subject_box": "Subject Box",
    "subject_points": "Subject Points",
    "extra_pictures": "Further Pictures",
    "look_from": "Look From",
    "options": "Options",
    "pipeline": "Engine",
    "prompt": "Prompt",
    "negative_prompt": "Avoid",
    "painter": "Painter",
    "steps": "Steps",
    "guidance": "Guidance",
}
"""Fields as the panel calls them."""


def check_settings(settings: Settings) -> Settings:
    """The settings with every field within its bounds (structs made in Python are not checked by themselves).

    Raises:
        TurnaroundError: `settings.invalid`, with the field.
    """
    raw = {name: _plain(getattr(settings, name)) for name in settings.__struct_fields__}
    try:
        return msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise explain(str(error).replace("`$.", "`$.settings."), {"settings": raw}) from None


def _plain(value: Any) -> Any:
    """A tuple's structs as dicts: msgspec takes structs as they are."""
    if not isinstance(value, tuple):
        return value
    return [msgspec.structs.asdict(item) if isinstance(item, msgspec.Struct) else item for item in value]


def check_engine(name: str, settings: Settings, pipelines: Mapping[str, PipelineInfo]) -> None:
    """Checks that a pipeline is on offer, has its weights, and knows the options; raises as `check_submit`."""
    pipeline = pipelines.get(name)
    if pipeline is None:
        raise TurnaroundError(
            "pipeline.unknown",
            f'There is no engine called "{name}".',
            f"Choose one of: {', '.join(sorted(pipelines)) or 'none is installed'}.",
            field="pipeline",
        )
    if not pipeline.ready:
        raise TurnaroundError(
            "weights.missing", f"{pipeline.label} has no weights yet.", pipeline.hint, field="pipeline"
        )
    if settings.extra_pictures and not pipeline.several_pictures:
        raise TurnaroundError(
            "pictures.several",
            f"{pipeline.label} works from one picture.",
            "Remove the further pictures, or choose an engine that takes several.",
            field="extra_pictures",
        )
    if settings.look_from and not pipeline.novel_views:
        raise TurnaroundError(
            "views.novel",
            f"{pipeline.label} makes meshes and no single views.",
            "Choose an engine that draws views from anywhere.",
            field="look_from",
        )
    check_options(settings.options, pipeline)


def extra_names(settings: Settings) -> tuple[str, ...]:
    """Names of the arrays of `Settings.extra_pictures`."""
    return tuple(f"extra_{number}" for number, _ in enumerate(settings.extra_pictures))


def check_extras(settings: Settings, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Checks that each further picture is there and well formed.

    Raises:
        TurnaroundError: as `check_picture`, or `picture.missing`, with the array as the field.
    """
    for name in extra_names(settings):
        if name not in arrays:
            raise TurnaroundError("picture.missing", "A further picture was not sent.", field=name)
        check_picture(arrays[name])


def check_submit(message: Submit, arrays: Mapping[str, NDArray[Any]], pipelines: Mapping[str, PipelineInfo]) -> None:
    """Checks all of a job that can be known before it runs.

    Args:
        message: decoded, so that each field is within its own bounds.
        arrays: what came with it.
        pipelines: those on offer, by name.

    Raises:
        TurnaroundError: what is wrong, with the field.
    """
    check_engine(message.pipeline, message.settings, pipelines)
    unknown = sorted(arrays.keys() - {"picture", "matte", *extra_names(message.settings)})
    if unknown:
        raise TurnaroundError("picture.unknown", f'A job has no array "{unknown[0]}".', field=unknown[0])
    if ("picture" in arrays) == (message.picture_of is not None):
        raise TurnaroundError(
            "picture.missing",
            "There is no picture to work from." if "picture" not in arrays else "There are two pictures to work from.",
            "Open a picture in the Image Editor and choose it as the source.",
            field="picture",
        )
    if "picture" in arrays:
        check_picture(arrays["picture"], arrays.get("matte"))
        check_subject(message.settings, arrays["picture"])
        check_extras(message.settings, arrays)
    elif "matte" in arrays:
        _check_matte(arrays["matte"])


def check_imagine(message: Imagine, painters: Mapping[str, PainterInfo]) -> Imagine:
    """Checks all of a request for a picture that can be known before it is drawn.

    Args:
        message: decoded, or made in Python; every field is looked at again.
        painters: those on offer, by name.

    Returns:
        The same with the painter that is to draw it.

    Raises:
        TurnaroundError: what is wrong, with the field.
    """
    raw = {name: getattr(message, name) for name in message.__struct_fields__}
    try:
        message = msgspec.convert(raw, Imagine)
    except msgspec.ValidationError as error:
        raise explain(str(error), raw) from None
    if not message.prompt.strip():
        raise TurnaroundError("prompt.empty", "There is no prompt.", "Write what to draw.", field="prompt")
    ready = [painter for painter in painters.values() if painter.ready]
    chosen = painters.get(message.painter) if message.painter else next(iter(ready), None)
    if chosen is None and message.painter:
        raise TurnaroundError(
            "painter.unknown",
            f'There is no painter called "{message.painter}".',
            f"Choose one of: {', '.join(sorted(painters)) or 'none is installed'}.",
            field="painter",
        )
    if chosen is None or not chosen.ready:
        raise no_painter(chosen, painters)
    return msgspec.structs.replace(message, painter=chosen.name)


def no_painter(chosen: PainterInfo | None, painters: Mapping[str, PainterInfo]) -> TurnaroundError:
    """What keeps a picture from being drawn from text: `chosen`, or every painter, has no weights."""
    if chosen is not None:
        return TurnaroundError("painter.missing", f"{chosen.label} has no weights yet.", chosen.hint, field="painter")
    hint = next((painter.hint for painter in painters.values() if painter.hint), "")
    return TurnaroundError(
        "painter.missing",
        "No painter is installed that draws pictures from text.",
        hint or "Install a Stable Diffusion checkpoint, or choose a picture instead.",
        field="painter",
    )


def check_picture(picture: NDArray[Any], matte: NDArray[Any] | None = None) -> None:
    """Checks form and size of a picture, uint8 [H, W, 4], and its matte, uint8 [H, W].

    Raises:
        TurnaroundError: `picture.form`, `picture.large` or `picture.small`, with the field.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 4:
        raise TurnaroundError(
            "picture.form",
            "The picture is not 8-bit RGBA.",
            "Convert it to 8-bit RGB with alpha first.",
            field="picture",
            details=f"{picture.dtype} {picture.shape}",
        )
    height, width = picture.shape[:2]
    if min(height, width) < 2:
        raise TurnaroundError(
            "picture.small", f"The picture is only {width} x {height} pixels.", "Choose a larger one.", field="picture"
        )
    if max(height, width) > MAX_PICTURE_SIDE:
        raise TurnaroundError(
            "picture.large",
            f"The picture is {width} x {height} pixels; {MAX_PICTURE_SIDE} along a side are the most.",
            "Scale it down first; a few thousand pixels are plenty.",
            field="picture",
        )
    if matte is not None:
        _check_matte(matte)
        if matte.shape != picture.shape[:2]:
            raise TurnaroundError(
                "matte.size",
                f"The matte is {matte.shape[1]} x {matte.shape[0]} pixels, the picture {width} x {height}.",
                "Use a matte of the picture's size.",
                field="matte",
            )


def check_subject(settings: Settings, picture: NDArray[Any]) -> None:
    """Checks that the box and the points that say where the subject is lie in the picture, uint8 [H, W, 4].

    Raises:
        TurnaroundError: `settings.invalid`, with the field.
    """
    height, width = picture.shape[:2]
    hint = f"The picture is {width} x {height} pixels; left and top come first."
    if settings.subject_box is not None:
        left, top, right, bottom = settings.subject_box
        if not (0 <= left <= right - 1 <= width - 1 and 0 <= top <= bottom - 1 <= height - 1):
            raise TurnaroundError(
                "settings.invalid",
                f"Subject Box {left:g}, {top:g}, {right:g}, {bottom:g} is not in the picture.",
                hint,
                field="subject_box",
            )
    for point in settings.subject_points:
        if not (0 <= point.x <= width and 0 <= point.y <= height):
            raise TurnaroundError(
                "settings.invalid",
                f"Subject Point {point.x:g}, {point.y:g} is not in the picture.",
                hint,
                field="subject_points",
            )


def explain(why: str, raw: Any) -> TurnaroundError:
    """msgspec's account of a wrong field, for people.

    Args:
        why: the text of its ValidationError, e.g. "Expected `float` <= 90.0 - at `$.settings.elevation_deg`".
        raw: the message as plain containers, to quote the value from.
    """
    path = re.search(r"`\$\.([^`]*)`$", why)
    steps = path.group(1).split(".") if path else []
    value = raw
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else None
    field = ".".join(steps[1:] if steps[:1] == ["settings"] else steps)
    label = LABELS.get(field.partition(".")[0].partition("[")[0], field or "A setting")
    allowed = _allowed(field)
    plain = isinstance(value, (int, float, str)) and not isinstance(value, bool) and len(str(value)) <= 40
    said = f"{label} is {value}, which is not possible." if plain else f"{label} is not possible as it is."
    return TurnaroundError("settings.invalid", said, allowed and f"{label} can be {allowed}.", field=field, details=why)


def _allowed(field: str) -> str:
    """The values that a field of `Settings` or `Imagine` may have, in words; "" for what is no such field."""
    kinds = {
        known.name: known.type
        for struct in (Imagine, Settings)
        for known in msgspec.inspect.type_info(struct).fields  # type: ignore[attr-defined]
    }
    kind = kinds.get(field)
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next((k for k in kind.types if not isinstance(k, msgspec.inspect.NoneType)), None)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in kind.values)
    if isinstance(kind, (msgspec.inspect.IntType, msgspec.inspect.FloatType)) and None not in (kind.ge, kind.le):
        whole = "a whole number " if isinstance(kind, msgspec.inspect.IntType) else ""
        return f"{whole}from {kind.ge:.10g} to {kind.le:.10g}"
    if isinstance(kind, msgspec.inspect.StrType) and kind.max_length is not None and kind.pattern is None:
        return f"a text of at most {kind.max_length} characters"
    return ""


def _check_matte(matte: NDArray[Any]) -> None:
    if matte.dtype != np.uint8 or matte.ndim != 2 or not matte.size:
        raise TurnaroundError(
            "matte.form",
            "The matte is not an 8-bit grey picture.",
            field="matte",
            details=f"{matte.dtype} {matte.shape}",
        )
