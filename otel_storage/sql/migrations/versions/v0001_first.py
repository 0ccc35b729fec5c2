"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from otel_storage.sql.database.types import Status, UtcDateTime

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    f"{engine}_{option}": value
    for engine in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_nopad_bin"))
}


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "otel_storage_outbox",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column(
            "kind",
            sa.String(length=20),
            nullable=False,
            comment="TaskResult, or PipelineExecution for a run's three parent levels",
        ),
        sa.Column("record_id", ID, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column(
            "state", sa.String(length=10), nullable=False, comment="waiting, held, refused (set aside) or expired"
        ),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("due", UtcDateTime(), nullable=True, comment="none: the run is not final yet"),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("token", sa.String(length=32), nullable=True, comment="of the sender that holds the lease"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column(
            "error",
            LONG_TEXT,
            nullable=True,
            comment="why the last attempt failed, or what the run still waits for",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_outbox"),
        comment="references to final records whose spans are not acknowledged yet",
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("ix_otel_storage_outbox_execution_id", "otel_storage_outbox", ["execution_id"], unique=False)
    op.create_index(
        "ix_otel_storage_outbox_state_kind_due", "otel_storage_outbox", ["state", "kind", "due"], unique=False
    )
    op.create_table(
        "otel_storage_pipeline_execution",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(length=255), nullable=False),
        sa.Column("pipeline_id", sa.String(length=255), nullable=False),
        sa.Column("input_data", LONG_TEXT, nullable=True),
        sa.Column("pipeline_result_count", sa.Integer(), nullable=False),
        sa.Column("task_result_count", sa.Integer(), nullable=False),
        sa.Column(
            "trace",
            LONG_TEXT,
            nullable=True,
            comment="what was decided about the run's trace when it was built; none: no telemetry",
        ),
        sa.Column("status", Status(length=16), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("completed", UtcDateTime(), nullable=True),
        sa.Column("started_message", LONG_TEXT, nullable=True),
        sa.Column("completed_message", LONG_TEXT, nullable=True),
        sa.Column("worker_host", sa.String(length=255), nullable=True),
        sa.Column("worker_pid", sa.Integer(), nullable=True),
        sa.Column("worker_started", UtcDateTime(), nullable=True),
        sa.Column("span_start", UtcDateTime(), nullable=True),
        sa.Column("span_end", UtcDateTime(), nullable=True),
        sa.Column("span_status", Status(length=16), nullable=True),
        sa.Column("span_outcome", Status(length=16), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_pipeline_execution"),
        sa.UniqueConstraint("run_id", name="uq_otel_storage_pipeline_execution_run_id"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index(
        "ix_otel_storage_pipeline_execution_created",
        "otel_storage_pipeline_execution",
        ["created"],
        unique=False,
    )
    op.create_index(
        "ix_otel_storage_pipeline_execution_pipeline_id_id",
        "otel_storage_pipeline_execution",
        ["pipeline_id", "id"],
        unique=False,
    )
    op.create_index(
        "ix_otel_storage_pipeline_execution_status_id",
        "otel_storage_pipeline_execution",
        ["status", "id"],
        unique=False,
    )
    op.create_table(
        "otel_storage_pipeline_result",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("pipeline_object", LONG_TEXT, nullable=True),
        sa.Column("runner", sa.String(length=255), nullable=False),
        sa.Column("reporter", sa.String(length=255), nullable=False),
        sa.Column("status", Status(length=16), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("completed", UtcDateTime(), nullable=True),
        sa.Column("started_message", LONG_TEXT, nullable=True),
        sa.Column("completed_message", LONG_TEXT, nullable=True),
        sa.Column("worker_host", sa.String(length=255), nullable=True),
        sa.Column("worker_pid", sa.Integer(), nullable=True),
        sa.Column("worker_started", UtcDateTime(), nullable=True),
        sa.Column("span_start", UtcDateTime(), nullable=True),
        sa.Column("span_end", UtcDateTime(), nullable=True),
        sa.Column("span_status", Status(length=16), nullable=True),
        sa.Column("span_outcome", Status(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["otel_storage_pipeline_execution.id"],
            name="fk_otel_storage_pipeline_result_execution_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_pipeline_result"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index(
        "ix_otel_storage_pipeline_result_execution_id",
        "otel_storage_pipeline_result",
        ["execution_id"],
        unique=False,
    )
    op.create_table(
        "otel_storage_task_execution",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("pipeline_result_id", ID, nullable=False),
        sa.Column("pipeline_task", sa.String(length=255), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("config", LONG_TEXT, nullable=True),
        sa.Column("status", Status(length=16), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("completed", UtcDateTime(), nullable=True),
        sa.Column("started_message", LONG_TEXT, nullable=True),
        sa.Column("completed_message", LONG_TEXT, nullable=True),
        sa.Column("worker_host", sa.String(length=255), nullable=True),
        sa.Column("worker_pid", sa.Integer(), nullable=True),
        sa.Column("worker_started", UtcDateTime(), nullable=True),
        sa.Column("span_start", UtcDateTime(), nullable=True),
        sa.Column("span_end", UtcDateTime(), nullable=True),
        sa.Column("span_status", Status(length=16), nullable=True),
        sa.Column("span_outcome", Status(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ["pipeline_result_id"],
            ["otel_storage_pipeline_result.id"],
            name="fk_otel_storage_task_execution_pipeline_result_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_task_execution"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index(
        "ix_otel_storage_task_execution_execution_id",
        "otel_storage_task_execution",
        ["execution_id"],
        unique=False,
    )
    op.create_index(
        "ix_otel_storage_task_execution_pipeline_result_id",
        "otel_storage_task_execution",
        ["pipeline_result_id"],
        unique=False,
    )
    op.create_table(
        "otel_storage_task_result",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("task_execution_id", ID, nullable=False),
        sa.Column("task_object", LONG_TEXT, nullable=True),
        sa.Column("status", Status(length=16), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("completed", UtcDateTime(), nullable=True),
        sa.Column("started_message", LONG_TEXT, nullable=True),
        sa.Column("completed_message", LONG_TEXT, nullable=True),
        sa.Column("worker_host", sa.String(length=255), nullable=True),
        sa.Column("worker_pid", sa.Integer(), nullable=True),
        sa.Column("worker_started", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["task_execution_id"],
            ["otel_storage_task_execution.id"],
            name="fk_otel_storage_task_result_task_execution_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_task_result"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index(
        "ix_otel_storage_task_result_execution_id_status",
        "otel_storage_task_result",
        ["execution_id", "status"],
        unique=False,
    )
    op.create_index(
        "ix_otel_storage_task_result_task_execution_id",
        "otel_storage_task_result",
        ["task_execution_id"],
        unique=False,
    )
    op.create_table(
        "otel_storage_failure",
        sa.Column("task_result_id", ID, autoincrement=False, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("message", LONG_TEXT, nullable=False),
        sa.Column("stacktrace", LONG_TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["task_result_id"],
            ["otel_storage_task_result.id"],
            name="fk_otel_storage_failure_task_result_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_result_id", name="pk_otel_storage_failure"),
        comment="the exception a task result failed with",
        **OPTIONS,
    )
    op.create_index("ix_otel_storage_failure_execution_id", "otel_storage_failure", ["execution_id"], unique=False)
