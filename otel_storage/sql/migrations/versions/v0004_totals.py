"""Totals of the records that became final, and the records that are in them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from otel_storage.sql.database.types import LongText, Status, UtcDateTime

revision = "0004"
down_revision = "0003"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    f"{engine}_{option}": value
    for engine in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_nopad_bin"))
}
COUNTED = "whether a final record is in the totals; none: not yet"
UNCOUNTED = "completed IS NOT NULL AND counted IS NULL"


def upgrade() -> None:
    """Add the mark of what is counted, the indexes that find what is not, and the table of totals."""
    for level in ("pipeline_execution", "task_result"):
        table = f"otel_storage_{level}"
        op.add_column(table, sa.Column("counted", sa.Boolean(), nullable=True, comment=COUNTED))
        op.create_index(
            f"ix_{table}_uncounted",
            table,
            ["counted", "completed"],
            unique=False,
            sqlite_where=sa.text(UNCOUNTED),
            postgresql_where=sa.text(UNCOUNTED),
        )
    table = "otel_storage_pipeline_execution"
    op.create_index(f"ix_{table}_pipeline_id_started", table, ["pipeline_id", "started"], unique=False)
    op.create_table(
        "otel_storage_total",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("pipeline_id", sa.String(length=255), nullable=False),
        sa.Column("pipeline_task", sa.String(length=255), nullable=False, comment="empty: of the runs"),
        sa.Column("status", Status(), nullable=False),
        sa.Column("result", sa.String(length=16), nullable=False, comment="success, failure, timeout or cancellation"),
        sa.Column("created", UtcDateTime(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, comment=comment)
            for name, comment in (
                ("counted", "how many there ever were"),
                ("removed", "how many of them are removed"),
                ("timed", "how many that are not removed have both their times"),
                ("runtime", "microseconds from started to completed, of those"),
                ("execution_time", "microseconds from started to completed, ever"),
                ("queue_time", "microseconds from created to started, ever"),
            )
        ),
        sa.Column("histograms", LongText, nullable=False, comment="how many took how long, ever"),
        sa.Column("hour", sa.BigInteger(), nullable=False, comment="of the last that completed, since 1970"),
        sa.Column("in_hour", sa.BigInteger(), nullable=False, comment="how many completed in it"),
        sa.Column("in_hour_before", sa.BigInteger(), nullable=False, comment="how many in the one before it"),
        sa.Column("last_started", UtcDateTime(), nullable=True),
        sa.Column("last_completed", UtcDateTime(), nullable=True),
        sa.Column(
            "last_run_id", sa.String(length=255), nullable=True, comment="of the last that completed and has a trace"
        ),
        sa.Column("last_traced", LongText, nullable=True, comment="when that was, and how long it took"),
        sa.Column("shown", UtcDateTime(), nullable=True, comment="when metrics first showed it"),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_total"),
        sa.UniqueConstraint(
            "pipeline_id",
            "pipeline_task",
            "status",
            "result",
            name="uq_otel_storage_total_pipeline_id_pipeline_task_status_result",
        ),
        comment="how many records became final, of a pipeline's runs or of a task of it",
        sqlite_autoincrement=True,
        **OPTIONS,
    )
