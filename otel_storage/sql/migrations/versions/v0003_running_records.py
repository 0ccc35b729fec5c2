"""Indexes that find records which are RUNNING, and a record's references."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the index of what is RUNNING, and the records to that of references by run."""
    for level in ("pipeline_result", "task_result"):
        table = f"otel_storage_{level}"
        op.create_index(
            f"ix_{table}_running",
            table,
            ["status", "execution_id", "id"],
            unique=False,
            sqlite_where=sa.text("status = 'RUNNING'"),
            postgresql_where=sa.text("status = 'RUNNING'"),
        )
    table = "otel_storage_outbox"
    op.create_index(f"ix_{table}_execution_id_record_id", table, ["execution_id", "record_id"], unique=False)
    op.drop_index(f"ix_{table}_execution_id", table)
