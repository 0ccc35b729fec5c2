"""What a row does in a change of state: a conditional update, and the reference to the span that follows from it.

Of several processes that report the same, one wins: the row says who. Only the winner stores its message and writes the
reference for telemetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Update, bindparam, insert, literal, or_, select, update

from otel_storage.ports.snapshots import Failure
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL, PipelineTaskStatus, preceding
from otel_storage.runtime.worker import this_worker
from otel_storage.sql.database import mariadb, schema
from otel_storage.sql.database.prepared import Prepared
from otel_storage.sql.database.types import storable


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, to be applied to a record and, if it propagates, to its parents."""

    status: PipelineTaskStatus
    at: datetime
    message: str
    failure: Failure | None = None


def update_row(
    connection: Connection,
    kind: str,
    record_id: int,
    change: Change,
    fields: dict[str, Any] | None = None,
    *,
    refers: bool = False,
) -> bool:
    """Apply the change to the record's row, and write the fields with it, if that advances its status.

    With ``refers`` the reference to the task result is written by the same statement, which PostgreSQL alone can.
    """
    values: dict[str, Any] = {"record_id": record_id, "new_message": change.message or None, "at": change.at}
    if change.status is PipelineTaskStatus.RUNNING:
        worker = this_worker()
        values.update(new_host=worker.host, new_pid=worker.pid, new_start=worker.started)
    if fields:
        statement = _update_statement(kind, change.status).values(fields)
        return connection.execute(statement, values).rowcount > 0
    return _prepared_update(kind, change.status, refers).execute(connection, values).rowcount > 0


@cache
def _prepared_update(kind: str, status: PipelineTaskStatus, refers: bool) -> Prepared:
    statement = _update_statement(kind, status)
    return Prepared(_and_refer(statement) if refers else statement)


def _update_statement(kind: str, status: PipelineTaskStatus) -> Update:
    table = schema.LEVELS[kind]
    values: dict[str, Any] = {"status": status}
    if status is PipelineTaskStatus.RUNNING:
        values.update(started=bindparam("at"), started_message=bindparam("new_message"))
        values.update(
            worker_host=bindparam("new_host"), worker_pid=bindparam("new_pid"), worker_started=bindparam("new_start")
        )
    else:
        values.update(completed=bindparam("at"), completed_message=bindparam("new_message"))
    advancing = or_(*(table.c.status == before for before in preceding(status)))
    statement = update(table).where(table.c.id == bindparam("record_id"), advancing).values(values)
    for name in mariadb.NAMES:
        # It might look the row up by its status, and deadlock with those who lock it by its id.
        statement = statement.with_hint("FORCE INDEX (PRIMARY)", dialect_name=name)
    return statement


def _and_refer(statement: Update) -> Insert:
    """The statement, with the reference to the task result that it changes."""
    table, outbox = schema.task_result, schema.outbox
    changed = statement.returning(table.c.id, table.c.execution_id).cte("changed")
    at = bindparam("at", type_=outbox.c.created.type)
    row = reference(TASK_RESULT, changed.c.id, changed.c.execution_id, at)
    values = [value if isinstance(value, ColumnElement) else literal(value) for value in row.values()]
    return insert(outbox).inline().from_select(list(row), select(*values))


def holds(connection: Connection, kind: str, record_id: int, change: Change) -> bool:
    """Whether the record's row holds just this change."""
    table = schema.LEVELS[kind]
    row = connection.execute(
        select(table.c.status, table.c.started, table.c.completed).where(table.c.id == record_id)
    ).first()
    if row is None or row.status is not change.status:
        return False
    return bool((row.started if change.status is PipelineTaskStatus.RUNNING else row.completed) == change.at)


def write_references(
    connection: Connection,
    execution_id: int,
    winners: Sequence[tuple[str, int]],
    change: Change,
    *,
    is_traced: bool,
    is_referred: bool = False,
) -> bool:
    """Write what telemetry needs of records, by kind and id, that advanced; whether a reference is due by it.

    With ``is_referred`` there is the reference to the task result already.
    """
    if change.status not in FINAL:
        return False
    referenced = False
    for kind, record_id in winners:
        if kind == TASK_RESULT:
            if change.failure is not None:
                _write_failure(connection, execution_id, record_id, change.failure)
            if is_traced and not is_referred:
                _INSERT_REFERENCE.execute(connection, reference(TASK_RESULT, record_id, execution_id, change.at))
            referenced = is_traced or referenced
        elif kind == PIPELINE_EXECUTION and is_traced:
            _run_is_final(connection, execution_id, change.at)
            referenced = True
    return referenced


def _write_failure(connection: Connection, execution_id: int, task_result_id: int, failure: Failure) -> None:
    connection.execute(
        insert(schema.failure).inline(),
        {
            "task_result_id": task_result_id,
            "execution_id": execution_id,
            "type": storable(failure.type)[:255],
            "message": storable(failure.message),
            "stacktrace": storable(failure.stacktrace),
        },
    )


def _run_is_final(connection: Connection, execution_id: int, at: datetime) -> None:
    outbox = schema.outbox
    statement = select(outbox.c.id).where(outbox.c.execution_id == execution_id, outbox.c.kind == PIPELINE_EXECUTION)
    # Looked up first and changed by its id: MariaDB would lock the run's other references too, which may be removed
    # by their ids just now, and the two would deadlock. Its age counts from here: a run may take longer than
    # references live.
    ids = connection.execute(statement).scalars().all()
    connection.execute(update(outbox).where(outbox.c.id.in_(ids)).values(due=at, created=at))


def reference(
    kind: str,
    record_id: int | ColumnElement[int],
    execution_id: int | ColumnElement[int],
    created: datetime | ColumnElement[Any],
    due: bool = True,
) -> dict[str, Any]:
    """The row of a new reference."""
    return {
        "kind": kind,
        "record_id": record_id,
        "execution_id": execution_id,
        "state": "waiting",
        "created": created,
        "due": created if due else None,
        "attempts": 0,
    }


_INSERT_REFERENCE = Prepared(
    insert(schema.outbox)
    .inline()
    .values({name: bindparam(name) for name in reference(TASK_RESULT, 0, 0, schema.outbox.c.created)})
)
