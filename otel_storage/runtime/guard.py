"""Runs work that must not fail a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from otel_storage.runtime.complaints import Complaints

logger = logging.getLogger("otel_storage")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Guard:
    """Calls work that must not fail a run: an error is logged once per cause, counted, and not raised."""

    def __init__(self) -> None:
        self.failures = 0
        """How many calls failed since the process began."""
        self._complaints = Complaints()

    def __call__(
        self, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result | None:
        """The result of ``work``; None if it fails."""
        try:
            return work(*args, **kwargs)
        except Exception as error:
            self.failures += 1
            if self._complaints.is_new(f"{type(error).__name__}: {error}"):
                logger.exception("a run goes on without part of its telemetry")
            return None
