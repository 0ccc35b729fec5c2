"""Removing runs, in transactions that let writers in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select

from otel_storage.results.outcomes import MESSAGE_LENGTH, outcome
from otel_storage.results.status import FINAL
from otel_storage.sql import schema, totals

CHUNK = 200
"""How many runs are removed in one transaction: it holds SQLite's write lock."""


def remove_oldest(connection: Connection, before: datetime | None, now: datetime) -> tuple[list[str], int]:
    """Remove the oldest runs, at most a chunk; returns their run ids, and how many references went with them."""
    table = schema.pipeline_execution
    condition = [] if before is None else [table.c.created < before]
    return _remove(connection, condition, now)


def remove_copies(connection: Connection, run_ids: Sequence[str], now: datetime) -> int:
    """Remove the copies of the runs, a chunk of them; returns how many references went with them."""
    table = schema.pipeline_execution
    return _remove(connection, [table.c.run_id.in_(run_ids), table.c.source_id.is_not(None)], now)[1]


def _remove(connection: Connection, conditions: list[ColumnElement[bool]], now: datetime) -> tuple[list[str], int]:
    table = schema.pipeline_execution
    message = func.substr(table.c.completed_message, 1, MESSAGE_LENGTH).label("message")
    columns = (table.c[name] for name in ("id", "run_id", "pipeline_id", "status", "started", "completed", "counted"))
    # Locked from the top down, as a transition locks them.
    statement = select(*columns, message).where(*conditions).order_by(table.c.id).limit(CHUNK).with_for_update()
    runs = connection.execute(statement).all()
    ids = [run.id for run in runs]
    if not ids:
        return [], 0
    additions = _additions(connection, runs)
    references = _remove_rows(connection, ids)
    totals.add(connection, additions, now)
    return [run.run_id for run in runs], references


def _additions(connection: Connection, runs: Sequence[Any]) -> totals.Additions:
    """What is added to the totals before the runs go: all of them that is final and not counted, and that they go."""
    additions: totals.Additions = defaultdict(totals.Addition)
    uncounted = [run.id for run in runs if run.status in FINAL and run.counted is None]
    if uncounted:
        totals.tally(connection, schema.pipeline_execution, schema.pipeline_execution.c.id.in_(uncounted), additions)
    results = schema.task_result
    condition = and_(totals.is_uncounted(results), results.c.execution_id.in_([run.id for run in runs]))
    # Those that are being counted just now are waited for, and those that are not final stay so.
    of_runs = and_(results.c.counted.is_(None), results.c.execution_id.in_([run.id for run in runs]))
    locked = select(results.c.id).where(of_runs).order_by(results.c.id).with_for_update()
    if connection.execute(locked).first() is not None:
        totals.tally(connection, results, condition, additions)
    for run in runs:
        if run.status in FINAL:
            key = (run.pipeline_id, "", run.status, outcome(run.status, run.message or ""))
            additions[key].remove(run)
    return additions


def _remove_rows(connection: Connection, execution_ids: Sequence[int]) -> int:
    """Remove the rows of the runs; returns how many references went with them."""
    references = connection.execute(
        delete(schema.outbox).where(schema.outbox.c.execution_id.in_(execution_ids))
    ).rowcount
    for child in (schema.failure, schema.task_result, schema.task_execution, schema.pipeline_result):
        connection.execute(delete(child).where(child.c.execution_id.in_(execution_ids)))
    table = schema.pipeline_execution
    connection.execute(delete(table).where(table.c.id.in_(execution_ids)))
    return references
