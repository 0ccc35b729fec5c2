"""What a record does in a change of state: one transaction, parents first, then the report to the reporter.

Of several processes that report the same, one wins; only the winner reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, or_, select, update

from otel_storage.privacy.failures import capture_failure
from otel_storage.results.base import changed_state
from otel_storage.results.exceptions import RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus, preceding
from otel_storage.sql.database.types import storable
from otel_storage.sql.outbox.transitions import Change, holds, update_row, write_references

if TYPE_CHECKING:
    from otel_storage.results.protocols import Reporter
    from otel_storage.sql.records.levels import SqlRecord


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
            elif attempts > 1 and holds(connection, link.content_type_name, link.id, change):
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
    is_referred = is_traced and not refers and chain[0].content_type_name in (TASK_RESULT, PIPELINE_EXECUTION)
    return not is_referred and change.failure is None


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
