"""A change of state in the database: a conditional UPDATE, and the outbox reference that follows from it.

If several processes report the same change, the UPDATE succeeds for one of them only. That one stores its message and
writes the reference for telemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Insert, Update, insert, literal_column, or_, select, update
from sqlalchemy.exc import DataError

from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.masking import cut_middle
from otel_storage.results.exceptions import InvalidInput
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL, PRECEDING, PipelineTaskStatus
from otel_storage.runtime.complaints import Complaints
from otel_storage.runtime.worker import this_worker
from otel_storage.sql.database import schema
from otel_storage.sql.database.mariadb import by_index
from otel_storage.sql.database.prepared import Prepared, parameter, prepared_insert
from otel_storage.sql.database.values import storable

logger = logging.getLogger(__name__)
_complaints = Complaints()

Result = TypeVar("Result")

_PLAIN_LENGTH = 200
"""Bytes of each text of a change whose texts the database refused: a server may take statements of 1 kB alone."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, to be applied to a record and, if it propagates, to its parents."""

    status: PipelineTaskStatus
    at: datetime
    message: str
    failure: Failure | None = None

    def in_plain_text(self) -> Change:
        """The same change with short texts of ASCII, which every database takes."""
        failure = self.failure
        if failure is not None:
            failure = Failure(
                type=_plain(failure.type), message=_plain(failure.message), stacktrace=_plain(failure.stacktrace)
            )
        return replace(self, message=_plain(self.message), failure=failure)


def _plain(text: str) -> str:
    return cut_middle(text, _PLAIN_LENGTH).encode("ascii", "backslashreplace").decode()


def apply_whatever_the_texts(changes: Sequence[Change], apply: Callable[[Sequence[Change]], Result]) -> Result:
    """Apply changes; if the database refuses their texts, apply them with texts that no database refuses.

    A database of another encoding than UTF-8 refuses characters, and MariaDB a statement that is larger than its
    ``max_allowed_packet``. The final state of a record must not depend on either.
    """
    try:
        return apply(changes)
    except (DataError, InvalidInput, UnicodeError) as error:
        if not any(change.message or change.failure for change in changes):
            raise
        if _complaints.is_new(type(error).__name__):
            logger.warning(
                "the database refuses the text of a message (%s): its state is stored with a text that is cut to "
                "ASCII; use a database with the encoding UTF-8 and, on MariaDB, a larger max_allowed_packet",
                type(error).__name__,
            )
        return apply([change.in_plain_text() for change in changes])


def advance(
    connection: Connection,
    rows: Sequence[tuple[str, int]],
    change: Change,
    fields: dict[str, Any] | None = None,
    *,
    refers: bool = False,
) -> list[tuple[str, int]]:
    """Apply the change to the rows whose status it advances.

    Args:
        connection: In a transaction.
        rows: Kind and id of each row, parents first.
        change: The change that each row gets.
        fields: Further columns of the last row.
        refers: Whether the statement on the last row, a task result, also writes the reference to it.

    Returns:
        The rows that advanced.
    """
    values: dict[str, Any] = {"new_message": change.message or None, "at": change.at}
    if change.status is PipelineTaskStatus.RUNNING:
        worker = this_worker()
        values.update(new_host=worker.host, new_pid=worker.pid, new_start=worker.started)
    advanced = []
    for row in rows:
        kind, values["record_id"] = row
        is_last = row is rows[-1]
        if fields and is_last:
            changed = connection.execute(_update_statement(kind, change.status).values(fields), values)
        else:
            changed = _prepared_update(kind, change.status, refers and is_last).execute(connection, values)
        if changed.rowcount > 0:
            advanced.append(row)
    return advanced


@cache
def _prepared_update(kind: str, status: PipelineTaskStatus, refers: bool) -> Prepared:
    statement = _update_statement(kind, status)
    return Prepared(_and_refer(statement), statement) if refers else Prepared(statement)


def _update_statement(kind: str, status: PipelineTaskStatus) -> Update:
    table = schema.LEVELS[kind]
    columns = table.c
    values: dict[str, Any] = {"status": _literal(status)}
    if status is PipelineTaskStatus.RUNNING:
        values.update(
            started=parameter(columns.started, "at"),
            started_message=parameter(columns.started_message, "new_message"),
            worker_host=parameter(columns.worker_host, "new_host"),
            worker_pid=parameter(columns.worker_pid, "new_pid"),
            worker_started=parameter(columns.worker_started, "new_start"),
        )
    else:
        values.update(
            completed=parameter(columns.completed, "at"),
            completed_message=parameter(columns.completed_message, "new_message"),
        )
    advancing = or_(*(columns.status == _literal(before) for before in PRECEDING[status]))
    statement = update(table).where(columns.id == parameter(columns.id, "record_id"), advancing).values(values)
    # MariaDB might look the row up by its status, and deadlock with a transaction that locks it by its id.
    return by_index(statement, table, "PRIMARY")


def _literal(status: PipelineTaskStatus) -> ColumnElement[Any]:
    """The status as a literal, because a prepared statement takes no constants as parameters."""
    return literal_column(f"'{status.value}'")


def _and_refer(statement: Update) -> Insert:
    """The statement, extended by the INSERT of the reference to the task result that it changes."""
    table, outbox = schema.task_result, schema.outbox
    changed = statement.returning(table.c.id, table.c.execution_id).cte("changed")
    at = parameter(outbox.c.created, "at")
    row = reference(TASK_RESULT, changed.c.id, changed.c.execution_id, at)
    values = [value if isinstance(value, ColumnElement) else literal_column(repr(value)) for value in row.values()]
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
    """Write the references and failures of records that advanced; returns whether a reference became due.

    With ``is_referred`` the reference to the task result exists already.
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
    # Look the row up first and change it by id: MariaDB would also lock the run's other references and deadlock with a
    # sender that removes these by id. The reference's age counts from now, as a run may take longer than max_age.
    ids = connection.execute(statement).scalars().all()
    _MAKE_DUE.execute_many(connection, [{"reference_id": id_, "at": at} for id_ in ids])


def reference(
    kind: str,
    record_id: int | ColumnElement[int],
    execution_id: int | ColumnElement[int],
    created: datetime | ColumnElement[Any],
    due: bool = True,
) -> dict[str, Any]:
    """The values of a new reference's row."""
    return {
        "kind": kind,
        "record_id": record_id,
        "execution_id": execution_id,
        "state": "waiting",
        "created": created,
        "due": created if due else None,
        "attempts": 0,
    }


_INSERT_REFERENCE = prepared_insert(schema.outbox, tuple(reference(TASK_RESULT, 0, 0, schema.outbox.c.created)))

_MAKE_DUE = Prepared(
    update(schema.outbox)
    .where(schema.outbox.c.id == parameter(schema.outbox.c.id, "reference_id"))
    .values(due=parameter(schema.outbox.c.due, "at"), created=parameter(schema.outbox.c.created, "at"))
)
