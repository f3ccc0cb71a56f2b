"""How long a job will still take, learned from how long its stages took before on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

from protocol.messages import DeviceInfo, Event, Imagine, Submit

SHORTEST = 0.05
"""Seconds; a shorter stage was answered by the cache and teaches nothing."""


def kind_of_work(asked: Submit | Imagine, device: DeviceInfo | None) -> str:
    """What jobs must have in common for their times to be comparable."""
    place = device.name if device else ""
    if isinstance(asked, Imagine):
        return f"imagine|{asked.painter}|{asked.steps}|{place}"
    options = ",".join(f"{name}={value}" for name, value in sorted(asked.settings.options.items()))
    return f"{asked.pipeline}|{asked.settings.quality}|{options}|{place}"


class Stopwatch:
    """Times the stages of a running job and says what is left.

    Args:
        variants: how many are drawn.
        known: stage -> seconds of earlier runs, in the stages' order; empty where there were none.
    """

    def __init__(self, variants: int, known: Mapping[str, float]) -> None:
        self._variants, self._known = variants, known
        self._start = self._stage_start = time.monotonic()
        self._at: tuple[int, str] | None = None
        self._spent: dict[tuple[int, str], float] = {}

    def update(self, event: Event) -> float | None:
        """Seconds that the job will still take after `event`, or None where nothing is known yet."""
        now = time.monotonic()
        at = (event.variant, event.stage)
        if at != self._at:
            self._leave(now)
            self._at, self._stage_start = at, now
        in_stage = now - self._stage_start
        if not self._known:
            elapsed = now - self._start
            far = event.fraction >= 0.05 and elapsed >= 1.0
            return elapsed * (1.0 - event.fraction) / event.fraction if far else None
        stages = list(self._known)
        place = stages.index(event.stage) if event.stage in self._known else -1
        here = max(0.0, self._known.get(event.stage, 0.0) - in_stage)
        if event.step >= 2 and event.total >= event.step:
            here = in_stage / event.step * (event.total - event.step)
        after = sum(self._known[stage] for stage in stages[place + 1 :]) if place >= 0 else 0.0
        others = max(0, self._variants - event.variant - 1) * sum(self._known.values())
        return here + after + others

    def finish(self) -> list[tuple[str, float]]:
        """Stage and mean seconds over the variants, in order, of those that were really run."""
        self._leave(time.monotonic())
        stages: dict[str, list[float]] = {}
        for (_, stage), seconds in self._spent.items():
            if seconds >= SHORTEST:
                stages.setdefault(stage, []).append(seconds)
        return [(stage, sum(seconds) / len(seconds)) for stage, seconds in stages.items()]

    def _leave(self, now: float) -> None:
        if self._at is not None:
            self._spent[self._at] = self._spent.get(self._at, 0.0) + now - self._stage_start
