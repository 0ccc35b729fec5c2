"""Reads the figures that metrics are made from: totals, records that are not final, the outbox, the senders."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, case, func, select

from otel_storage.ports.totals import EMPTY, SHOWN_FOR, Active, Figures, Histogram, Sending, Total
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.totals.additions import hour_of, stored_histograms, stored_traced_run

if TYPE_CHECKING:
    from otel_storage.ports.outbox import OutboxCounts
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.outbox.references import SqlOutbox

_LONG_LOOK = 0.05
"""Seconds. If counting the outbox takes no longer than this, the outbox is counted for every reader."""

_LOOK_SHARE = 20
"""After a slower count, the result is reused for this many times as long as the count took."""

_LONGEST_KEPT = 30.0

GIVEN_UP = timedelta(days=1)
"""A run that has been PENDING for longer is taken as never to start, so it does not count as the oldest waiting run."""

_SEEN_LATELY = timedelta(minutes=5)

_run = schema.pipeline_execution
_result = schema.task_result
_task = schema.task_execution
_total = schema.total

_ACTIVE = tuple(PipelineTaskStatus.non_final_statuses())


class OutboxLook:
    """The counts of the outbox, kept for a while where counting a great backlog takes long."""

    def __init__(self, outbox: SqlOutbox) -> None:
        self._outbox = outbox
        self._counts: OutboxCounts | None = None
        self._kept_until = 0.0

    def counts(self) -> OutboxCounts:
        """The current counts, or those of at most 30 seconds ago."""
        began = time.monotonic()
        if self._counts is None or began >= self._kept_until:
            self._counts = self._outbox.counts()
            took = time.monotonic() - began
            self._kept_until = began + (min(took * _LOOK_SHARE, _LONGEST_KEPT) if took > _LONG_LOOK else 0)
        return self._counts


def read(database: Database, look: OutboxLook, now: datetime, *, as_shown: bool) -> Figures:
    """The figures as they are now; see :meth:`~otel_storage.ports.totals.Totals.read`."""
    with database.read() as connection:
        rows = connection.execute(select(_total).order_by(_total.c.id)).all()
        active = [*_active_runs(connection, now), *_running_results(connection)]
        sending = _sending(connection, now)
    withheld = {row.id for row in rows if as_shown and (row.shown is None or now < row.shown + SHOWN_FOR)}
    return Figures(
        at=now,
        totals=[_as_total(row, withheld=row.id in withheld, now=now) for row in rows],
        active=active,
        outbox=look.counts(),
        sending=sending,
        unshown=[row.id for row in rows if row.shown is None],
    )


def _as_total(row: Any, *, withheld: bool, now: datetime) -> Total:
    count = row.counted - (_lately(row, now) if withheld else 0)
    execution, queue = stored_histograms(row.histograms) if count or not withheld else (EMPTY.counts, EMPTY.counts)
    is_empty = withheld and not count
    return Total(
        pipeline_id=row.pipeline_id,
        pipeline_task=row.pipeline_task,
        status=row.status,
        outcome=row.result,
        created=row.created,
        count=count,
        execution=Histogram(execution, 0 if is_empty else row.execution_time),
        queue=Histogram(queue, 0 if is_empty else row.queue_time),
        last_started=row.last_started,
        last_completed=row.last_completed,
        last_traced=None if is_empty else stored_traced_run(row),
    )


def _lately(row: Any, now: datetime) -> int:
    """How many of the counted records completed in the current hour and the hour before."""
    hour = hour_of(now)
    if row.hour >= hour:
        return int(row.in_hour + row.in_hour_before)
    return int(row.in_hour) if row.hour == hour - 1 else 0


def _active_runs(connection: Connection, now: datetime) -> Iterable[Active]:
    waiting = case((_run.c.created > now - GIVEN_UP, _run.c.created))
    statement = (
        select(
            _run.c.pipeline_id,
            _run.c.status,
            func.count().label("number"),
            func.min(_run.c.created).label("created"),
            func.min(waiting).label("waiting"),
            func.min(_run.c.started).label("started"),
            func.max(_run.c.started).label("last_started"),
        )
        .where(_run.c.status.in_(_ACTIVE))
        .group_by(_run.c.pipeline_id, _run.c.status)
    )
    for row in connection.execute(statement):
        is_running = row.status is PipelineTaskStatus.RUNNING
        yield Active(
            pipeline_id=row.pipeline_id,
            pipeline_task="",
            status=row.status,
            count=row.number,
            oldest=(row.started if is_running else row.waiting) or row.created,
            last_started=row.last_started,
        )


def _running_results(connection: Connection) -> Iterable[Active]:
    statement = (
        select(
            _run.c.pipeline_id,
            _task.c.pipeline_task,
            func.count().label("number"),
            func.min(func.coalesce(_result.c.started, _result.c.created)).label("oldest"),
            func.max(_result.c.started).label("last_started"),
        )
        .join_from(_result, _task, _task.c.id == _result.c.task_execution_id)
        .join(_run, _run.c.id == _result.c.execution_id)
        .where(_result.c.status == PipelineTaskStatus.RUNNING)
        .group_by(_run.c.pipeline_id, _task.c.pipeline_task)
    )
    for row in connection.execute(statement):
        yield Active(
            pipeline_id=row.pipeline_id,
            pipeline_task=row.pipeline_task,
            status=PipelineTaskStatus.RUNNING,
            count=row.number,
            oldest=row.oldest,
            last_started=row.last_started,
        )


def _sending(connection: Connection, now: datetime) -> Sending:
    sender = schema.sender
    lately = select(sender.c.is_watching, func.count()).where(sender.c.seen >= now - _SEEN_LATELY)
    seen = {
        bool(is_watching): number for is_watching, number in connection.execute(lately.group_by(sender.c.is_watching))
    }
    last = connection.execute(
        select(func.max(sender.c.sent).label("sent"), func.max(sender.c.failed).label("failed"))
    ).one()
    return Sending(
        watching=seen.get(True, 0), others=seen.get(False, 0), last_success=last.sent, last_failure=last.failed
    )
