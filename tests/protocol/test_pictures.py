"""Further pictures and wanted views: what may be asked of whom."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from protocol.errors import TurnaroundError
from protocol.messages import MAX_EXTRA_PICTURES, Direction, PipelineInfo, Settings, Submit
from protocol.validation import check_engine, check_settings, check_submit

ONE = PipelineInfo(name="one", label="One", description="")
SEVERAL = PipelineInfo(name="several", label="Several", description="", several_pictures=True, novel_views=True)
OFFERED = {"one": ONE, "several": SEVERAL}
PICTURE = np.zeros((8, 8, 4), np.uint8)
BEHIND = Direction(azimuth_deg=180.0)


def refused(settings: Settings, arrays: dict[str, np.ndarray], pipeline: str = "several") -> TurnaroundError:
    with pytest.raises(TurnaroundError) as caught:
        check_submit(Submit(request="a", pipeline=pipeline, settings=settings), arrays, OFFERED)
    return caught.value


def test_every_direction_needs_its_picture_and_every_picture_its_direction() -> None:
    two = Settings(extra_pictures=(BEHIND, Direction(azimuth_deg=90.0, elevation_deg=30.0)))
    submit = Submit(request="a", pipeline="several", settings=two)
    arrays = {"picture": PICTURE, "extra_0": PICTURE, "extra_1": PICTURE}
    check_submit(submit, arrays, OFFERED)
    assert refused(two, {"picture": PICTURE, "extra_1": PICTURE}).field == "extra_0"
    assert refused(two, arrays | {"extra_2": PICTURE}).field == "extra_2"
    assert refused(two, arrays | {"extra_1": PICTURE[..., :3]}).code == "picture.form"
    assert refused(two, arrays | {"extra_1": PICTURE[:1]}).code == "picture.small"


def test_engines_say_what_they_cannot() -> None:
    check_engine("one", Settings(), OFFERED)
    for settings, code in (
        (Settings(extra_pictures=(BEHIND,)), "pictures.several"),
        (Settings(look_from=(BEHIND,)), "views.novel"),
    ):
        check_engine("several", settings, OFFERED)
        with pytest.raises(TurnaroundError) as caught:
            check_engine("one", settings, OFFERED)
        assert caught.value.code == code
        assert "One" in caught.value.sentence


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extra_pictures", (BEHIND,) * (MAX_EXTRA_PICTURES + 1)),
        ("look_from", (BEHIND,) * 65),
        ("extra_pictures", (Direction(azimuth_deg=361.0),)),
        ("look_from", (Direction(azimuth_deg=0.0, elevation_deg=-91.0),)),
        ("look_from", (Direction(azimuth_deg=float("nan")),)),
    ],
)
def test_counts_and_angles_are_bounded(field: str, value: tuple[Direction, ...]) -> None:
    with pytest.raises(TurnaroundError) as caught:
        check_settings(Settings(**{field: value}))
    assert caught.value.code == "settings.invalid"
    assert caught.value.field.startswith(field)


def test_older_peers_are_understood() -> None:
    """Neither the settings nor the engines of an earlier version say anything of this."""
    assert msgspec.json.decode(b'{"seed": 3}', type=Settings) == Settings(seed=3)
    info = msgspec.json.decode(b'{"name": "a", "label": "A", "description": ""}', type=PipelineInfo)
    assert not info.several_pictures
    assert not info.novel_views
