"""A record's change of state: one transaction, parents first, then the report to the reporter.

If several processes report the same change, only the one whose UPDATE succeeds tells the reporter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, or_, select, update

from otel_storage.privacy.failures import capture_failure
from otel_storage.privacy.lines import as_text
from otel_storage.results.base import changed_state, telling
from otel_storage.results.exceptions import RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import FAILED, FINAL, PRECEDING, PipelineTaskStatus
from otel_storage.sql.database.values import message_text
from otel_storage.sql.outbox import transitions
from otel_storage.sql.outbox.transitions import Change, apply_whatever_the_texts

if TYPE_CHECKING:
    from otel_storage.results.protocols import Reporter
    from otel_storage.sql.records.record import SqlRecord


class _NotAdvancing(Exception):
    """The record's row is final already, or gone; rolls the transaction back, so that the parents stay unchanged."""


def report(
    record: SqlRecord, reporter: Reporter | None, status: PipelineTaskStatus, message: str | None, propagate: bool
) -> None:
    """Advance the record and, if ``propagate``, its parents; report those that advanced, parents first."""
    is_task_result = record.content_type_name == TASK_RESULT
    listener = record.records.listener if is_task_result else None
    tell = telling(reporter)
    try:
        said = "" if message is None else as_text(message)
        failure = capture_failure(said) if is_task_result and status in FAILED else None
        text = message_text(said, record.records.message_limit)
        change = Change(status, record.records.clock(), text, failure)
        if winners := apply_whatever_the_texts([change], lambda one: advance(record, *one, propagate=propagate)):
            told = changed_state(status, said)
            for winner in winners:
                tell(winner, status, told)
    finally:
        if listener is not None and status in FINAL:
            listener.finished(record)
    if listener is not None and status is PipelineTaskStatus.RUNNING and record.trace is not None:
        listener.running(record, record.is_traced)


def save(record: SqlRecord, fields: dict[str, Any]) -> None:
    """Write the fields; a status among them is written by the same conditional UPDATE."""
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
    """Apply the change; returns the records that advanced, parents first, and none if the record itself did not."""
    chain = {(link.content_type_name, link.row["id"]): link for link in _chain(record, change.status, propagate)}
    if not chain:
        return ()
    rows = list(chain)
    database, execution = record.records.database, record.run or record
    is_traced = execution.is_run_traced if execution.is_run_traced is not None else record.is_traced
    is_final_result = rows[-1][0] == TASK_RESULT and change.status in FINAL
    # Then the change takes a single round trip to the server.
    refers = is_traced and not fields and is_final_result and database.policy.refers_at_once
    won: list[tuple[str, int]] = []
    is_repeated = False

    def work(connection: Connection) -> bool:
        nonlocal won, is_repeated
        was_tried, is_repeated = is_repeated, True
        won = transitions.advance(connection, rows, change, fields, refers=refers)
        if was_tried and len(won) < len(rows):
            # An earlier attempt may have been committed even if its answer was lost: then it has made the whole change.
            lost = rows[-1] not in won
            won = [row for row in rows if row in won or transitions.holds(connection, *row, change)]
            if lost and rows[-1] in won:
                return True
        if rows[-1] not in won:
            raise _NotAdvancing
        return transitions.write_references(
            connection, execution.row["id"], won, change, is_traced=is_traced, is_referred=refers
        )

    is_one = len(rows) == 1 and _is_one_statement(rows[0][0], change, is_referred=is_traced and not refers)
    try:
        referenced = database.write(work, is_one_statement=is_one)
    except _NotAdvancing:
        refresh(list(chain.values()))
        return ()
    winners = list(map(chain.__getitem__, won))
    for winner in winners:
        winner.apply(change, fields if winner is record else None)
    if len(winners) < len(chain):
        refresh([link for row, link in chain.items() if row not in won])
    if referenced and record.records.listener is not None:
        record.records.listener.committed()
    return winners


def refresh(records: Sequence[SqlRecord]) -> None:
    """Read the state of records again that another process changed first."""
    with records[0].records.database.read() as connection:
        for record in records:
            table = record.table
            row = connection.execute(select(*(table.c[name] for name in _STATE)).where(table.c.id == record.id)).first()
            if row is not None:
                record.refresh(dict(row._mapping))


_STATE = ("status", "started", "completed", "started_message", "completed_message")


def _chain(record: SqlRecord, status: PipelineTaskStatus, propagate: bool) -> list[SqlRecord]:
    """The records to advance, parents first, without those that are known not to advance."""
    chain: list[SqlRecord] = []
    link: SqlRecord | None = record
    before = PRECEDING[status]
    while link is not None and link.row["status"] in before:
        chain.insert(0, link)
        link = link.parent if propagate else None
    return chain


def _is_one_statement(kind: str, change: Change, *, is_referred: bool) -> bool:
    """Whether one UPDATE of the record's row makes the whole change."""
    if change.status not in FINAL:
        return True
    return change.failure is None and not (is_referred and kind in (TASK_RESULT, PIPELINE_EXECUTION))


def _write_fields(record: SqlRecord, fields: dict[str, Any]) -> None:
    table = record.table
    statement = update(table).where(table.c.id == record.id).values(fields)
    if set(fields) != {"reporter"}:
        statement = statement.where(
            or_(*(table.c.status == status for status in PipelineTaskStatus.non_final_statuses()))
        )
    if record.records.database.write(lambda connection: connection.execute(statement).rowcount) > 0:
        record.refresh(fields)
        return
    refresh([record])
    names = ", ".join(sorted(fields))
    _refuse(record, f"{record!r} is {_stored_status(record)}: {names} no longer changes", RecordIsFinal)


def _refuse(
    record: SqlRecord, message: str, error: type[StatusConflict] | type[RecordIsFinal] = StatusConflict
) -> None:
    table = record.table
    with record.records.database.read() as connection:
        exists = connection.execute(select(table.c.id).where(table.c.id == record.id)).first() is not None
    if not exists:
        raise RecordDeleted(f"{record!r} is no longer in the storage; nothing was written")
    raise error(message)


def _stored_status(record: SqlRecord) -> str:
    return str(record.row["status"].value)
