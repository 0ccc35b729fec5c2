"""Removes runs, in transactions that let other writers in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Delete, Select, and_, case, delete, func, not_, select

from otel_storage.results.status import FINAL
from otel_storage.sql.database import schema
from otel_storage.sql.database.among import IDS
from otel_storage.sql.database.policies import policy_of
from otel_storage.sql.database.policy import Policy
from otel_storage.sql.outbox.references import HELD, WAITING
from otel_storage.sql.totals import counting
from otel_storage.sql.totals.additions import Addition, Additions, key_of_run

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database

CHUNK = 500
"""The most runs that one transaction removes, because it holds SQLite's write lock."""

RESULTS = 2_500
"""The most task results that one transaction removes, unless a single run has more."""

Removed = tuple[list[str], int]
"""The ids of the removed runs, and the number of references to unsent spans that were removed with them."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How many runs were built before a time."""

    runs: int
    unfinished: int
    """Those of them that are PENDING or RUNNING."""
    undelivered: int
    """Those of them that are final, but have spans that wait to be sent."""

    @property
    def spared(self) -> int:
        """How many are removed by force alone."""
        return self.unfinished + self.undelivered


def extent(connection: Connection, before: datetime, *, copies_alone: bool = False) -> Extent:
    """How many runs were built before the time; ``copies_alone`` counts those of a wrapped storage."""
    table = schema.pipeline_execution
    conditions = [table.c.created < before]
    if copies_alone:
        conditions.append(table.c.source_id.is_not(None))

    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    is_final = table.c.status.in_(FINAL)
    statement = select(func.count(), count(not_(is_final)), count(and_(is_final, _waits()))).select_from(table)
    return Extent(*map(int, connection.execute(statement.where(*conditions)).one()))


def in_parts(database: Database, clock: Clock, before: datetime | None, *, spares: bool = False) -> Iterator[Removed]:
    """Remove the runs built before the time, or all, oldest first; what each transaction removed, after its commit.

    Args:
        database: The database.
        clock: Gives the time now, aware and in UTC.
        before: Aware and in UTC; None: no matter when.
        spares: Whether runs stay that are not final, or have spans that wait to be sent.
    """
    while parts := database.look_up(partial(oldest, before=before, spares=spares)):
        for ids in parts:
            yield database.write(partial(remove, ids=ids, now=clock()))
        if sum(map(len, parts)) < CHUNK:
            break


def oldest(connection: Connection, before: datetime | None, *, spares: bool = False) -> list[list[int]]:
    """The ids of the oldest runs, at most :data:`CHUNK`, in parts that are removed in a transaction each."""
    table = schema.pipeline_execution
    conditions = [] if before is None else [table.c.created < before]
    if spares:
        conditions += [table.c.status.in_(FINAL), not_(_waits())]
    return _parts(connection, conditions)


def _waits() -> ColumnElement[bool]:
    """Whether the run has a reference that is still to be sent: neither set aside nor expired."""
    outbox = schema.outbox
    unsent = select(outbox.c.id).where(
        outbox.c.execution_id == schema.pipeline_execution.c.id, outbox.c.state.in_((WAITING, HELD))
    )
    return unsent.exists()


def copies(connection: Connection, run_ids: Sequence[str]) -> list[list[int]]:
    """The ids of the copies of the runs (at most :data:`CHUNK` runs), grouped in the same way."""
    table = schema.pipeline_execution
    return _parts(connection, [table.c.run_id.in_(run_ids), table.c.source_id.is_not(None)])


def _parts(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> list[list[int]]:
    table = schema.pipeline_execution
    statement = select(table.c.id, table.c.task_result_count).where(*conditions).order_by(table.c.id).limit(CHUNK)
    parts: list[list[int]] = []
    results = 0
    for run in connection.execute(statement):
        results += run.task_result_count
        if not parts or results > RESULTS:
            parts.append([])
            results = run.task_result_count
        parts[-1].append(run.id)
    return parts


def remove(connection: Connection, ids: Sequence[int], now: datetime) -> Removed:
    """Remove those of the runs that still exist."""
    runs = connection.execute(_locked_runs(policy_of(connection)), {IDS: ids}).all()
    if not runs:
        return [], 0
    additions = _additions(connection, runs)
    statements = _deletes(policy_of(connection))
    references, *_ = [connection.execute(each, {IDS: [run.id for run in runs]}).rowcount for each in statements]
    counting.add(connection, additions, now)
    return [run.run_id for run in runs], references


# Cached: SQLAlchemy needs as long to make a statement as SQLite to execute it.


@lru_cache
def _locked_runs(policy: Policy) -> Select[Any]:
    """Read and lock the runs, with the columns that totals need; from the top down, as a transition locks."""
    table = schema.pipeline_execution
    columns = (table.c[name] for name in ("id", "run_id", "pipeline_id", "status", "started", "completed", "counted"))
    return select(*columns, counting.MESSAGE).where(policy.among(table.c.id)).order_by(table.c.id).with_for_update()


@lru_cache
def _locked_results(policy: Policy) -> Select[Any]:
    """Lock the runs' uncounted task results, including those that another process is counting now."""
    table = schema.task_result
    are_uncounted = and_(table.c.counted.is_(None), policy.among(table.c.execution_id))
    return select(table.c.id).where(are_uncounted).order_by(table.c.id).with_for_update()


@lru_cache
def _deletes(policy: Policy) -> list[Delete]:
    """The DELETE statements of runs: first the references, then children before their parents."""
    run = schema.pipeline_execution
    tables = (schema.outbox, schema.failure, schema.task_result, schema.task_execution, schema.pipeline_result)
    columns = [*(table.c.execution_id for table in tables), run.c.id]
    return [delete(column.table).where(policy.among(column)) for column in columns]


def _additions(connection: Connection, runs: Sequence[Any]) -> Additions:
    """The additions to the totals: final records that are not counted yet, and the removal of the runs."""
    additions: Additions = defaultdict(Addition)
    uncounted = [run.id for run in runs if run.status in FINAL and run.counted is None]
    if uncounted:
        counting.tally(connection, schema.pipeline_execution, schema.pipeline_execution.c.id.in_(uncounted), additions)
    results = schema.task_result
    ids = [run.id for run in runs]
    # Wait for records that another process is counting now. Records that are not final are not counted.
    if connection.execute(_locked_results(policy_of(connection)), {IDS: ids}).first() is not None:
        condition = and_(counting.is_uncounted(results), results.c.execution_id.in_(ids))
        counting.tally(connection, results, condition, additions)
    for run in runs:
        if run.status in FINAL:
            additions[key_of_run(run)].remove(run)
    return additions
