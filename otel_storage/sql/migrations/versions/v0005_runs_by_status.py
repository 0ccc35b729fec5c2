"""An index that finds a pipeline's newest runs in a status."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the index."""
    table = "otel_storage_pipeline_execution"
    op.create_index(f"ix_{table}_pipeline_id_status_id", table, ["pipeline_id", "status", "id"], unique=False)
