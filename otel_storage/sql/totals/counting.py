"""Counting: final records are added to the totals once, whatever happens to those who count and clean up.

A record is counted in the transaction that marks it so. Every transaction locks records before totals, and totals in
the order of their ids, so that no two transactions wait for each other.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, bindparam, func, select, update

from otel_storage.ports.outcomes import MESSAGE_LENGTH, OUTCOMES
from otel_storage.results.status import FINAL
from otel_storage.runtime.chunks import chunks
from otel_storage.sql.database import schema
from otel_storage.sql.database.mariadb import by_index
from otel_storage.sql.database.policies import policy_of
from otel_storage.sql.totals import reading
from otel_storage.sql.totals.additions import NOTHING, Addition, Additions, Key, added, key_of_run

if TYPE_CHECKING:
    from otel_storage.ports.totals import Figures
    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.outbox.references import SqlOutbox

CHUNK = 500
"""How many records are counted in one transaction: it holds SQLite's write lock."""

_RUNS_READ = 10_000
"""How many of the newest runs are looked at for pipelines and tasks that are not known."""

_BEHIND = 1000
"""How many ids before the newest seen one are looked at again: ids are not committed in their order."""

_run = schema.pipeline_execution
_result = schema.task_result
_task = schema.task_execution
_total = schema.total


class SqlTotals:
    """The totals in a database of ours; see :class:`~otel_storage.ports.totals.Totals` for what it promises."""

    def __init__(self, database: Database, clock: Clock, outbox: SqlOutbox) -> None:
        self._database = database
        self._clock = clock
        self._look = reading.OutboxLook(outbox)
        self._known: set[tuple[str, str]] = set()
        """Pipelines and tasks that have totals."""
        self._seen: set[int] = set()
        """The ids of the newest runs that were looked at for such."""

    def count(self, *, seconds: float | None = None) -> bool:
        """Count until nothing is left, or for about so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for table in (_run, _result):
            after = None
            while len(counted := self._count_chunk(table, after)) == CHUNK:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                after = counted[-1]
        return True

    def know(self, pipelines: Iterable[tuple[str, Iterable[str]]] = ()) -> None:
        """Have a total of each final status of the pipelines given, and of those of the runs that are there."""
        pairs = {(pipeline_id, task) for pipeline_id, tasks in pipelines for task in ("", *tasks)}
        found, seen = self._new_pairs()
        if unknown := (pairs | found) - self._known:
            with self._database.read() as connection:
                missing = _missing(connection, unknown)
            if missing:
                now = self._clock()
                self._database.write(lambda connection: _create(connection, missing, now))
            self._known |= unknown
        self._seen = seen

    def read(self, *, as_shown: bool = True) -> Figures:
        """The figures as they are now."""
        return reading.read(self._database, self._look, self._clock(), as_shown=as_shown)

    def show(self, unshown: Sequence[int]) -> None:
        """Say that the totals were seen."""
        if unshown:
            now = self._clock()
            self._database.write(lambda connection: _mark_shown(connection, sorted(unshown), now))

    def _count_chunk(self, table: Table, after: Any) -> Sequence[Any]:
        """Count a chunk, from where the last one ended; returns the rows' ids and when they ended."""
        found = _uncounted(table)
        if after is not None:
            # PostgreSQL's index has what was counted until it is vacuumed.
            found = found.where(table.c.completed >= after.completed)
        # A look without the write lock: who has nothing to count must not make writers wait.
        with self._database.read() as connection:
            if connection.execute(found.limit(1)).first() is None:
                return ()
        now = self._clock()

        def work(connection: Connection) -> Sequence[Any]:
            rows = connection.execute(found.limit(CHUNK).with_for_update(skip_locked=True, key_share=True)).all()
            if rows:
                additions: Additions = defaultdict(Addition)
                are_these = table.c.id.in_([row.id for row in rows])
                tally(connection, table, are_these, additions)
                connection.execute(update(table).where(are_these).values(counted=True))
                add(connection, additions, now)
            return rows

        return self._database.write(work)

    def _new_pairs(self) -> tuple[set[tuple[str, str]], set[int]]:
        """The pipelines and tasks of the runs that were not looked at, and the ids of the newest runs."""
        after = max(self._seen, default=0) - _BEHIND
        newest = select(_run.c.id, _run.c.pipeline_id).where(_run.c.id > after).order_by(_run.c.id.desc())
        with self._database.read() as connection:
            found = connection.execute(newest.limit(_RUNS_READ)).all()
            runs = {row.id: row.pipeline_id for row in found if row.id not in self._seen}
            pairs = {(pipeline_id, "") for pipeline_id in runs.values()}
            for part in chunks(sorted(runs), CHUNK):
                tasks = select(_task.c.execution_id, _task.c.pipeline_task).distinct()
                for row in connection.execute(tasks.where(_task.c.execution_id.in_(part))):
                    pairs.add((runs[row.execution_id], row.pipeline_task))
        first = max((row.id for row in found), default=0) - _BEHIND
        return pairs, {row.id for row in found if row.id > first}


