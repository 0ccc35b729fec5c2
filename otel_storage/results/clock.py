"""The time now: aware and UTC, whatever Django is set to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the time now: aware, in UTC."""


def now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def utc(moment: datetime | None) -> datetime | None:
    """The moment in UTC; None of none, and of a naive one, which twice a year means two."""
    return None if moment is None or moment.utcoffset() is None else moment.astimezone(UTC)
