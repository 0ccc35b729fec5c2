"""Finds records that are RUNNING in the database although no process runs them any more.

A task result runs in the process that reported it RUNNING. For its parents, any process that works on the run may have
reported RUNNING, and may have ended normally while the others go on. So a parent counts as dead only if nothing in its
run can go on: if the host's eager runner, which executes a whole run in one process, is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, case, exists, func, literal_column, not_, or_, select

from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.runtime.worker import Worker, is_gone, this_worker
from otel_storage.sql.database import schema

if TYPE_CHECKING:
    from otel_storage.sql.database.engine import Database

EAGER_RUNNER = "pipelines.runners.eager.Runner"
"""The host's runner that executes a whole run in the thread that starts it."""


_PAGE = 500
"""How many records of a run are read at once."""

_RUNS = 100
"""How many runs one query looks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRecord:
    """A RUNNING record that counts as dead."""

    kind: str
    row_id: int
    source_id: int | None
    """For a copy: the record's id in the original storage."""
    run_id: str
    pipeline_id: str
    pipeline_task: str | None
    """The name of the task, if the record belongs to one."""
    started: datetime
    worker: Worker | None
    """The process that reported RUNNING; None if it is not known."""
    run_changed: datetime | None
    """For a record that counts as dead by its age: when the run changed last."""

    @property
    def record_id(self) -> int:
        """The id that users know the record by."""
        return self.row_id if self.source_id is None else self.source_id

    @property
    def reason(self) -> str:
        """Why the record counts as dead."""
        process = "a process that is not known"
        if self.worker is not None:
            process = f"process {self.worker.pid} on {self.worker.host}"
        if self.run_changed is None:
            return f"{process}, which ran it since {_utc(self.started)}, is gone"
        return (
            f"{process} ran it since {_utc(self.started)}, and its run has not changed since {_utc(self.run_changed)}"
        )


def find_dead(database: Database, unchanged_since: datetime | None = None) -> Iterator[DeadRecord]:
    """The RUNNING records whose process on this host is gone; task results first in each run.

    Of a record and its parents only the lowest is returned: its failure propagates to the parents. A task execution
    whose results are all final counts as final. Records are read in parts: there may be very many, and closing earlier
    records may change later ones.

    Args:
        database: The database to search.
        unchanged_since: Return instead, whatever their process, records that have been RUNNING since before this time,
            in runs that have not changed since.
    """
    last = 0
    while ids := _runs_with_running(database, last, unchanged_since):
        for execution_id in ids:
            yield from _in_run(database, execution_id, unchanged_since)
        last = ids[-1]


@dataclass(frozen=True, slots=True)
class _Run:
    """The data that the records of a run share."""

    row: Any
    """The execution's id."""
    is_eager: bool
    changed: datetime | None
    """When the run changed last, if age is the criterion."""

    def dead(self, kind: str, row: Any, pipeline_task: str | None = None) -> DeadRecord:
        return DeadRecord(
            kind=kind,
            row_id=row.id,
            source_id=row.source_id,
            run_id=self.row.run_id,
            pipeline_id=self.row.pipeline_id,
            pipeline_task=pipeline_task,
            started=row.started or row.created,
            worker=_worker(row),
            run_changed=self.changed,
        )

    def is_dead(self, row: Any) -> bool:
        if self.changed is not None:
            return True
        worker = _worker(row)
        return worker is not None and is_gone(worker, row.started or row.created)


def _in_run(database: Database, execution_id: int, unchanged_since: datetime | None) -> Iterator[DeadRecord]:
    run = _read_run(database, execution_id, unchanged_since)
    if run is None:
        return
    failing: set[tuple[str, int]] = set()
    goes_on = False
    for row in _running_task_results(database, execution_id):
        if run.is_dead(row):
            failing.add((TASK_EXECUTION, row.task_execution_id))
            yield run.dead(TASK_RESULT, row, row.pipeline_task)
        else:
            goes_on = True
    if goes_on or not (run.is_eager or run.changed is not None):
        return
    parents = _running_parents(database, run)
    if not all(run.is_dead(row) for _kind, row, _parent in parents):
        return
    for kind, row, parent in parents:
        if (kind, row.id) not in failing:
            yield run.dead(kind, row, getattr(row, "pipeline_task", None))
        failing.add(parent)


