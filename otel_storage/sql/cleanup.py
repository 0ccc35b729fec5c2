"""Removing runs, in transactions that let writers in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, select

from otel_storage.sql import schema

CHUNK = 200
"""How many runs are removed in one transaction: it holds SQLite's write lock."""


def remove_oldest(connection: Connection, before: datetime | None) -> tuple[list[str], int]:
    """Remove the oldest runs, at most a chunk; returns their run ids, and how many references went with them."""
    table = schema.pipeline_execution
    # Locked from the top down, as a transition locks them.
    statement = select(table.c.id, table.c.run_id).order_by(table.c.id).limit(CHUNK).with_for_update()
    if before is not None:
        statement = statement.where(table.c.created < before)
    runs = connection.execute(statement).all()
    ids = [run.id for run in runs]
    if not ids:
        return [], 0
    return [run.run_id for run in runs], remove_rows(connection, ids)


def remove_rows(connection: Connection, execution_ids: Sequence[int]) -> int:
    """Remove the rows of the runs; returns how many references went with them."""
    references = connection.execute(
        delete(schema.outbox).where(schema.outbox.c.execution_id.in_(execution_ids))
    ).rowcount
    for child in (schema.failure, schema.task_result, schema.task_execution, schema.pipeline_result):
        connection.execute(delete(child).where(child.c.execution_id.in_(execution_ids)))
    table = schema.pipeline_execution
    connection.execute(delete(table).where(table.c.id.in_(execution_ids)))
    return references
