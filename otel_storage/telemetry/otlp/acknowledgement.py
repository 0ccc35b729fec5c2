"""What became of an export."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What an export came to."""

    ACCEPTED = "accepted"
    """The receiver has every span."""
    RETRY = "retry"
    """Nobody knows that it has them; the same spans may be accepted later."""
    REFUSED = "refused"
    """It does not want these spans, now or later; part of them may be accepted if sent without the rest."""


@dataclass(frozen=True)
class ExportOutcome:
    """The verdict on an export, and why."""

    verdict: Verdict
    reason: str = ""
    """One line, without credentials; empty if the spans were accepted."""
    retry_after: float | None = None
    """Seconds that the receiver asks to be left alone, 0 or more; None if it does not say."""


ACCEPTED = ExportOutcome(Verdict.ACCEPTED)
