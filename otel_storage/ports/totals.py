"""Totals of final records, and the current state: the data of metrics.

A counting process adds each final record to the totals once, some time after its transition. Totals never decrease: a
cleanup subtracts nothing from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from otel_storage.ports.outbox import OutboxCounts
from otel_storage.results.status import PipelineTaskStatus

BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
"""The upper bounds of the histograms' buckets in seconds; one more bucket has no bound."""

BOUNDS_VERSION = 1
"""Stored with each histogram; increase it whenever the bounds change."""

SHOWN_FOR = timedelta(seconds=10)
"""For this long a new series is exposed with its earlier value, so that ``increase()`` sees its first event."""

MOST_SERIES = 1000
"""How many tasks and pipelines have series of their own by default."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of durations."""

    counts: tuple[int, ...]
    """The count of each bucket, not cumulative, as in OpenTelemetry; the last bucket is above all bounds."""
    total: int
    """The sum of the durations in microseconds."""

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(mine + its for mine, its in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.total + other.total)


EMPTY = Histogram((0,) * (len(BOUNDS) + 1), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRun:
    """The last run that was counted in a total and has a trace."""

    run_id: str
    record_id: int
    """The id of the counted record, from which its span id is computed."""
    at: datetime
    """When the record became final."""
    execution: float | None
    """Seconds from started to completed; None if the record never started."""
    queue: float | None
    """Seconds from created to started; None if the record never started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The final records of one status and outcome, of a pipeline's runs or of a task of it."""

    pipeline_id: str
    pipeline_task: str
    """The task; empty if the total is of the pipeline's runs."""
    status: PipelineTaskStatus
    outcome: str
    """See :mod:`~otel_storage.ports.outcomes`; for a task, by the status alone."""
    created: datetime
    """When counting for this total began."""
    count: int
    execution: Histogram
    """From started to completed."""
    queue: Histogram
    """From created to started."""
    last_started: datetime | None
    last_completed: datetime | None
    last_traced: TracedRun | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The records of one pipeline, or of one task, that are not final."""

    pipeline_id: str
    pipeline_task: str
    """The task; empty for the pipeline's runs."""
    status: PipelineTaskStatus
    """PENDING or RUNNING."""
    count: int
    oldest: datetime
    """When the oldest was created if they are PENDING, when it started if they are RUNNING."""
    last_started: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """The processes that send spans."""

    watching: int
    """How many processes that do nothing but send reported in the last five minutes."""
    others: int
    """How many other processes did."""
    last_success: datetime | None
    last_failure: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The data of all metrics at one point in time."""

    at: datetime
    totals: Sequence[Total]
    """In the order in which they were created."""
    active: Sequence[Active]
    """Runs that are PENDING or RUNNING, and task results that are RUNNING."""
    outbox: OutboxCounts
    sending: Sending
    unshown: Sequence[int]
    """The totals that were never shown, for :meth:`Totals.show` once these figures are delivered."""


class Counting(Protocol):
    """Adds final records to the totals."""

    def count(self, *, seconds: float | None = None) -> bool:
        """Count until every final record is counted, or for about ``seconds`` seconds.

        Counting takes short transactions that let other writers in; several processes may count side by side.

        Returns:
            Whether every record that was final at the call is counted.

        Raises:
            Exception: the database's error; records counted by then stay counted.
        """


class Totals(Counting, Protocol):
    """Totals, and how they are read."""

    def know(self, pipelines: Iterable[tuple[str, Iterable[str]]] = ()) -> None:
        """Create missing totals, one per final status, of the given pipelines and tasks and of those of new runs."""

    def read(self, *, as_shown: bool = True) -> Figures:
        """The figures as they are now.

        Args:
            as_shown: For readers that compute increases: for 10 seconds after a total was first shown, it has the value
                of one or two hours earlier (usually 0). Otherwise all totals have their current values.
        """

    def show(self, unshown: Sequence[int]) -> None:
        """Store that the totals were shown to a reader that computes increases; only the first time counts."""
