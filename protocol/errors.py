"""Errors that people read: one type, a stable code each, a sentence for the artist and a hint of what to do."""

from __future__ import annotations

from .messages import Failed


class TurnaroundError(Exception):
    """A failure with words for everyone it reaches.

    Attributes:
        code: stable identifier, e.g. `picture.empty`; tests and the panel's buttons key on it.
        sentence: what is wrong, one sentence, no internal names.
        hint: what to do about it, one sentence.
        field: the setting or array at fault, or "".
        details: for the log only; may be long.
    """

    def __init__(self, code: str, sentence: str, hint: str = "", *, field: str = "", details: str = "") -> None:
        super().__init__(f"{sentence} {hint}".strip())
        self.code = code
        self.sentence = sentence
        self.hint = hint
        self.field = field
        self.details = details

    def failed(self, *, job: str | None = None, request: str | None = None) -> Failed:
        """This error as the message that carries it."""
        return Failed(
            code=self.code,
            sentence=self.sentence[:4096],
            hint=self.hint[:4096],
            field=self.field[:4096],
            details=self.details[:65_536],
            job=job,
            request=request,
        )

    @classmethod
    def from_failed(cls, message: Failed) -> TurnaroundError:
        """The error that a received message carries."""
        return cls(message.code, message.sentence, message.hint, field=message.field, details=message.details)
