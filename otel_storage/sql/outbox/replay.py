"""Putting references of stored history back into the outbox, so that its spans are sent again.

A span's data is stored with the records, so a replayed span is identical, to the byte. A replay writes no reference
that exists already, and revives one that was set aside. A replay goes run by run, in transactions that let other
writers in, and may safely be repeated.

Senders send references in the order in which they become due. Replayed references must not delay the spans of new runs,
so they become due one after the other, ``rate`` per second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, or_, select, update

from otel_storage.ports.outbox import REPLAY_RATE
from otel_storage.ports.traces import is_sampled
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL
from otel_storage.sql.database import schema
from otel_storage.sql.database.values import load_json
from otel_storage.sql.outbox.references import EXPIRED, REFUSED, WAITING
from otel_storage.sql.outbox.transitions import reference

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database

_RUNS = 500
"""How many runs are read at once."""

_CHUNK = 1000
"""About how many task results one transaction processes, because it holds SQLite's write lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selects the runs that meet every given condition."""

    execution_ids: Sequence[int] = ()
    pipeline_id: str | None = None
    since: datetime | None = None
    """Built at this time or later."""
    until: datetime | None = None
    """Built before this time."""
    after: int = 0
    """The executions' ids are greater than this."""


@dataclass(slots=True)
class ReplayReport:
    """The progress of a replay."""

    runs: int = 0
    """Runs whose references were processed."""
    untraced: int = 0
    """Runs without spans: they were built without telemetry, or are not sampled."""
    written: int = 0
    """References that were written."""
    revived: int = 0
    """References that were refused or expired, and are to be sent again."""
    waiting: int = 0
    """References that existed already, and are still to be sent."""
    cursor: int = 0
    """The execution id of the last run that is done."""
    due: datetime | None = None
    """When the last written or revived reference is due."""

    def add(self, put: _Put) -> None:
        """Add the numbers of one transaction."""
        self.written += len(put.new)
        self.revived += len(put.revived)
        self.waiting += put.waiting
        self.due = put.last_due or self.due


@dataclass(frozen=True, slots=True)
class _Part:
    """The records that one transaction processes."""

    ids: Sequence[int]
    """The execution ids; a single one if ``between`` is given."""
    between: tuple[int, int] | None = None
    """For a run with many task results: the range of their ids, without the first and including the second."""


@dataclass(slots=True)
class _Put:
    """The references of one transaction."""

    new: list[dict[str, Any]] = field(default_factory=list)
    revived: list[dict[str, Any]] = field(default_factory=list)
    waiting: int = 0
    last_due: datetime | None = None


