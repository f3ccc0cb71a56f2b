"""Where the subject is: what a client may say of it, and what is wrong with it in words."""

import math

import msgspec
import numpy as np
import pytest

from protocol.errors import TurnaroundError
from protocol.messages import PipelineInfo, Settings, SubjectPoint, Submit
from protocol.validation import check_settings, check_submit

PIPELINES = {"p": PipelineInfo(name="p", label="P", description="")}
PICTURE = np.zeros((60, 100, 4), np.uint8)


def submit(**settings):
    check_submit(Submit(request="r", pipeline="p", settings=Settings(**settings)), {"picture": PICTURE}, PIPELINES)


def test_a_subject_in_the_picture_is_taken_as_it_is():
    wish = Settings(
        matting="sam",
        subject_box=(0.0, 0.0, 100.0, 60.0),
        subject_points=(SubjectPoint(x=99.5, y=0.5), SubjectPoint(x=3, y=4, subject=False)),
    )
    assert check_settings(wish) == wish
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(wish), type=Settings) == wish
    submit(**{name: getattr(wish, name) for name in ("matting", "subject_box", "subject_points")})


@pytest.mark.parametrize(
    "box", [(5.0, 5.0, 5.0, 20.0), (50.0, 5.0, 20.0, 20.0), (0.0, 0.0, 101.0, 60.0), (math.nan, 0.0, 50.0, 50.0)]
)
def test_a_box_outside_or_inside_out_is_told(box):
    with pytest.raises(TurnaroundError) as caught:
        submit(subject_box=box)
    assert (caught.value.code, caught.value.field) == ("settings.invalid", "subject_box")
    assert "100 x 60" in caught.value.hint


@pytest.mark.parametrize("point", [(100.5, 3.0), (3.0, 61.0), (math.nan, 3.0), (-1.0, 3.0)])
def test_a_point_outside_is_told(point):
    with pytest.raises(TurnaroundError) as caught:
        submit(subject_points=(SubjectPoint(x=point[0], y=point[1]),))
    assert (caught.value.code, caught.value.field) == ("settings.invalid", "subject_points")


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"matting": "magic"}, "matting"),
        ({"subject_box": [0, 0, 10]}, "subject_box"),
        ({"subject_box": [0, 0, 10, 1e9]}, "subject_box"),
        ({"subject_points": [{"x": 1, "y": 1}] * 65}, "subject_points"),
    ],
)
def test_what_no_message_may_hold(raw, field):
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(raw, Settings)
