"""The tables.

The four levels share their columns of state. Every record knows its execution, so that a run's records are found, and
removed, without a join. Ids are never reused: otherwise a queued task could run a record of another run.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.sql.database.types import LongText, Status, UtcDateTime

SCHEMA_VERSION = "0005"
"""The migration that this version of the package needs."""

VERSION_TABLE = "otel_storage_schema_version"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite autoincrements only a column declared INTEGER PRIMARY KEY; its integers have 64 bits anyway.
Id = BigInteger().with_variant(Integer, "sqlite")


def _id() -> Column[int]:
    return Column("id", Id, primary_key=True, autoincrement=True)


def _parent(name: str, table: str) -> Column[int]:
    return Column(name, Id, ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False)


def _run() -> Column[int]:
    """The execution's id. No foreign key, which would slow every insert down: the record's parent has one already."""
    return Column("execution_id", Id, nullable=False)


def _source() -> Column[int]:
    """The original's id, if the row is a copy of a wrapped storage's record; span ids are computed from this id."""
    return Column("source_id", Id, comment="the record's id in the storage it is a copy from; none: this is the record")


def _copies() -> Index:
    """Finds the copy of a record; a partial index, so that rows which are no copies cost nothing."""
    is_copy = text("source_id IS NOT NULL")
    return Index(None, "execution_id", "source_id", sqlite_where=is_copy, postgresql_where=is_copy)


def _running(table: str) -> Index:
    """Finds the RUNNING records of a run; a partial index where the engine has them."""
    name = f"ix_{table}_running"
    is_running = text("status = 'RUNNING'")
    return Index(name, "status", "execution_id", "id", sqlite_where=is_running, postgresql_where=is_running)


def _counted() -> Column[Any]:
    """Whether the totals contain the record: a final record is added to them after its transition, not in it."""
    return Column("counted", Boolean, comment="whether a final record is in the totals; none: not yet")


def _uncounted(table: str) -> Index:
    """Finds ended records that are to be counted; a partial index where the engine has them.

    No other index has these columns in this order. PostgreSQL would choose another index while its statistics say that
    all records are uncounted.
    """
    name = f"ix_{table}_uncounted"
    has_ended = text("completed IS NOT NULL AND counted IS NULL")
    return Index(name, "counted", "completed", sqlite_where=has_ended, postgresql_where=has_ended)


def _state() -> list[Column[Any]]:
    """The status, when it was reported and with which message; the process that reported RUNNING."""
    columns: list[Column[Any]] = [
        Column("status", Status, nullable=False),
        Column("created", UtcDateTime, nullable=False),
        Column("started", UtcDateTime),
        Column("completed", UtcDateTime),
        Column("started_message", LongText),
        Column("completed_message", LongText),
        Column("worker_host", String(255)),
        Column("worker_pid", Integer),
        Column("worker_started", UtcDateTime),
    ]
    return columns


def _span() -> list[Column[Any]]:
    """The data of a parent's span, stored before it is first sent, so that a later child changes no sent span."""
    columns: list[Column[Any]] = [
        Column("span_start", UtcDateTime),
        Column("span_end", UtcDateTime),
        Column("span_status", Status),
        Column("span_outcome", Status),
    ]
    return columns


# MariaDB's default collation ignores case in ids, and utf8mb4_bin ignores trailing blanks.
_OPTIONS: dict[str, Any] = {
    "sqlite_autoincrement": True,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}

pipeline_execution = Table(
    "otel_storage_pipeline_execution",
    metadata,
    _id(),
    Column("run_id", String(255), nullable=False, unique=True),
    Column("pipeline_id", String(255), nullable=False),
    Column("input_data", LongText),
    Column("pipeline_result_count", Integer, nullable=False),
    Column("task_result_count", Integer, nullable=False),
    Column(
        "trace",
        LongText,
        comment="what was decided about the run's trace when it was built; none: no telemetry",
    ),
    _source(),
    *_state(),
    *_span(),
    _counted(),
    Index(None, "pipeline_id", "id"),
    Index(None, "pipeline_id", "started"),
    Index(None, "pipeline_id", "status", "id"),
    _uncounted("otel_storage_pipeline_execution"),
    Index(None, "status", "id"),
    Index(None, "created"),
    **_OPTIONS,
)

pipeline_result = Table(
    "otel_storage_pipeline_result",
    metadata,
    _id(),
    _parent("execution_id", "otel_storage_pipeline_execution"),
    Column("pipeline_object", LongText),
    Column("runner", String(255), nullable=False),
    Column("reporter", String(255), nullable=False),
    _source(),
    *_state(),
    *_span(),
    _copies(),
    _running("otel_storage_pipeline_result"),
    Index(None, "execution_id"),
    **_OPTIONS,
)

