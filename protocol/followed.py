"""A job as its client knows it: enough to submit it or attach to it again, and to hand out nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .messages import Accepted, Cancel, Event, Imagine, Imagined, Keep, Message, Result, Submit


@dataclass
class Followed:
    """A job of this client's: what is needed to submit it or attach to it again.

    Attributes:
        request: the id that `submit` or `attach` returned.
        job: the backend's id, once it is accepted.
        last_seen: number of the last event handed out.
        results: indices of the results handed out.
        ended: nothing more will come.
    """

    request: str
    job: str | None = None
    last_seen: int = 0
    results: set[int] = field(default_factory=set)
    ended: bool = False
    submission: tuple[Submit | Imagine, dict[str, NDArray[Any]]] | None = None
    orders: list[type[Cancel] | type[Keep]] = field(default_factory=list)
    """Given before the job had an id."""

    def take(self, message: Any, send: Callable[[Message], None]) -> bool:
        """Takes note of a message of this job; False for what was handed out before, e.g. in a replay."""
        if self.ended:
            return False
        if isinstance(message, Accepted):
            first, self.job, self.submission = self.job is None, message.job, None
            for order in self.orders:
                send(order(job=message.job))
            self.orders.clear()
            return first
        if isinstance(message, Event):
            if message.number <= self.last_seen:
                return False
            self.last_seen = message.number
        elif isinstance(message, (Result, Imagined)):
            if message.index in self.results:
                return False
            self.results.add(message.index)
            self.ended = message.index == message.count - 1
        else:
            self.ended, self.submission = True, None
        return True
