"""The result of an export."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """The verdict on an export."""

    ACCEPTED = "accepted"
    """The receiver has every span."""
    RETRY = "retry"
    """It is not known that the receiver has the spans; it may accept the same spans later."""
    REFUSED = "refused"
    """The receiver will never accept this request; part of the spans may be accepted without the rest."""


@dataclass(frozen=True)
class ExportOutcome:
    """The verdict on an export, and why."""

    verdict: Verdict
    reason: str = ""
    """One line, without credentials; empty if the spans were accepted."""
    retry_after: float | None = None
    """Seconds that the receiver asks to wait, 0 or more; None if it does not ask."""


ACCEPTED = ExportOutcome(Verdict.ACCEPTED)