def tally(connection: Connection, table: Table, condition: ColumnElement[bool], additions: Additions) -> None:
    """Add what the records, which are locked and were not counted, add to the totals."""
    if table is _run:
        for row in connection.execute(select(*_state(_run), *_OF_RUN).where(condition)):
            additions[key_of_run(row)].count(row, row)
        return
    statement = (
        select(*_state(_result), _result.c.execution_id, _task.c.pipeline_task)
        .join_from(_result, _task, _task.c.id == _result.c.task_execution_id)
        .where(condition)
    )
    rows = connection.execute(statement).all()
    runs = connection.execute(select(_run.c.id, *_OF_RUN).where(_run.c.id.in_({row.execution_id for row in rows})))
    by_id = {run.id: run for run in runs}
    for row in rows:
        if (run := by_id.get(row.execution_id)) is not None:
            key = (run.pipeline_id, row.pipeline_task, row.status, OUTCOMES[row.status])
            additions[key].count(row, run)


def add(connection: Connection, additions: Additions, now: datetime) -> None:
    """Add to the totals; the last that a transaction does, as others wait for it."""
    if not additions:
        return
    keys = sorted(additions, key=lambda key: (*key[:2], key[2].value, key[3]))
    ids = _ids(connection, keys)
    if len(ids) < len(keys):
        _create(connection, {key[:2] for key in keys if key not in ids}, now)
        _insert(connection, [key for key in keys if key not in ids], now)
        ids = _ids(connection, keys)
    by_id = {ids[key]: addition for key, addition in additions.items()}
    statement = select(_total).where(_total.c.id.in_(by_id)).order_by(_total.c.id).with_for_update()
    rows = connection.execute(statement).all()
    connection.execute(_ADD, [{"total_id": row.id, **added(row, by_id[row.id])} for row in rows])


_ADD = update(_total).where(_total.c.id == bindparam("total_id"))
"""Sets the columns that are given with the id."""


def _state(table: Table) -> list[Any]:
    return [table.c[name] for name in ("id", "source_id", "status", "created", "started", "completed")]


MESSAGE = func.substr(_run.c.completed_message, 1, MESSAGE_LENGTH).label("message")
"""As much of a run's message as tells a timeout: a message may be very long."""

_OF_RUN = (
    _run.c.pipeline_id,
    _run.c.run_id,
    _run.c.trace,
    MESSAGE,
)


def is_uncounted(table: Table) -> ColumnElement[bool]:
    """Whether a record is final and in no total; it can have a time without being final."""
    return and_(table.c.completed.is_not(None), table.c.counted.is_(None), table.c.status.in_(FINAL))


def _uncounted(table: Table) -> Select[Any]:
    # In the order of the index for it, so that no engine takes another index.
    statement = select(table.c.id, table.c.completed).where(is_uncounted(table))
    statement = statement.order_by(table.c.counted, table.c.completed)
    return by_index(statement, table, f"ix_{table.name}_uncounted")


def _missing(connection: Connection, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that have no total."""
    statement = select(_total.c.pipeline_id, _total.c.pipeline_task).distinct()
    found = connection.execute(statement.where(_total.c.pipeline_id.in_({pipeline_id for pipeline_id, _ in pairs})))
    return pairs - {(row.pipeline_id, row.pipeline_task) for row in found}


def _create(connection: Connection, pairs: Iterable[tuple[str, str]], now: datetime) -> None:
    """Make the totals of each final status, where there are none."""
    keys: list[Key] = [(*pair, status, OUTCOMES[status]) for pair in sorted(pairs) for status in _STATUSES]
    _insert(connection, keys, now)


_STATUSES = sorted(FINAL, key=lambda status: status.value)


def _insert(connection: Connection, keys: Sequence[Key], now: datetime) -> None:
    rows = [
        {
            **NOTHING,
            "pipeline_id": pipeline_id,
            "pipeline_task": pipeline_task,
            "status": status,
            "result": result,
            "created": now,
        }
        for pipeline_id, pipeline_task, status, result in keys
    ]
    if not rows:
        return
    # Another process may make the same totals just now.
    connection.execute(policy_of(connection).insert_unless_there(_total).inline(), rows)


def _ids(connection: Connection, keys: Iterable[Key]) -> dict[Key, int]:
    wanted = set(keys)
    statement = select(_total.c.id, _total.c.pipeline_id, _total.c.pipeline_task, _total.c.status, _total.c.result)
    found = connection.execute(statement.where(_total.c.pipeline_id.in_({key[0] for key in wanted})))
    ids = {(row.pipeline_id, row.pipeline_task, row.status, row.result): row.id for row in found}
    return {key: id_ for key, id_ in ids.items() if key in wanted}


def _mark_shown(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    for part in chunks(ids, CHUNK):
        connection.execute(update(_total).where(_total.c.id.in_(part), _total.c.shown.is_(None)).values(shown=now))