task_execution = Table(
    "otel_storage_task_execution",
    metadata,
    _id(),
    _run(),
    _parent("pipeline_result_id", "otel_storage_pipeline_result"),
    Column("pipeline_task", String(255), nullable=False),
    Column("task_id", String(255), nullable=False),
    Column("config", LongText),
    _source(),
    *_state(),
    *_span(),
    _copies(),
    Index(None, "execution_id"),
    Index(None, "pipeline_result_id"),
    **_OPTIONS,
)

task_result = Table(
    "otel_storage_task_result",
    metadata,
    _id(),
    _run(),
    _parent("task_execution_id", "otel_storage_task_execution"),
    Column("task_object", LongText),
    _source(),
    *_state(),
    _counted(),
    _copies(),
    _running("otel_storage_task_result"),
    _uncounted("otel_storage_task_result"),
    Index(None, "execution_id", "status"),
    Index(None, "task_execution_id"),
    **_OPTIONS,
)

failure = Table(
    "otel_storage_failure",
    metadata,
    Column(
        "task_result_id",
        Id,
        ForeignKey("otel_storage_task_result.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    _run(),
    Column("type", String(255), nullable=False),
    Column("message", LongText, nullable=False),
    Column("stacktrace", LongText, nullable=False),
    Index(None, "execution_id"),
    comment="the exception a task result failed with",
    **{key: value for key, value in _OPTIONS.items() if key != "sqlite_autoincrement"},
)

outbox = Table(
    "otel_storage_outbox",
    metadata,
    _id(),
    Column(
        "kind",
        String(20),
        nullable=False,
        comment="TaskResult, or PipelineExecution for a run's three parent levels",
    ),
    Column("record_id", Id, nullable=False),
    _run(),
    Column("state", String(10), nullable=False, comment="waiting, held, refused (set aside) or expired"),
    Column("created", UtcDateTime, nullable=False),
    Column("due", UtcDateTime, comment="none: the run is not final yet"),
    Column("leased_until", UtcDateTime),
    Column("token", String(32), comment="of the sender that holds the lease"),
    Column("attempts", Integer, nullable=False),
    Column("error", LongText, comment="why the last attempt failed, or what the run still waits for"),
    Index(None, "state", "kind", "due"),
    Index(None, "execution_id", "record_id"),
    comment="references to final records whose spans are not acknowledged yet",
    **_OPTIONS,
)

sender = Table(
    "otel_storage_sender",
    metadata,
    _id(),
    Column("token", String(32), nullable=False, unique=True, comment="of the process that sends"),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("is_watching", Boolean, nullable=False, comment="whether sending is all that the process does"),
    Column("seen", UtcDateTime, nullable=False),
    Column("sent", UtcDateTime, comment="when spans of it were last accepted"),
    Column("failed", UtcDateTime, comment="when it last sent in vain"),
    Column("error", LongText, comment="why"),
    comment="processes that send spans, and when each was last seen",
    **_OPTIONS,
)

total = Table(
    "otel_storage_total",
    metadata,
    _id(),
    Column("pipeline_id", String(255), nullable=False),
    Column("pipeline_task", String(255), nullable=False, comment="empty: of the runs"),
    Column("status", Status, nullable=False),
    Column("result", String(16), nullable=False, comment="success, failure, timeout or cancellation"),
    Column("created", UtcDateTime, nullable=False),
    Column("counted", BigInteger, nullable=False, comment="how many there ever were"),
    Column("removed", BigInteger, nullable=False, comment="how many of them are removed"),
    Column("timed", BigInteger, nullable=False, comment="how many that are not removed have both their times"),
    Column("runtime", BigInteger, nullable=False, comment="microseconds from started to completed, of those"),
    Column("execution_time", BigInteger, nullable=False, comment="microseconds from started to completed, ever"),
    Column("queue_time", BigInteger, nullable=False, comment="microseconds from created to started, ever"),
    Column("histograms", LongText, nullable=False, comment="how many took how long, ever"),
    Column("hour", BigInteger, nullable=False, comment="of the last that completed, since 1970"),
    Column("in_hour", BigInteger, nullable=False, comment="how many completed in it"),
    Column("in_hour_before", BigInteger, nullable=False, comment="how many in the one before it"),
    Column("last_started", UtcDateTime),
    Column("last_completed", UtcDateTime),
    Column("last_run_id", String(255), comment="of the last that completed and has a trace"),
    Column("last_traced", LongText, comment="when that was, and how long it took"),
    Column("shown", UtcDateTime, comment="when metrics first showed it"),
    UniqueConstraint("pipeline_id", "pipeline_task", "status", "result"),
    comment="how many records became final, of a pipeline's runs or of a task of it",
    **_OPTIONS,
)

LEVELS = {
    PIPELINE_EXECUTION: pipeline_execution,
    PIPELINE_RESULT: pipeline_result,
    TASK_EXECUTION: task_execution,
    TASK_RESULT: task_result,
}
"""The table of each kind of record, from the top down."""
