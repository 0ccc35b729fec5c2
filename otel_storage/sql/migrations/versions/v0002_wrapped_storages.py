"""Copies of another storage's records, and the senders that were seen."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from otel_storage.sql.database.types import LongText, UtcDateTime

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    f"{engine}_{option}": value
    for engine in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_nopad_bin"))
}
SOURCE = "the record's id in the storage it is a copy from; none: this is the record"


def upgrade() -> None:
    """Add the ids of copied records, and the table of senders."""
    op.add_column("otel_storage_pipeline_execution", sa.Column("source_id", ID, nullable=True, comment=SOURCE))
    for level in ("pipeline_result", "task_execution", "task_result"):
        table = f"otel_storage_{level}"
        op.add_column(table, sa.Column("source_id", ID, nullable=True, comment=SOURCE))
        op.create_index(
            f"ix_{table}_execution_id_source_id",
            table,
            ["execution_id", "source_id"],
            unique=False,
            sqlite_where=sa.text("source_id IS NOT NULL"),
            postgresql_where=sa.text("source_id IS NOT NULL"),
        )
    op.create_table(
        "otel_storage_sender",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False, comment="of the process that sends"),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("is_watching", sa.Boolean(), nullable=False, comment="whether sending is all that the process does"),
        sa.Column("seen", UtcDateTime(), nullable=False),
        sa.Column("sent", UtcDateTime(), nullable=True, comment="when spans of it were last accepted"),
        sa.Column("failed", UtcDateTime(), nullable=True, comment="when it last sent in vain"),
        sa.Column("error", LongText, nullable=True, comment="why"),
        sa.PrimaryKeyConstraint("id", name="pk_otel_storage_sender"),
        sa.UniqueConstraint("token", name="uq_otel_storage_sender_token"),
        comment="processes that send spans, and when each was last seen",
        sqlite_autoincrement=True,
        **OPTIONS,
    )
