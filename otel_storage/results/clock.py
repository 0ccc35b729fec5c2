"""The time now: aware and UTC, whatever Django is set to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the time now: aware, in UTC."""


def now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)
