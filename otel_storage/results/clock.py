"""The current time: aware and UTC, whatever Django's settings are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current time: aware, in UTC."""


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)


def utc(moment: datetime | None) -> datetime | None:
    """The moment in UTC; None for None, and for a naive time, which may mean two moments when clocks are set back."""
    return None if moment is None or moment.utcoffset() is None else moment.astimezone(UTC)