class Replay:
    """Puts the references of runs back into the outbox.

    Args:
        database: The database with the records and the outbox.
        clock: Gives the time now, aware and in UTC.
        selection: Selects the runs.
        rate: How many references become due in a second; 0 makes all due at once.
        dry_run: Only count, and write nothing.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        selection: Selection,
        *,
        rate: float = REPLAY_RATE,
        dry_run: bool = False,
    ) -> None:
        self.report = ReplayReport(cursor=selection.after)
        self._database = database
        self._selection = selection
        self._rate = rate
        self._dry_run = dry_run
        self._begin = clock()

    def count(self) -> int:
        """How many runs are to be processed."""
        table = schema.pipeline_execution
        conditions = [table.c.id > self._selection.after, *self._wanted(), *self._built(table.c.created)]
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one())

    def run(self) -> Iterator[ReplayReport]:
        """Write the references; yields the report after each transaction, so that the caller can stop after any."""
        for page in self._pages():
            traced = [row for row in page if is_sampled(load_json(row.trace))]
            self.report.untraced += len(page) - len(traced)
            for batch in _batches(traced):
                for put in self._put_batch(batch):
                    self.report.add(put)
                    yield self.report
                self.report.runs += len(batch)
                self.report.cursor = batch[-1].id
            self.report.cursor = page[-1].id
            yield self.report

    def _pages(self) -> Iterator[Sequence[Any]]:
        table = schema.pipeline_execution
        columns = (table.c.id, table.c.trace, table.c.task_result_count)
        conditions = self._wanted()
        if self._selection.since is not None or self._selection.until is not None:
            statement = select(func.min(table.c.id), func.max(table.c.id)).where(*self._built(table.c.created))
            with self._database.read() as connection:
                first, last = connection.execute(statement).one()
            if first is None:
                return
            # coalesce() keeps engines from the index of the times, which they would read and sort again for every page.
            created = func.coalesce(table.c.created, table.c.created)
            conditions += [table.c.id >= first, table.c.id <= last, *self._built(created)]
        cursor = self._selection.after
        while True:
            statement = select(*columns).where(table.c.id > cursor, *conditions).order_by(table.c.id).limit(_RUNS)
            with self._database.read() as connection:
                page = connection.execute(statement).all()
            if not page:
                return
            yield page
            cursor = page[-1].id

    def _wanted(self) -> list[ColumnElement[bool]]:
        table, selection = schema.pipeline_execution, self._selection
        conditions: list[ColumnElement[bool]] = []
        if selection.execution_ids:
            conditions.append(table.c.id.in_(selection.execution_ids))
        if selection.pipeline_id is not None:
            conditions.append(table.c.pipeline_id == selection.pipeline_id)
        return conditions

    def _built(self, created: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if self._selection.since is not None:
            conditions.append(created >= self._selection.since)
        if self._selection.until is not None:
            conditions.append(created < self._selection.until)
        return conditions

    def _put_batch(self, batch: Sequence[Any]) -> Iterator[_Put]:
        """Write the references of the runs: in one transaction, or in several for one run with many task results."""
        part: _Part | None = _Part([row.id for row in batch])
        if sum(row.task_result_count for row in batch) >= _CHUNK:
            part = self._first_part(batch[0].id)
        while part is not None:
            if self._dry_run:
                with self._database.read() as connection:
                    put, part = self._plan(connection, part)
            else:
                put, part = self._write(part)
            yield put

    def _first_part(self, execution_id: int) -> _Part:
        table = schema.task_result
        statement = select(func.min(table.c.id), func.max(table.c.id)).where(table.c.execution_id == execution_id)
        with self._database.read() as connection:
            first, last = connection.execute(statement).one()
        return _Part([execution_id], None if first is None else (first - 1, last))

    def _write(self, part: _Part) -> tuple[_Put, _Part | None]:
        table = schema.pipeline_execution
        lock = select(table.c.id).where(table.c.id.in_(part.ids)).order_by(table.c.id).with_for_update()

        def work(connection: Connection) -> tuple[_Put, _Part | None]:
            # Lock the runs: another replay of the same runs waits here, and then finds the references written here.
            connection.execute(lock).all()
            put, rest = self._plan(connection, part)
            if put.new:
                connection.execute(insert(schema.outbox).inline(), put.new)
            if put.revived:
                connection.execute(_REVIVE, put.revived)
            return put, rest

        return self._database.write(work)

    def _plan(self, connection: Connection, part: _Part) -> tuple[_Put, _Part | None]:
        """The references to write for the part, and the next part."""
        results, last = _final_results(connection, part)
        rest = None
        if part.between is not None and last is not None:
            rest = _Part(part.ids, (last, part.between[1]))
            part = _Part(part.ids, (part.between[0], last))
        known = _known(connection, part)
        wanted = [(TASK_RESULT, row.id, row.execution_id) for row in results]
        if rest is None:
            wanted = _with_parents(wanted, _final_runs(connection, part.ids))
        return self._put(wanted, known), rest

    def _put(self, wanted: Iterable[tuple[str, int, int]], known: dict[tuple[str, int], Any]) -> _Put:
        put = _Put()
        position = self.report.written + self.report.revived
        for kind, record_id, execution_id in wanted:
            there = known.get((kind, record_id))
            if there is not None and there.state not in (REFUSED, EXPIRED):
                put.waiting += 1
                continue
            position += 1
            due = put.last_due = self._begin + timedelta(seconds=position / self._rate if self._rate else 0)
            if there is None:
                # Expiry counts from this time too, so a reference of a slow replay does not expire before it is due.
                put.new.append(reference(kind, record_id, execution_id, due))
            else:
                put.revived.append({"reference_id": there.id, "at": due})
        return put


_REVIVE = (
    update(schema.outbox)
    .where(
        schema.outbox.c.id == bindparam("reference_id"),
        or_(schema.outbox.c.state == REFUSED, schema.outbox.c.state == EXPIRED),
    )
    .values(
        state=WAITING,
        created=bindparam("at"),
        due=bindparam("at"),
        leased_until=None,
        token=None,
        attempts=0,
        error=None,
    )
)


def _batches(runs: Iterable[Any]) -> Iterator[Sequence[Any]]:
    """Groups of runs that share a transaction; a run with many task results has its own."""
    batch: list[Any] = []
    size = 0
    for row in runs:
        if batch and size + row.task_result_count >= _CHUNK:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.task_result_count
    if batch:
        yield batch


def _final_results(connection: Connection, part: _Part) -> tuple[Sequence[Any], int | None]:
    """The final task results; for a run in parts also the id to continue after, None after the last part."""
    table = schema.task_result
    statement = select(table.c.id, table.c.execution_id, table.c.status).order_by(table.c.id)
    if part.between is None:
        of_runs = statement.where(table.c.execution_id.in_(part.ids), table.c.status.in_(FINAL))
        return connection.execute(of_runs).all(), None
    after, last = part.between
    # Select by id only, as a run's rows have adjacent ids: the index of runs would be read and sorted for every part.
    rows = connection.execute(statement.where(table.c.id > after, table.c.id <= last).limit(_CHUNK)).all()
    results = [row for row in rows if row.execution_id == part.ids[0] and row.status in FINAL]
    return results, rows[-1].id if len(rows) == _CHUNK else None


def _known(connection: Connection, part: _Part) -> dict[tuple[str, int], Any]:
    """The existing references by kind and record; for a run in parts, those of this part and of the run."""
    table = schema.outbox
    statement = select(table.c.id, table.c.kind, table.c.record_id, table.c.state)
    statements = [statement.where(table.c.execution_id.in_(part.ids))]
    if part.between is not None:
        after, last = part.between
        of_run = statement.where(table.c.execution_id == part.ids[0])
        statements = [
            of_run.where(table.c.record_id == part.ids[0], table.c.kind == PIPELINE_EXECUTION),
            of_run.where(table.c.record_id > after, table.c.record_id <= last, table.c.kind == TASK_RESULT),
        ]
    return {(row.kind, row.record_id): row for each in statements for row in connection.execute(each)}


def _final_runs(connection: Connection, ids: Sequence[int]) -> set[int]:
    """The runs that are final, or whose parent spans were made already: their parent levels get a reference."""
    table = schema.pipeline_execution
    statement = select(table.c.id, table.c.status, table.c.span_end).where(table.c.id.in_(ids))
    return {row.id for row in connection.execute(statement) if row.status in FINAL or row.span_end is not None}


def _with_parents(wanted: Iterable[tuple[str, int, int]], runs: set[int]) -> list[tuple[str, int, int]]:
    """The references of task results; after those of each run, the reference of its parent levels."""
    by_run: dict[int, list[tuple[str, int, int]]] = {}
    for each in wanted:
        by_run.setdefault(each[2], []).append(each)
    for id_ in runs:
        by_run.setdefault(id_, []).append((PIPELINE_EXECUTION, id_, id_))
    return [each for id_ in sorted(by_run) for each in by_run[id_]]
