"""Counting: each final record is added to the totals exactly once, even if a process is killed while it counts.

One transaction adds a record to the totals and marks the record as counted. Every transaction locks records before
totals, and totals in the order of their ids, so that no two transactions wait for each other.
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
"""How many records one transaction counts. The transaction holds SQLite's write lock, so the number is small."""

_RUNS_READ = 10_000
"""How many of the newest runs are searched for pipelines and tasks that have no totals yet."""

_BEHIND = 1000
"""How many ids below the newest known id are read again, because transactions may commit in another order than that of
their ids."""

_run = schema.pipeline_execution
_result = schema.task_result
_task = schema.task_execution
_total = schema.total


class SqlTotals:
    """The totals in our database; :class:`~otel_storage.ports.totals.Totals` documents the methods."""

    def __init__(self, database: Database, clock: Clock, outbox: SqlOutbox) -> None:
        self._database = database
        self._clock = clock
        self._look = reading.OutboxLook(outbox)
        self._known: set[tuple[str, str]] = set()
        """The pairs of pipeline and task whose totals exist."""
        self._seen: set[int] = set()
        """The ids of the newest runs that were already searched for new pairs."""

    def count(self, *, seconds: float | None = None) -> bool:
        """Count until every final record is counted, or for about ``seconds`` seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for table in (_run, _result):
            after = None
            while len(counted := self._count_chunk(table, after)) == CHUNK:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                after = counted[-1]
        return True

    def know(self, pipelines: Iterable[tuple[str, Iterable[str]]] = ()) -> None:
        """Create the missing totals, one for each final status, of the given pipelines and of those of stored runs."""
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
        """Store that the totals were shown."""
        if unshown:
            now = self._clock()
            self._database.write(lambda connection: _mark_shown(connection, sorted(unshown), now))

    def _count_chunk(self, table: Table, after: Any) -> Sequence[Any]:
        """Count one chunk, which begins where the last one ended; returns the rows' ids and completion times."""
        found = _uncounted(table)
        if after is not None:
            # PostgreSQL's index still contains counted rows until they are vacuumed: skip them by their time.
            found = found.where(table.c.completed >= after.completed)
        # Look first without the write lock, so that a reader that has nothing to count does not block writers.
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
        """The pipelines and tasks of runs that were not searched yet, and the ids of the newest runs."""
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
    """Collect what the records add to the totals; the caller has locked them, and none was counted before."""
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
    """Write the additions to the totals, as a transaction's last step: other transactions wait for these rows."""
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
"""Sets the given columns of the total with the given id."""


def _state(table: Table) -> list[Any]:
    return [table.c[name] for name in ("id", "source_id", "status", "created", "started", "completed")]


MESSAGE = func.substr(_run.c.completed_message, 1, MESSAGE_LENGTH).label("message")
"""The beginning of a run's message, which is enough to recognise a timeout: a message may be very long."""

_OF_RUN = (
    _run.c.pipeline_id,
    _run.c.run_id,
    _run.c.trace,
    MESSAGE,
)


def is_uncounted(table: Table) -> ColumnElement[bool]:
    """Whether a record is final and in no total.

    The status is checked too: a record can have a completion time without being final.
    """
    return and_(table.c.completed.is_not(None), table.c.counted.is_(None), table.c.status.in_(FINAL))


def _uncounted(table: Table) -> Select[Any]:
    # Sort by the columns of this index, so that no engine chooses another index.
    statement = select(table.c.id, table.c.completed).where(is_uncounted(table))
    statement = statement.order_by(table.c.counted, table.c.completed)
    return by_index(statement, table, f"ix_{table.name}_uncounted")


def _missing(connection: Connection, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that have no total."""
    statement = select(_total.c.pipeline_id, _total.c.pipeline_task).distinct()
    found = connection.execute(statement.where(_total.c.pipeline_id.in_({pipeline_id for pipeline_id, _ in pairs})))
    return pairs - {(row.pipeline_id, row.pipeline_task) for row in found}


def _create(connection: Connection, pairs: Iterable[tuple[str, str]], now: datetime) -> None:
    """Create the missing totals of the pairs, one for each final status."""
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
    # Another process may create the same totals at the same time.
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
