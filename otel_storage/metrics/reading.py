"""Reads the metrics for several readers at once; counts final records first, so that the metrics are exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from otel_storage.metrics.points import FamilyPoints, families
from otel_storage.ports.totals import MOST_SERIES, Figures, Totals
from otel_storage.results import host
from otel_storage.results.exceptions import OtelStorageError

PATIENCE = 5.0
"""Seconds that a reader may count before it gives up with :class:`NotCounted`; a scrape of Prometheus times out after
10 seconds."""

KEPT = 1.0
"""Seconds for which a result is reused for further readers."""


class NotCounted(OtelStorageError):
    """Some final records are not counted yet, so the totals are not exact and are not returned."""


class Reader:
    """Reads the metrics from the totals, one thread at a time; threads that wait meanwhile share its result.

    Args:
        totals: The totals to read.
        most_series: How many pipelines and tasks have series of their own.
        pipelines: Returns the project's pipelines and their tasks, so that their series exist before the first run.
        as_shown: Whether readers compute increases between two results; see :meth:`Totals.read`.
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
        """Count the final records that are not counted yet; returns whether all are counted."""
        self._totals.know(self._pipelines().items())
        return self._totals.count(seconds=seconds)

    def read(self) -> Sequence[FamilyPoints]:
        """The metrics as they are now, or were up to a second ago.

        Raises:
            NotCounted: counting takes too long.
            Exception: what the database raised.
        """
        with self._lock:
            if time.monotonic() >= self._kept_until:
                figures = self._figures()
                self._kept, self._unshown = families(figures, self._most_series), figures.unshown
                self._kept_until = time.monotonic() + KEPT
            return self._kept

    def shown(self) -> None:
        """Mark the last result as delivered: ten seconds later, new series show their real values.

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
