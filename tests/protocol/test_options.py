"""A pipeline's own settings: what is refused, what an older file's still mean, and what a view alone is drawn with."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import TurnaroundError
from protocol.messages import OptionSpec, PipelineInfo
from protocol.options import check_options, of_views_alone, still_fitting

PIPELINE = PipelineInfo(
    name="boxes",
    label="Boxes",
    description="",
    options=(
        OptionSpec(name="views", label="Views", description="", default=8, automatic=True, minimum=0, maximum=24),
        OptionSpec(name="strength", label="Strength", description="", default=0.5, minimum=0.0, maximum=1.0),
        OptionSpec(name="smooth", label="Smooth", description="", default=True),
        OptionSpec(name="mode", label="Mode", description="", default="soft", choices=("soft", "hard")),
        OptionSpec(name="weights", label="Weights", description="", default="auto", choices=("auto", "tiny")),
    ),
    hint="Install others.",
)
GOOD = {"views": 3, "strength": 1, "smooth": False, "mode": "hard", "weights": "tiny"}
BAD = [
    ("views", -1, "Views is -1"),
    ("views", 2.5, "a whole number"),
    ("views", True, "a whole number"),
    ("strength", float("nan"), "from 0 to 1"),
    ("strength", "much", "a number"),
    ("smooth", 1, "on or off"),
    ("mode", "medium", "soft, hard"),
    ("weights", "large", "auto, tiny. Install others."),
    ("colour", 1, "mode, smooth, strength, views, weights"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_what_does_not_fit_is_named_and_left_out_of_what_a_file_stored(name: str, value: Any, said: str) -> None:
    check_options(GOOD, PIPELINE)
    with pytest.raises(TurnaroundError) as caught:
        check_options({**GOOD, name: value}, PIPELINE)
    assert (caught.value.code, caught.value.field) == ("settings.option", f"options.{name}")
    assert said in f"{caught.value.sentence} {caught.value.hint}"
    assert still_fitting({**GOOD, name: value}, PIPELINE) == {key: GOOD[key] for key in GOOD if key != name}


def test_views_alone_come_without_those_of_a_mesh_unless_asked_for() -> None:
    assert of_views_alone({"mode": "hard"}, PIPELINE) == {"views": 0, "mode": "hard"}
    assert of_views_alone({"views": 4}, PIPELINE) == {"views": 4}
    assert of_views_alone({}, PipelineInfo(name="other", label="Other", description="")) == {}
