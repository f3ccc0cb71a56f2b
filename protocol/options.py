"""A pipeline's own settings, `Settings.options`, beside the `OptionSpec`s that it offers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .errors import TurnaroundError
from .messages import Option, OptionSpec, PipelineInfo

WEIGHTS = "weights"
"""Name of the option that chooses a pipeline's weights, where it has one."""


def check_options(options: Mapping[str, Option], pipeline: PipelineInfo) -> None:
    """Checks that a pipeline has these settings, and their values.

    Raises:
        TurnaroundError: `settings.option`, with the field `options.NAME`.
    """
    specs = {spec.name: spec for spec in pipeline.options}
    for name, value in options.items():
        if name not in specs:
            known = ", ".join(sorted(specs)) or "none"
            raise _option_error(name, f'{pipeline.label} has no option "{name}".', f"It has these: {known}.")
        # the weights are the one choice that grows with what is installed, and the pipeline says how
        _check_option(specs[name], value, pipeline.hint if name == WEIGHTS else "")


def still_fitting(options: Mapping[str, Option], pipeline: PipelineInfo) -> dict[str, Option]:
    """Those of some stored settings that a pipeline takes: a file may be older than the pipeline, or newer."""

    def fits(name: str, value: Option) -> bool:
        try:
            check_options({name: value}, pipeline)
        except TurnaroundError:
            return False
        return True

    return {name: value for name, value in options.items() if fits(name, value)}


def of_views_alone(options: Mapping[str, Option], pipeline: PipelineInfo) -> dict[str, Option]:
    """The settings of a job that draws views and no mesh: a mesh's own views do not come first, unless asked for."""
    none = {"views": 0} if any(spec.name == "views" for spec in pipeline.options) else {}
    return none | dict(options)


def _check_option(spec: OptionSpec, value: bool | int | float | str, more: str) -> None:
    same = isinstance(value, bool) == isinstance(spec.default, bool) and (
        isinstance(value, str) == isinstance(spec.default, str)
    )
    whole = isinstance(spec.default, float) or not isinstance(value, float)
    if not (same and whole):
        wanted = {bool: "on or off", int: "a whole number", float: "a number", str: "a text"}[type(spec.default)]
        raise _option_error(spec.name, f"{spec.label} is {value!r}, which is not possible.", f"It can be {wanted}.")
    if spec.choices and value not in spec.choices:
        hint = f"Choose one of: {', '.join(spec.choices)}. {more}".rstrip()
        raise _option_error(spec.name, f'{spec.label} has no choice "{value}".', hint)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = -math.inf if spec.minimum is None else spec.minimum
        high = math.inf if spec.maximum is None else spec.maximum
        if not (math.isfinite(value) and low <= value <= high):
            hint = f"It can be from {low:g} to {high:g}."
            raise _option_error(spec.name, f"{spec.label} is {value}, which is not possible.", hint)


def _option_error(name: str, sentence: str, hint: str) -> TurnaroundError:
    return TurnaroundError("settings.option", sentence, hint, field=f"options.{name}")
