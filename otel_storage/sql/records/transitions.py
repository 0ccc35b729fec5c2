"""A change of state: one transaction of conditional updates, parents first.

Of several processes that report the same, one wins: the row says who. Only the winner stores its message, writes the
reference for telemetry, and reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Insert, Update, bindparam, insert, literal, or_, select, update

from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.failures import capture_failure
from otel_storage.results.base import changed_state
from otel_storage.results.exceptions import RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus, preceding
from otel_storage.runtime.worker import this_worker
from otel_storage.sql.database import mariadb, schema
from otel_storage.sql.database.prepared import Prepared
from otel_storage.sql.database.types import storable

if TYPE_CHECKING:
    from otel_storage.results.protocols import Reporter
    from otel_storage.sql.records.levels import SqlRecord

TASK_RESULT = "TaskResult"
EXECUTION = "PipelineExecution"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, to be applied to a record and, if it propagates, to its parents."""

    status: PipelineTaskStatus
    at: datetime
    message: str
    failure: Failure | None = None


class _NotAdvancing(Exception):
    """The record's row is final already, or gone: the transaction is rolled back, so the parents stay as they are."""


def report(
    record: SqlRecord, reporter: Reporter, status: PipelineTaskStatus, message: str | None, propagate: bool
) -> None:
    """Advance the record and, if ``propagate``, its parents; report those that advanced, parents first."""
    listener = record.listener if record.content_type_name == TASK_RESULT else None
    try:
        text = storable(message or "")
        failure = capture_failure(message or "") if _may_have_failure(record, status) else None
        change = Change(status, record.records.clock(), text, failure)
        for winner in advance(record, change, propagate=propagate):
            reporter.report_context_object(winner, status, changed_state(status, message))
    finally:
        if listener is not None and status in FINAL:
            listener.finished(record)
    if listener is not None and status is PipelineTaskStatus.RUNNING and record.trace is not None:
        listener.running(record, record.is_traced)


def _may_have_failure(record: SqlRecord, status: PipelineTaskStatus) -> bool:
    return record.content_type_name == TASK_RESULT and status in FAILED


def save(record: SqlRecord, fields: dict[str, Any]) -> None:
    """Write the fields; a status among them takes the same conditional transition."""
    status = fields.pop("status", None)
    if status is None:
        _write_fields(record, fields)
        return
    change = Change(status, record.records.clock(), "")
    if not advance(record, change, propagate=False, fields=fields):
        _refuse(record, f"{record!r} is {_stored_status(record)}, which {status.value} does not advance")


def advance(
    record: SqlRecord, change: Change, *, propagate: bool, fields: dict[str, Any] | None = None
) -> Sequence[SqlRecord]:
    """Apply the change; returns the records that advanced, parents first: none if the record itself did not."""
    chain = _chain(record, change.status, propagate)
    if not chain:
        return ()
    winners: list[SqlRecord] = []
    attempts = 0
    is_traced = record.is_traced
    refers = is_traced and not fields and _refers_at_once(record, change)
    is_one = _is_one_statement(chain, change, is_traced=is_traced, refers=refers)

    def work(connection: Connection) -> bool:
        nonlocal attempts
        attempts += 1
        winners.clear()
        for link in chain:
            is_record = link is record
            written = fields if is_record else None
            refers_too = refers and is_record
            if update_row(connection, link.content_type_name, link.id, change, written, refers=refers_too):
                winners.append(link)
            elif attempts > 1 and _was_ours(connection, link, change):
                # An earlier attempt was committed although its answer was lost: then all was done by it.
                winners.append(link)
                if is_record:
                    return True
            elif is_record:
                raise _NotAdvancing
        won = [(winner.content_type_name, winner.id) for winner in winners]
        return write_references(connection, record.execution.id, won, change, is_traced=is_traced, is_referred=refers)

    try:
        referenced = record.database.write(work, is_one_statement=is_one)
    except _NotAdvancing:
        refresh(chain)
        return ()
    for winner in winners:
        winner.apply(change, fields if winner is record else None)
    if len(winners) < len(chain):
        refresh([link for link in chain if link not in winners])
    if referenced and record.listener is not None:
        record.listener.committed()
    return tuple(winners)


def refresh(records: Sequence[SqlRecord]) -> None:
    """Read the state of records again that another process was quicker to change."""
    with records[0].database.read() as connection:
        for record in records:
            table = record.table
            row = connection.execute(select(*(table.c[name] for name in _STATE)).where(table.c.id == record.id)).first()
            if row is not None:
                record.refresh(dict(row._mapping))


_STATE = ("status", "started", "completed", "started_message", "completed_message")


def _chain(record: SqlRecord, status: PipelineTaskStatus, propagate: bool) -> list[SqlRecord]:
    """The records to advance, parents first: up to the first that is known not to advance."""
    chain: list[SqlRecord] = []
    link: SqlRecord | None = record
    before = preceding(status)
    while link is not None and link.stored_status in before:
        chain.insert(0, link)
        link = link.parent if propagate else None
    return chain


def _refers_at_once(record: SqlRecord, change: Change) -> bool:
    """Whether the statement that makes the record final can write the reference to it as well.

    One round trip to the server is all that the change takes then.
    """
    is_final = record.content_type_name == TASK_RESULT and change.status in FINAL
    return is_final and record.database.dialect == "postgresql"


def _is_one_statement(chain: Sequence[SqlRecord], change: Change, *, is_traced: bool, refers: bool) -> bool:
    """Whether the change of the records takes no more than the UPDATE of one row."""
    if len(chain) > 1:
        return False
    if change.status not in FINAL:
        return True
    is_referred = is_traced and not refers and chain[0].content_type_name in (TASK_RESULT, EXECUTION)
    return not is_referred and change.failure is None


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


def _was_ours(connection: Connection, record: SqlRecord, change: Change) -> bool:
    """Whether the row holds just this change."""
    table = record.table
    row = connection.execute(
        select(table.c.status, table.c.started, table.c.completed).where(table.c.id == record.id)
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
        elif kind == EXECUTION and is_traced:
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
    statement = select(outbox.c.id).where(outbox.c.execution_id == execution_id, outbox.c.kind == EXECUTION)
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


def _write_fields(record: SqlRecord, fields: dict[str, Any]) -> None:
    table = record.table
    statement = update(table).where(table.c.id == record.id).values(fields)
    if set(fields) != {"reporter"}:
        statement = statement.where(
            or_(*(table.c.status == status for status in PipelineTaskStatus.non_final_statuses()))
        )
    if record.database.write(lambda connection: connection.execute(statement).rowcount) > 0:
        record.refresh(fields)
        return
    refresh([record])
    names = ", ".join(sorted(fields))
    _refuse(record, f"{record!r} is {_stored_status(record)}: {names} no longer changes", RecordIsFinal)


def _refuse(
    record: SqlRecord, message: str, error: type[StatusConflict] | type[RecordIsFinal] = StatusConflict
) -> None:
    table = record.table
    with record.database.read() as connection:
        exists = connection.execute(select(table.c.id).where(table.c.id == record.id)).first() is not None
    if not exists:
        raise RecordDeleted(f"{record!r} is no longer in the storage; nothing was written")
    raise error(message)


def _stored_status(record: SqlRecord) -> str:
    return record.stored_status.value
