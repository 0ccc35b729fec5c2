"""What records add to a total, and how a total stores the sums; this module executes no SQL."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from otel_storage.ports.outcomes import outcome
from otel_storage.ports.totals import BOUNDS, BOUNDS_VERSION, EMPTY, TracedRun
from otel_storage.ports.traces import is_sampled
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database.values import load_json

Key = tuple[str, str, PipelineTaskStatus, str]
"""A total's key: pipeline, task (empty for the pipeline's runs), status, outcome."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOUNDS_US = [round(bound * 1_000_000) for bound in BOUNDS]

_SUMS = ("counted", "removed", "timed", "runtime", "execution_time", "queue_time")
"""The columns of a total that are sums; an :class:`Addition` has an attribute of the same name for each."""

NOTHING: Mapping[str, Any] = {**dict.fromkeys(_SUMS, 0), "hour": 0, "in_hour": 0, "in_hour_before": 0, "histograms": ""}
"""The values of a new total, to which nothing was added yet."""


@dataclass(slots=True)
class Addition:
    """What several records add to one total."""

    counted: int = 0
    removed: int = 0
    timed: int = 0
    runtime: int = 0
    execution_time: int = 0
    queue_time: int = 0
    execution: list[int] = field(default_factory=lambda: list(EMPTY.counts))
    queue: list[int] = field(default_factory=lambda: list(EMPTY.counts))
    hours: dict[int, int] = field(default_factory=dict)
    last_started: datetime | None = None
    last_completed: datetime | None = None
    traced: dict[str, Any] | None = None
    traced_run_id: str = ""

    def count(self, row: Any, run: Any) -> None:
        """Add a record that is in no total yet; ``run`` is the row of the record's run."""
        self.counted += 1
        at = row.completed or row.created
        hour = hour_of(at)
        self.hours[hour] = self.hours.get(hour, 0) + 1
        queue = execution = None
        if row.started is not None:
            queue = max(_microseconds(row.started - row.created), 0)
            self.queue_time += queue
            self.queue[bisect_left(_BOUNDS_US, queue)] += 1
            self.last_started = later(self.last_started, row.started)
            if row.completed is not None:
                execution = _taken(row)
                self.timed += 1
                self.runtime += execution
                self.execution_time += execution
                self.execution[bisect_left(_BOUNDS_US, execution)] += 1
        if (self.last_completed is None or at >= self.last_completed) and _is_sampled(run.trace):
            self.traced_run_id = run.run_id
            record = row.id if row.source_id is None else row.source_id
            self.traced = {"record": record, "at": _microseconds(at - _EPOCH), "execution": execution, "queue": queue}
        self.last_completed = later(self.last_completed, at)

    def remove(self, row: Any) -> None:
        """Subtract a record that is being removed and is, or is about to be, counted."""
        self.removed += 1
        if row.started is not None and row.completed is not None:
            self.timed -= 1
            self.runtime -= _taken(row)


def _taken(row: Any) -> int:
    """The microseconds from the start of a record to its end; 0 where the clock of its end was behind."""
    return max(_microseconds(row.completed - row.started), 0)


Additions = defaultdict[Key, Addition]


def key_of_run(run: Any) -> Key:
    """The total that the row of a final run belongs to; its message may be cut to ``MESSAGE_LENGTH``."""
    return run.pipeline_id, "", run.status, outcome(run.status, run.message or "")


def added(row: Any, addition: Addition) -> dict[str, Any]:
    """The new values of a total's columns: those of ``row`` plus the addition."""
    histograms = stored_histograms(row.histograms)
    hour, in_hour, before = row.hour, row.in_hour, row.in_hour_before
    for number in sorted(addition.hours):
        if number > hour:
            before = in_hour if number == hour + 1 else 0
            hour, in_hour = number, addition.hours[number]
        elif number == hour:
            in_hour += addition.hours[number]
        elif number == hour - 1:
            before += addition.hours[number]
    stored = {
        "version": BOUNDS_VERSION,
        "execution": [a + b for a, b in zip(histograms[0], addition.execution, strict=True)],
        "queue": [a + b for a, b in zip(histograms[1], addition.queue, strict=True)],
    }
    is_newer = addition.traced is not None and (
        row.last_completed is None or addition.last_completed is None or addition.last_completed >= row.last_completed
    )
    return {
        **{name: getattr(row, name) + getattr(addition, name) for name in _SUMS},
        "histograms": json.dumps(stored, separators=(",", ":")),
        "hour": hour,
        "in_hour": in_hour,
        "in_hour_before": before,
        "last_started": later(row.last_started, addition.last_started),
        "last_completed": later(row.last_completed, addition.last_completed),
        "last_run_id": addition.traced_run_id if is_newer else row.last_run_id,
        "last_traced": json.dumps(addition.traced) if is_newer else row.last_traced,
    }


def stored_histograms(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The buckets of the execution times and of the queue times, from the JSON that a total stores."""
    if not text:
        return EMPTY.counts, EMPTY.counts
    stored = json.loads(text)
    return tuple(stored["execution"]), tuple(stored["queue"])


def stored_traced_run(row: Any) -> TracedRun | None:
    """The last run that has a trace, from the columns of a total."""
    if row.last_run_id is None:
        return None
    traced: Mapping[str, int | None] = json.loads(row.last_traced)
    execution, queue = traced["execution"], traced["queue"]
    return TracedRun(
        run_id=row.last_run_id,
        record_id=traced["record"] or 0,
        at=_EPOCH + timedelta(microseconds=traced["at"] or 0),
        execution=None if execution is None else execution / 1_000_000,
        queue=None if queue is None else queue / 1_000_000,
    )


def hour_of(moment: datetime) -> int:
    """The number of whole hours since 1970-01-01 UTC."""
    return int(moment.timestamp() // 3600)


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later of two moments, either of which may be missing."""
    return max(filter(None, (one, other)), default=None)


@lru_cache(maxsize=256)
def _is_sampled(trace: str | None) -> bool:
    return is_sampled(load_json(trace))


def _microseconds(time: timedelta) -> int:
    return (time.days * 86_400 + time.seconds) * 1_000_000 + time.microseconds
