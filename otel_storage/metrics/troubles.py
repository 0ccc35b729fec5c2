"""Logs a repeated failure once per cause, and once more when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from otel_storage.privacy.secrets import without_secrets
from otel_storage.runtime.complaints import Complaints

logger = logging.getLogger("otel_storage.metrics")


class Troubles:
    """Logs each cause of a failure once, until the work succeeds again.

    Args:
        what: The log message of a failure, such as "metrics cannot be read".
        over: The log message when the work succeeds again.
    """

    def __init__(self, what: str, over: str) -> None:
        self._what = what
        self._over = over
        self._complaints = Complaints()
        self.current = ""
        """Why the work fails now; empty if the last attempt succeeded."""

    def say(self, cause: str) -> None:
        """Log why the work failed, unless that cause is already logged."""
        self.current = f"{self._what}: {cause}"
        if self._complaints.is_new(cause):
            logger.warning("%s", self.current)

    def end(self) -> None:
        """Log that the work succeeds again, if it failed before."""
        self.current = ""
        if self._complaints.end():
            logger.info("%s", self._over)

    @contextmanager
    def told(self) -> Iterator[list[str]]:
        """Log the exception of the block, and append it to the yielded list as one line without credentials."""
        told: list[str] = []
        try:
            yield told
        except Exception as error:  # noqa: BLE001 - a database may restart; each cause is logged once
            # The full text of SQLAlchemy's error contains the statement and a link.
            cause = getattr(error, "orig", None) or error
            self.say(without_secrets(str(cause)) or type(cause).__name__)
            told.append(self.current)
        else:
            self.end()
