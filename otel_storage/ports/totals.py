"""Totals of the records that became final, and what goes on now: what metrics are made from.

A final record is added to the totals once, some time after its transition, by whoever counts. Totals only grow: a
cleanup takes nothing from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from otel_storage.ports.outbox import OutboxCounts
from otel_storage.results.status import PipelineTaskStatus

BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
"""The upper bounds of the histograms' buckets in seconds; there is one more without."""

BOUNDS_VERSION = 1
"""Stored with each histogram: to change the bounds is to begin a new version."""

SHOWN_FOR = timedelta(seconds=10)
"""How long a total is shown as it began before its value is: a counter born at 1 has grown by nothing."""

MOST_SERIES = 1000
"""How many tasks and pipelines are told apart unless something else is asked for."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many took how long."""

    counts: tuple[int, ...]
    """How many were within each bound but not the one before, as OpenTelemetry counts them; the last: above all."""
    total: int
    """Microseconds that all took together."""

    @property
    def count(self) -> int:
        """How many there were."""
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
    """The id of the record that was counted, as its span is made from it."""
    at: datetime
    """When the record was final."""
    execution: float | None
    """Seconds from started to completed; None where it was never started."""
    queue: float | None
    """Seconds from created to started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The final records of one status and outcome, of a pipeline's runs or of a task of it."""

    pipeline_id: str
    pipeline_task: str
    """Empty: the total is of the pipeline's runs."""
    status: PipelineTaskStatus
    outcome: str
    """See :mod:`~otel_storage.ports.outcomes`; of a task what its status means alone."""
    created: datetime
    """Since when they are counted."""
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
    """Empty: these are the pipeline's runs."""
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
    """How many were seen in the last five minutes that do nothing else."""
    others: int
    """How many others were."""
    last_success: datetime | None
    last_failure: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that metrics tell, as it was at one time."""

    at: datetime
    totals: Sequence[Total]
    """In the order in which they were first known."""
    active: Sequence[Active]
    """Runs that are PENDING or RUNNING, and task results that are RUNNING."""
    outbox: OutboxCounts
    sending: Sending
    unshown: Sequence[int]
    """What :meth:`Totals.show` is told of once somebody has these figures: totals that nobody ever saw."""


class Counting(Protocol):
    """Adds final records to the totals."""

    def count(self, *, seconds: float | None = None) -> bool:
        """Count until nothing is left to be counted, or for about so many seconds.

        In transactions that let writers in; several processes may count side by side.

        Returns:
            Whether all is counted that was final at the call.

        Raises:
            Exception: what the database raised; what is counted by then stays so.
        """


class Totals(Counting, Protocol):
    """Totals, and how they are read."""

    def know(self, pipelines: Iterable[tuple[str, Iterable[str]]] = ()) -> None:
        """Have a total of each final status of the pipelines and tasks given, and of those of the newest runs."""

    def read(self, *, as_shown: bool = True) -> Figures:
        """The figures as they are now.

        Args:
            as_shown: For somebody who derives a growth from them: a total that nobody saw until ten seconds ago is
                given as it was an hour or two ago, mostly 0. Without it, all are given as they are.
        """

    def show(self, unshown: Sequence[int]) -> None:
        """Say that the totals were seen, by who derives a growth from them; the first time counts."""
