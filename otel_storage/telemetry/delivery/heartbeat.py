"""A sending process reports to the database, so that people see who sends and whether sending succeeds."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from otel_storage.runtime.complaints import Complaints

if TYPE_CHECKING:
    from otel_storage.ports.outbox import Senders
    from otel_storage.results.clock import Clock

logger = logging.getLogger("otel_storage")

BUSY_INTERVAL = timedelta(seconds=10)
"""The time between two reports of a process whose results stay the same."""

IDLE_INTERVAL = timedelta(seconds=30)
"""The time between two reports of a watching process that has nothing to send."""

FORGOTTEN_AFTER = timedelta(days=7)
"""A process that has not reported for this long is forgotten."""

_FORGET_INTERVAL = timedelta(hours=1)


class Heartbeat:
    """Reports for this process from time to time.

    A failed report disturbs nothing, and is logged once until it is over.

    Args:
        senders: Stores the reports.
        clock: Their clock.
    """

    _sent: datetime | None
    _failed: datetime | None
    _is_failing: bool | None
    """The last result of sending; None if nothing was accepted and nothing failed so far."""
    _written_at: datetime | None
    _forgot_at: datetime | None

    def __init__(self, senders: Senders, clock: Clock) -> None:
        self._senders = senders
        self._clock = clock
        self._complaints = Complaints()
        self._begin()

    def sent(self, *, accepted: bool, error: str) -> None:
        """Report a request's result: whether spans were accepted, and why others failed; both are possible."""
        now = self._clock()
        if accepted:
            self._sent = now
        if error:
            self._failed, self._error = now, error
        was_failing = self._is_failing
        if accepted or error:
            self._is_failing = bool(error)
        is_news = self._is_failing is not was_failing
        self._write(now, timedelta(0) if is_news else BUSY_INTERVAL)

    def watching(self) -> None:
        """Report that this process does nothing but send; call it repeatedly while there is nothing to send."""
        self._is_watching = True
        self._write(self._clock(), IDLE_INTERVAL)

    def after_fork(self) -> None:
        """Start afresh in a forked child, which is another process and does not watch."""
        self._begin()

    def _begin(self) -> None:
        self._token = uuid.uuid4().hex
        self._is_watching = False
        self._sent = self._failed = None
        self._error = ""
        self._is_failing = None
        self._written_at = self._forgot_at = None

    def _write(self, now: datetime, interval: timedelta) -> None:
        if not _is_over(interval, self._written_at, now):
            return
        self._written_at = now
        try:
            self._senders.seen(
                self._token,
                is_watching=self._is_watching,
                sent=self._sent,
                failed=self._failed,
                error=self._error,
            )
            if _is_over(_FORGET_INTERVAL, self._forgot_at, now):
                self._forgot_at = now
                self._senders.forget(FORGOTTEN_AFTER)
        except Exception:
            # Log only the class: the text may contain a statement's parameters, and differ each time.
            if self._complaints.is_new("unrecorded"):
                logger.warning("spans are sent, but the database cannot record which process sends them", exc_info=True)
        else:
            self._complaints.end()


def _is_over(interval: timedelta, since: datetime | None, now: datetime) -> bool:
    """Whether the interval is over; also true if the clock was set back."""
    return since is None or not timedelta(0) <= now - since < interval
