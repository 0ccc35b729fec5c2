"""Decides when the spans of a run's three parent levels may be sent, and stores the data of these spans.

:meth:`otel_storage.ports.outbox.Outbox.claim_runs` has the rule when, :func:`otel_storage.ports.extents.extent` the
rule for the data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, and_, case, func, select, update

from otel_storage.ports.extents import Extent, extent
from otel_storage.ports.outbox import Settling
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.database.prepared import Prepared, parameter

_SHORTEST_HOLD = timedelta(seconds=0.5)
_LONGEST_HOLD = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a run has not settled, and when to look again."""

    until: datetime
    reason: str


@dataclass(slots=True)
class _Level:
    """A record of one of the three parent levels."""

    id: int
    parent: int
    status: PipelineTaskStatus
    started: datetime | None
    completed: datetime | None
    extent: Extent = field(init=False)
    """The extent that the record's span is made from, once that is computed."""

    def complete(self, kind: str, below: Collection[Extent]) -> Extent:
        self.extent = found = extent(kind, self.status, self.started, self.completed, below)
        return found


@dataclass(slots=True)
class _Results:
    """The task results of one run."""

    numbers: dict[PipelineTaskStatus, int] = field(default_factory=lambda: defaultdict(int))
    extents: dict[int, list[Extent]] = field(default_factory=lambda: defaultdict(list))
    """The extents of the results by task execution, one for each status."""
    last_change: datetime | None = None


@dataclass(slots=True)
class _Run:
    execution: _Level
    pipeline_results: list[_Level]
    task_executions: list[_Level]
    results: _Results
    last_change: datetime

    def complete(self) -> None:
        """Compute the extents of the levels, from the bottom up."""
        below: dict[int, list[Extent]] = {level.id: [] for level in self.pipeline_results}
        results = self.results.extents
        for level in self.task_executions:
            below[level.parent].append(level.complete(TASK_EXECUTION, results.get(level.id, ())))
        extents = [level.complete(PIPELINE_RESULT, below[level.id]) for level in self.pipeline_results]
        self.execution.complete(PIPELINE_EXECUTION, extents)


def settle(connection: Connection, execution_ids: Sequence[int], rule: Settling, now: datetime) -> dict[int, Hold]:
    """Store the data of the parents' spans of settled runs; returns why the other runs have not settled."""
    runs = _read(connection, _unsettled(connection, execution_ids))
    unsent = _unsent(connection, execution_ids)
    holds = {
        id_: Hold(max(due, now + _SHORTEST_HOLD), f"{count} spans of task results are not acknowledged yet")
        for id_, (count, due) in unsent.items()
    }
    settled = []
    for run in runs:
        hold = _hold(run, rule, now)
        if hold is not None:
            holds[run.execution.id] = hold
        elif run.execution.id not in holds:
            settled.append(run)
    _store(connection, settled)
    return holds


def _unsettled(connection: Connection, execution_ids: Sequence[int], *, locked: bool = False) -> list[int]:
    """The runs that have not settled yet; ``locked`` keeps other processes from settling them."""
    table = schema.pipeline_execution
    statement = select(table.c.id).where(table.c.id.in_(execution_ids), table.c.span_end.is_(None)).order_by(table.c.id)
    return list(connection.execute(statement.with_for_update() if locked else statement).scalars())


def _hold(run: _Run, rule: Settling, now: datetime) -> Hold | None:
    quiet = now - run.last_change
    running = run.results.numbers[PipelineTaskStatus.RUNNING]
    pending = run.results.numbers[PipelineTaskStatus.PENDING]
    # A pipeline result is reported final just after its last task result, so wait a little for that.
    unfinished = sum(level.status is PipelineTaskStatus.RUNNING for level in run.pipeline_results)
    if running and quiet < rule.after:
        until, reason = run.last_change + rule.after, f"{running} task results are RUNNING"
    elif running or quiet >= rule.quiet:
        return None
    elif pending:
        until, reason = run.last_change + rule.quiet, f"{pending} task results are PENDING"
    elif unfinished:
        until, reason = run.last_change + rule.quiet, f"{unfinished} pipeline results are RUNNING"
    else:
        return None
    # Look again before the deadline, in case the run changes; the longer it was quiet, the later.
    return Hold(min(until, now + min(max(quiet / 2, _SHORTEST_HOLD), _LONGEST_HOLD)), reason)


def _read(connection: Connection, execution_ids: Sequence[int]) -> list[_Run]:
    executions = _levels(connection, schema.pipeline_execution, "id", execution_ids)
    pipeline_results = _levels(connection, schema.pipeline_result, "execution_id", execution_ids)
    task_executions = _levels(connection, schema.task_execution, "pipeline_result_id", execution_ids)
    results = _results(connection, execution_ids)
    runs = []
    for id_, [(execution, changed)] in executions.items():
        below = pipeline_results.get(id_, []), task_executions.get(id_, [])
        runs.append(
            _Run(
                execution=execution,
                pipeline_results=[level for level, _ in below[0]],
                task_executions=[level for level, _ in below[1]],
                results=results[id_],
                last_change=_latest(changed, *(at for rows in below for _, at in rows), results[id_].last_change),
            )
        )
    return runs


