"""Reading the metrics: what is final is counted first, so that they are exact; for several readers at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from otel_storage.metrics.points import FamilyPoints, families
from otel_storage.ports.totals import MOST_SERIES, Figures, Totals
from otel_storage.results import host
from otel_storage.results.exceptions import OtelStorageError

PATIENCE = 5.0
"""Seconds that a reader counts before it says that there is more to count: Prometheus waits for ten."""

KEPT = 1.0
"""Seconds that what was read serves those who read again."""


class NotCounted(OtelStorageError):
    """There are still final records that are not counted: the totals are not yet exact, so they are not told."""


class Reader:
    """Reads the metrics from the totals; one thread at a time does, and the others have what it read.

    Args:
        totals: Where they are.
        most_series: How many pipelines and tasks are told apart.
        pipelines: Gives the pipelines that the project has, and their tasks, so that they are known before they run.
        as_shown: Whether those who read derive a growth from it; see :meth:`Totals.read`.
    """

    def __init__(
        self,
        totals: Totals,
        *,
        most_series: int = MOST_SERIES,
        pipelines: Callable[[], Mapping[str, Sequence[str]]] = host.registered_pipelines,
        as_shown: bool = True,
    ) -> None:
        self._totals = totals
        self._most_series = most_series
        self._pipelines = pipelines
        self._as_shown = as_shown
        self._lock = threading.Lock()
        self._kept: Sequence[FamilyPoints] = ()
        self._kept_until = 0.0
        self._unshown: Sequence[int] = ()

    def count(self, seconds: float | None = None) -> bool:
        """Count what is final and was not counted; whether nothing is left of it."""
        self._totals.know(self._pipelines().items())
        return self._totals.count(seconds=seconds)

    def read(self) -> Sequence[FamilyPoints]:
        """The metrics as they are now, or were a second ago.

        Raises:
            NotCounted: there is too much to count first.
            Exception: what the database raised.
        """
        with self._lock:
            if time.monotonic() >= self._kept_until:
                figures = self._figures()
                self._kept, self._unshown = families(figures, self._most_series), figures.unshown
                self._kept_until = time.monotonic() + KEPT
            return self._kept

    def shown(self) -> None:
        """Say that somebody has what was read last: totals that nobody had are given as they are ten seconds later.

        Raises:
            Exception: what the database raised.
        """
        with self._lock:
            self._totals.show(self._unshown)
            self._unshown = ()

    def _figures(self) -> Figures:
        if not self.count(PATIENCE):
            raise NotCounted("finished records are still being counted; try again")
        return self._totals.read(as_shown=self._as_shown)
