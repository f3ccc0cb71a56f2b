"""What the command line understands of where the subject is."""

import pytest

from backend.cli.generate import _box, _point
from protocol.errors import TurnaroundError
from protocol.messages import SubjectPoint


def test_boxes_and_points_are_read():
    assert _box(None) is None
    assert _box("10,20.5, 300,400") == (10, 20.5, 300, 400)
    assert _point("3,4.5") == SubjectPoint(x=3, y=4.5)
    assert _point("3,4,-") == SubjectPoint(x=3, y=4, subject=False)


@pytest.mark.parametrize(
    ("read", "text", "field"),
    [
        (_box, "10,20,30", "subject_box"),
        (_box, "left", "subject_box"),
        (_point, "3", "subject_points"),
        (_point, "3,4,5", "subject_points"),
        (_point, "3,4,-,-", "subject_points"),
    ],
)
def test_anything_else_is_told_with_the_form_to_write_it_in(read, text, field):
    with pytest.raises(TurnaroundError) as caught:
        read(text)
    assert (caught.value.code, caught.value.field) == ("settings.invalid", field)
    assert text in caught.value.sentence
    assert "X" in caught.value.hint
