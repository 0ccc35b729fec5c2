"""What goes wrong again and again: said once per cause, and again when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from otel_storage.privacy.secrets import without_secrets
from otel_storage.runtime.complaints import Complaints

logger = logging.getLogger("otel_storage.metrics")


class Troubles:
    """Logs each cause once until it is over.

    Args:
        what: What cannot be done.
        over: What is said when it can be again.
    """

    def __init__(self, what: str, over: str) -> None:
        self._what = what
        self._over = over
        self._complaints = Complaints()
        self.current = ""
        """Why it cannot be done now; empty if it can."""

    def say(self, cause: str) -> None:
        """Say why it cannot be done, unless that was said."""
        self.current = f"{self._what}: {cause}"
        if self._complaints.is_new(cause):
            logger.warning("%s", self.current)

    def end(self) -> None:
        """Say that it can be done, if it could not."""
        self.current = ""
        if self._complaints.end():
            logger.info("%s", self._over)

    @contextmanager
    def told(self) -> Iterator[list[str]]:
        """Say what the work in it raises; the list has that then, in one line without credentials."""
        told: list[str] = []
        try:
            yield told
        except Exception as error:  # noqa: BLE001 - a database that restarts ends nothing; said once per cause
            # SQLAlchemy's own text has the statement, and where to read of the error.
            cause = getattr(error, "orig", None) or error
            self.say(without_secrets(str(cause)) or type(cause).__name__)
            told.append(self.current)
        else:
            self.end()