def _runs_with_running(database: Database, after: int, unchanged_since: datetime | None) -> Sequence[int]:
    """The next page of executions, by id, that may be dead or have a record that may be dead."""
    found: set[int] = set()
    with database.read() as connection:
        for table in (schema.pipeline_execution, schema.pipeline_result, schema.task_result):
            run = table.c.id if table is schema.pipeline_execution else table.c.execution_id
            conditions = [_is_running(table), run > after]
            if unchanged_since is not None:
                conditions.append(table.c.started < unchanged_since)
            else:
                conditions.append(table.c.worker_host == this_worker().host)
                if table is schema.pipeline_result:
                    conditions.append(table.c.runner == EAGER_RUNNER)
            found.update(
                connection.execute(select(run).where(*conditions).distinct().order_by(run).limit(_RUNS)).scalars()
            )
    return sorted(found)[:_RUNS]


def _read_run(database: Database, execution_id: int, unchanged_since: datetime | None) -> _Run | None:
    """The run; None if it was removed, or has changed meanwhile."""
    execution, results = schema.pipeline_execution, schema.pipeline_result
    is_other = case((results.c.runner != EAGER_RUNNER, 1), else_=0)
    with database.read() as connection:
        row = connection.execute(
            select(*_state(execution), execution.c.run_id, execution.c.pipeline_id).where(
                execution.c.id == execution_id
            )
        ).first()
        if row is None:
            return None
        if unchanged_since is not None:
            changed = _last_change(connection, execution_id)
            return _Run(row, is_eager=False, changed=changed) if changed < unchanged_since else None
        count, others = connection.execute(
            select(func.count(), func.sum(is_other)).where(results.c.execution_id == execution_id)
        ).one()
    return _Run(row, is_eager=count > 0 and not others, changed=None)


def _last_change(connection: Connection, execution_id: int) -> datetime:
    moments: list[datetime] = []
    for table in schema.LEVELS.values():
        run = table.c.id if table is schema.pipeline_execution else table.c.execution_id
        columns = (table.c.created, table.c.started, table.c.completed)
        row = connection.execute(select(*map(func.max, columns)).where(run == execution_id)).one()
        moments += filter(None, row)
    return max(moments)


def _running_task_results(database: Database, execution_id: int) -> Iterator[Any]:
    table, parent = schema.task_result, schema.task_execution
    last = 0
    while True:
        statement = (
            select(*_state(table), table.c.task_execution_id, parent.c.pipeline_task)
            .join(parent, parent.c.id == table.c.task_execution_id)
            .where(_is_running(table), table.c.execution_id == execution_id, table.c.id > last)
            .order_by(table.c.id)
            .limit(_PAGE)
        )
        with database.read() as connection:
            rows = connection.execute(statement).all()
        yield from rows
        if len(rows) < _PAGE:
            return
        last = rows[-1].id


def _running_parents(database: Database, run: _Run) -> list[tuple[str, Any, tuple[str, int]]]:
    """The RUNNING records of the upper levels, each with its kind and its parent; the lowest level first."""
    task_execution, pipeline_result, execution = (
        schema.task_execution,
        schema.pipeline_result,
        schema.pipeline_execution,
    )
    tasks = select(*_state(task_execution), task_execution.c.pipeline_result_id, task_execution.c.pipeline_task).where(
        task_execution.c.execution_id == run.row.id, _is_running(task_execution), _has_unfinished_results()
    )
    results = select(*_state(pipeline_result)).where(
        pipeline_result.c.execution_id == run.row.id, _is_running(pipeline_result)
    )
    executions = select(*_state(execution)).where(execution.c.id == run.row.id, _is_running(execution))
    top = (PIPELINE_EXECUTION, run.row.id)
    with database.read() as connection:
        return [
            *((TASK_EXECUTION, row, (PIPELINE_RESULT, row.pipeline_result_id)) for row in connection.execute(tasks)),
            *((PIPELINE_RESULT, row, top) for row in connection.execute(results)),
            *((PIPELINE_EXECUTION, row, top) for row in connection.execute(executions)),
        ]


def _has_unfinished_results() -> ColumnElement[bool]:
    table = schema.task_result
    mine = table.c.task_execution_id == schema.task_execution.c.id
    is_final = table.c.status.in_(FINAL)
    return or_(exists().where(mine, not_(is_final)), not_(exists().where(mine)))


def _is_running(table: Table) -> ColumnElement[bool]:
    # Literal, not a parameter: an engine uses a partial index only if the statement contains the index's condition.
    return table.c.status == literal_column(f"'{PipelineTaskStatus.RUNNING.value}'")


def _state(table: Table) -> tuple[ColumnElement[Any], ...]:
    return (
        table.c.id,
        table.c.source_id,
        table.c.created,
        table.c.started,
        table.c.worker_host,
        table.c.worker_pid,
        table.c.worker_started,
    )


def _worker(row: Any) -> Worker | None:
    if row.worker_host is None:
        return None
    return Worker(host=row.worker_host, pid=row.worker_pid, started=row.worker_started)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
