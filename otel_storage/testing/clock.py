"""A clock that a test moves by hand."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from otel_storage.results.exceptions import InvalidInput

START = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
"""When a clock starts that is given no start: a day that only leap years have."""


class ManualClock:
    """Called, gives the time it was set to: aware, in UTC.

    Args:
        start: The first time it gives.
        tick: Seconds that every call moves it on, after the time is taken; 0 lets it stand still.

    Raises:
        InvalidInput: ``start`` is naive.
    """

    def __init__(self, start: datetime = START, *, tick: float = 0.0) -> None:
        if start.tzinfo is None:
            raise InvalidInput(f"a clock needs an aware start, not {start!r}")
        self._now = start.astimezone(UTC)
        self._tick = timedelta(seconds=tick)
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        """The time now; then the clock ticks."""
        with self._lock:
            now = self._now
            self._now += self._tick
            return now

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds; back, where they are negative."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