def _levels(
    connection: Connection, table: Any, parent: str, execution_ids: Sequence[int]
) -> dict[int, list[tuple[_Level, datetime]]]:
    """The parents of one kind by execution, with the time of each one's last change."""
    run = table.c.id if table is schema.pipeline_execution else table.c.execution_id
    columns = (table.c.id, run.label("run"), table.c[parent].label("parent"))
    statement = select(*columns, table.c.status, table.c.created, table.c.started, table.c.completed).where(
        run.in_(execution_ids)
    )
    found = defaultdict(list)
    for id_, run_id, parent_id, status, created, started, completed in connection.execute(statement).all():
        level = _Level(id_, parent_id, status, started, completed)
        found[run_id].append((level, _latest(created, started, completed)))
    return found


def _results(connection: Connection, execution_ids: Sequence[int]) -> dict[int, _Results]:
    """The task results by run; one query counts them and reads their times, so that the figures are consistent."""
    table = schema.task_result
    is_final = table.c.status.in_(FINAL)
    statement = (
        select(
            table.c.execution_id,
            table.c.task_execution_id,
            table.c.status,
            func.count().label("number"),
            # An extent of several records is computed like that of one, see ``extent()``.
            func.min(case((is_final, func.coalesce(table.c.started, table.c.completed)), else_=table.c.started)),
            func.max(table.c.started).label("started"),
            func.max(table.c.completed).label("completed"),
        )
        .where(table.c.execution_id.in_(execution_ids))
        .group_by(table.c.execution_id, table.c.task_execution_id, table.c.status)
    )
    found: dict[int, _Results] = defaultdict(_Results)
    for run_id, task_execution_id, status, number, start, started, completed in connection.execute(statement).all():
        results = found[run_id]
        results.numbers[status] += number
        latest = started if completed is None else _latest(completed, started)
        if latest is not None:
            results.last_change = _latest(latest, results.last_change)
        end = latest if status in FINAL else started
        results.extents[task_execution_id].append(Extent.of_status(status, start, end))
    return found


def _latest(moment: datetime, *others: datetime | None) -> datetime:
    for other in others:
        if other is not None and other > moment:
            moment = other
    return moment


def _unsent(connection: Connection, execution_ids: Sequence[int]) -> dict[int, tuple[int, datetime]]:
    """How many references of task results the runs still have, and when the first one is due."""
    outbox = schema.outbox
    # As CASE and not as a condition: SQLite would choose the index of the states, and read the whole outbox.
    is_unsent = and_(outbox.c.kind == TASK_RESULT, outbox.c.state == "waiting")
    statement = (
        select(
            outbox.c.execution_id,
            func.sum(case((is_unsent, 1), else_=0)).label("number"),
            func.min(case((is_unsent, outbox.c.due))).label("due"),
        )
        .where(outbox.c.execution_id.in_(execution_ids))
        .group_by(outbox.c.execution_id)
    )
    return {row.execution_id: (int(row.number), row.due) for row in connection.execute(statement) if row.number}


def _store(connection: Connection, runs: Sequence[_Run]) -> None:
    if not runs:
        return
    # Lock from the top down, as transitions and cleanups do. If the lease of a slow sender expired, two senders may
    # settle one run: the first one wins, because it may have sent spans of what it stored.
    unsettled = set(_unsettled(connection, [run.execution.id for run in runs], locked=True))
    runs = [run for run in runs if run.execution.id in unsettled]
    for run in runs:
        run.complete()
    _update(connection, schema.pipeline_execution, (run.execution for run in runs))
    _update(connection, schema.pipeline_result, (level for run in runs for level in run.pipeline_results))
    _update(connection, schema.task_execution, (level for run in runs for level in run.task_executions))


def _update(connection: Connection, table: Any, levels: Iterable[_Level]) -> None:
    """Store the data of the levels' spans, unless it is stored already."""
    rows = [
        {
            "record_id": level.id,
            "span_start": level.extent.start,
            "span_end": level.extent.end,
            "span_status": level.status,
            "span_outcome": level.extent.outcome if level.extent.outcome in FINAL else None,
        }
        for level in levels
        if level.extent.end is not None
    ]
    if rows:
        _storing(table).execute_many(connection, rows)


@cache
def _storing(table: Table) -> Prepared:
    values: dict[str, Any] = {
        name: parameter(table.c[name]) for name in ("span_start", "span_end", "span_status", "span_outcome")
    }
    is_unsettled = and_(table.c.id == parameter(table.c.id, "record_id"), table.c.span_end.is_(None))
    return Prepared(update(table).where(is_unsettled).values(values))
