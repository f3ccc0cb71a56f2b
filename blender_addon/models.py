"""The weights on the backend's computer, as it tells of them, and what the artist wants done to them."""

from __future__ import annotations

from . import engines
from .link import Link
from .protocol import models as wire
from .protocol.messages import Message
from .settings import preferences

COMMERCIAL = {
    "yes": "Commercial use allowed",
    "no": "No commercial use",
    "conditions": "Commercial use under conditions",
    "unknown": "Ask the source about commercial use",
}
OTHER_HEADINGS = {"text-to-image": "Pictures from Text"}
"""What models are for whose pipeline the backend does not offer by that name."""


class Models:
    """What the backend last told of its models; asked for while the artist looks at them.

    Attributes:
        known: all models, in the backend's order; None before it has told.
        progress: of the one that is worked on, or None.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.known: tuple[wire.ModelInfo, ...] | None = None
        self.progress: wire.ModelProgress | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being done to one of them, and shown."""
        return self._ready() and any(model.state in ("working", "waiting") for model in self.known or ())

    def ask(self) -> None:
        """Asks for them, if the artist has them shown."""
        if preferences().show_models:
            self.order(wire.Models())

    def take(self, message: wire.ModelList | wire.ModelProgress) -> None:
        """Takes over what the backend tells."""
        if isinstance(message, wire.ModelList):
            self.known, self.progress = message.models, message.progress
        else:
            self.progress = message

    def order(self, message: Message) -> None:
        """Sends an order; what comes of it is told."""
        if self._ready():
            assert self._link.client is not None
            self._link.client.send(message)

    def find(self, name: str) -> wire.ModelInfo | None:
        """The model of a name."""
        return next((model for model in self.known or () if model.name == name), None)

    def groups(self) -> dict[str, list[wire.ModelInfo]]:
        """Those that can be changed, under a heading for what uses them."""
        groups: dict[str, list[wire.ModelInfo]] = {}
        for model in self.known or ():
            if not model.shipped:
                offered = engines.offered().get(model.pipeline)
                heading = offered.label if offered else OTHER_HEADINGS.get(model.pipeline, model.pipeline.title())
                groups.setdefault(heading, []).append(model)
        return groups

    def _ready(self) -> bool:
        return self._link.client is not None and self._link.client.ready


def licence(model: wire.ModelInfo) -> str:
    """Whether commercial use is allowed, and by which licence."""
    return f"{COMMERCIAL[model.commercial]}, {model.licence or 'no licence is stated'}"


def facts(model: wire.ModelInfo) -> str:
    """One line on a model: size and licence, whose name may be too long for the line."""
    return f"{model.size_gb:g} GB. {licence(model)}" if model.size_gb else licence(model)


def download(model: wire.ModelInfo) -> str:
    """What is downloaded, as far as that is known before it begins."""
    if model.size_gb:
        return f"Downloads {model.size_gb:g} GB from {model.source}"
    return f"Downloads from {model.source}; how large it is shows at the start"


def describe(progress: wire.ModelProgress | None) -> str:
    """How far the work on a model is, for its bar."""
    if progress is None:
        return "Starting"
    if progress.total < 10**6:
        return progress.stage
    return f"{progress.stage} {progress.done / 1e9:.2f} of {progress.total / 1e9:.2f} GB"


def fraction(progress: wire.ModelProgress | None) -> float:
    """How far the stage is, from 0 to 1; 0 where that is not known."""
    return min(progress.done / progress.total, 1.0) if progress is not None and progress.total else 0.0
