"""The weights on the backend's computer, as it tells of them, and what the artist wants done to them."""

from __future__ import annotations

from . import engines
from .link import Link
from .protocol import models as wire
from .protocol.messages import Message
from .settings import preferences

COMMERCIAL = {
    "yes": "commercial use allowed",
    "no": "no commercial use",
    "conditions": "commercial use under conditions",
    "unknown": "ask the source about commercial use",
}
OTHER_HEADINGS = {"text-to-image": "Pictures from Text", "threedim": "3DiM"}
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
    """A model's licence and what it means, in a few words."""
    return f"{model.licence or 'No licence is stated'}, {COMMERCIAL[model.commercial]}"


def facts(model: wire.ModelInfo) -> str:
    """One line on a model: licence, size, memory."""
    size = f"{model.size_gb:g} GB" if model.size_gb else ""
    memory = f"needs {model.memory_gb:g} GB of memory" if model.memory_gb else ""
    return ", ".join(filter(None, (licence(model), size, memory)))


def download(model: wire.ModelInfo) -> str:
    """What a download means, before it begins."""
    size = f"{model.size_gb:g} GB" if model.size_gb else "A few GB; how many is shown once it has begun,"
    return f"{size} from {model.source}"


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
