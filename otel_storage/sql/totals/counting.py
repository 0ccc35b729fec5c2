"""Counting: final records are added to the totals once, whatever happens to those who count and clean up.

A record is counted in the transaction that marks it so. Rows are locked before the totals, and these in the order of
their ids, so that nobody waits for who waits for him.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, bindparam, case, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from otel_storage.ports.outcomes import MESSAGE_LENGTH, OUTCOMES, outcome
from otel_storage.ports.totals import (
    BOUNDS,
    BOUNDS_VERSION,
    EMPTY,
    SHOWN_FOR,
    Active,
    Figures,
    Histogram,
    Sending,
    Total,
    TracedRun,
)
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.runtime.chunks import chunks
from otel_storage.sql.database import mariadb, schema
from otel_storage.sql.database.values import load_json

if TYPE_CHECKING:
    from otel_storage.ports.outbox import OutboxCounts
    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.outbox.references import SqlOutbox

CHUNK = 500
"""How many records are counted in one transaction: it holds SQLite's write lock."""

_LONG_LOOK = 0.05
"""Seconds that a look at the outbox may take, to be taken each time."""

_LOOK_SHARE = 20
"""How many times as long as a longer look took it serves."""

_LONGEST_KEPT = 30.0

GIVEN_UP = timedelta(days=1)
"""A run that has waited longer for its start never starts: it hides no younger one that waits."""

_SEEN_LATELY = timedelta(minutes=5)
_RUNS_READ = 10_000
"""How many of the newest runs are looked at for pipelines and tasks that are not known."""

_BEHIND = 1000
"""How many ids before the newest seen one are looked at again: ids are not committed in their order."""

_run = schema.pipeline_execution
_result = schema.task_result
_task = schema.task_execution
_total = schema.total

Key = tuple[str, str, PipelineTaskStatus, str]
"""Pipeline, task or nothing, status, outcome."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOUNDS_US = [round(bound * 1_000_000) for bound in BOUNDS]
_ACTIVE = tuple(PipelineTaskStatus.non_final_statuses())


@dataclass(slots=True)
class Addition:
    """What is added to one total."""

    counted: int = 0
    removed: int = 0
    timed: int = 0
    runtime: int = 0
    execution_time: int = 0
    queue_time: int = 0
    execution: list[int] = field(default_factory=lambda: list(EMPTY.counts))
    queue: list[int] = field(default_factory=lambda: list(EMPTY.counts))
    hours: dict[int, int] = field(default_factory=dict)
    last_started: datetime | None = None
    last_completed: datetime | None = None
    traced: dict[str, Any] | None = None
    traced_run_id: str = ""

    def count(self, row: Any, run: Any) -> None:
        """Add a record that was not counted; ``run`` is the row of its run."""
        self.counted += 1
        at = row.completed or row.created
        hour = _hour(at)
        self.hours[hour] = self.hours.get(hour, 0) + 1
        queue = execution = None
        if row.started is not None:
            queue = max(_microseconds(row.started - row.created), 0)
            self.queue_time += queue
            self.queue[bisect_left(_BOUNDS_US, queue)] += 1
            self.last_started = _later(self.last_started, row.started)
            if row.completed is not None:
                runtime = _microseconds(row.completed - row.started)
                self.timed += 1
                self.runtime += runtime
                execution = max(runtime, 0)
                self.execution_time += execution
                self.execution[bisect_left(_BOUNDS_US, execution)] += 1
        if (self.last_completed is None or at >= self.last_completed) and _is_sampled(run.trace):
            self.traced_run_id = run.run_id
            record = row.id if row.source_id is None else row.source_id
            self.traced = {"record": record, "at": _microseconds(at - _EPOCH), "execution": execution, "queue": queue}
        self.last_completed = _later(self.last_completed, at)

    def remove(self, row: Any) -> None:
        """Take a record that is, or will be, counted from those that live."""
        self.removed += 1
        if row.started is not None and row.completed is not None:
            self.timed -= 1
            self.runtime -= _microseconds(row.completed - row.started)


Additions = defaultdict[Key, Addition]


class SqlTotals:
    """The totals in a database of ours; see :class:`~otel_storage.ports.totals.Totals` for what it promises."""

    def __init__(self, database: Database, clock: Clock, outbox: SqlOutbox) -> None:
        self._database = database
        self._clock = clock
        self._outbox = outbox
        self._known: set[tuple[str, str]] = set()
        """Pipelines and tasks that have totals."""
        self._seen: set[int] = set()
        """The ids of the newest runs that were looked at for such."""
        self._outbox_counts: OutboxCounts | None = None
        self._outbox_kept_until = 0.0

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
        now = self._clock()
        with self._database.read() as connection:
            rows = connection.execute(select(_total).order_by(_total.c.id)).all()
            active = [*_active_runs(connection, now), *_running_results(connection)]
            sending = _sending(connection, now)
        withheld = {row.id for row in rows if as_shown and (row.shown is None or now < row.shown + SHOWN_FOR)}
        return Figures(
            at=now,
            totals=[_as_total(row, withheld=row.id in withheld, now=now) for row in rows],
            active=active,
            outbox=self._count_outbox(),
            sending=sending,
            unshown=[row.id for row in rows if row.shown is None],
        )

    def show(self, unshown: Sequence[int]) -> None:
        """Say that the totals were seen."""
        if unshown:
            now = self._clock()
            self._database.write(lambda connection: _mark_shown(connection, sorted(unshown), now))

    def _count_outbox(self) -> OutboxCounts:
        """What is in the outbox; to count a great backlog takes long, so that is not done each time."""
        began = time.monotonic()
        if self._outbox_counts is None or began >= self._outbox_kept_until:
            self._outbox_counts = self._outbox.counts()
            took = time.monotonic() - began
            self._outbox_kept_until = began + (min(took * _LOOK_SHARE, _LONGEST_KEPT) if took > _LONG_LOOK else 0)
        return self._outbox_counts

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
        for row in connection.execute(select(*_STATE(_run), *_OF_RUN).where(condition)):
            key = (row.pipeline_id, "", row.status, outcome(row.status, row.message or ""))
            additions[key].count(row, row)
        return
    statement = (
        select(*_STATE(_result), _result.c.execution_id, _task.c.pipeline_task)
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
    connection.execute(_ADD, [{"total_id": row.id, **_sum(row, by_id[row.id])} for row in rows])


def _sum(row: Any, addition: Addition) -> dict[str, Any]:
    histograms = _histograms(row.histograms)
    hour, in_hour, before = row.hour, row.in_hour, row.in_hour_before
    for number in sorted(addition.hours):
        if number > hour:
            before = in_hour if number == hour + 1 else 0
            hour, in_hour = number, addition.hours[number]
        elif number == hour:
            in_hour += addition.hours[number]
        elif number == hour - 1:
            before += addition.hours[number]
    values = {
        name: getattr(row, name) + getattr(addition, name)
        for name in ("counted", "removed", "timed", "runtime", "execution_time", "queue_time")
    }
    stored = {
        "version": BOUNDS_VERSION,
        "execution": [a + b for a, b in zip(histograms[0], addition.execution, strict=True)],
        "queue": [a + b for a, b in zip(histograms[1], addition.queue, strict=True)],
    }
    is_newer = addition.traced is not None and (
        row.last_completed is None or addition.last_completed is None or addition.last_completed >= row.last_completed
    )
    return {
        **values,
        "histograms": json.dumps(stored, separators=(",", ":")),
        "hour": hour,
        "in_hour": in_hour,
        "in_hour_before": before,
        "last_started": _later(row.last_started, addition.last_started),
        "last_completed": _later(row.last_completed, addition.last_completed),
        "last_run_id": addition.traced_run_id if is_newer else row.last_run_id,
        "last_traced": json.dumps(addition.traced) if is_newer else row.last_traced,
    }


_ADD = (
    update(_total)
    .where(_total.c.id == bindparam("total_id"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "counted",
                "removed",
                "timed",
                "runtime",
                "execution_time",
                "queue_time",
                "histograms",
                "hour",
                "in_hour",
                "in_hour_before",
                "last_started",
                "last_completed",
                "last_run_id",
                "last_traced",
            )
        }
    )
)


def _STATE(table: Table) -> list[Any]:
    return [table.c[name] for name in ("id", "source_id", "status", "created", "started", "completed")]


_OF_RUN = (
    _run.c.pipeline_id,
    _run.c.run_id,
    _run.c.trace,
    # It may be very long, and a timeout's is not.
    func.substr(_run.c.completed_message, 1, MESSAGE_LENGTH).label("message"),
)


def is_uncounted(table: Table) -> ColumnElement[bool]:
    """Whether a record is final and in no total; it can have a time without being final."""
    return and_(table.c.completed.is_not(None), table.c.counted.is_(None), table.c.status.in_(FINAL))


def _uncounted(table: Table) -> Select[Any]:
    # In the order of its index, which no engine takes for another then.
    statement = select(table.c.id, table.c.completed).where(is_uncounted(table))
    statement = statement.order_by(table.c.counted, table.c.completed)
    for name in mariadb.NAMES:
        # What it would read of another index it would lock.
        statement = statement.with_hint(table, f"FORCE INDEX (ix_{table.name}_uncounted)", dialect_name=name)
    return statement


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
            **dict.fromkeys(_ZERO, 0),
            "pipeline_id": pipeline_id,
            "pipeline_task": pipeline_task,
            "status": status,
            "result": result,
            "created": now,
            "histograms": "",
        }
        for pipeline_id, pipeline_task, status, result in keys
    ]
    if not rows:
        return
    # Another process may make them just now.
    statement: Any
    if connection.dialect.name == "postgresql":
        statement = postgresql.insert(_total).on_conflict_do_nothing()
    elif connection.dialect.name == "sqlite":
        statement = sqlite.insert(_total).on_conflict_do_nothing()
    else:
        statement = insert(_total).prefix_with("IGNORE")
    connection.execute(statement.inline(), rows)


_ZERO = (
    "counted",
    "removed",
    "timed",
    "runtime",
    "execution_time",
    "queue_time",
    "hour",
    "in_hour",
    "in_hour_before",
)


def _ids(connection: Connection, keys: Iterable[Key]) -> dict[Key, int]:
    wanted = set(keys)
    statement = select(_total.c.id, _total.c.pipeline_id, _total.c.pipeline_task, _total.c.status, _total.c.result)
    found = connection.execute(statement.where(_total.c.pipeline_id.in_({key[0] for key in wanted})))
    ids = {(row.pipeline_id, row.pipeline_task, row.status, row.result): row.id for row in found}
    return {key: id_ for key, id_ in ids.items() if key in wanted}


def _mark_shown(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    for part in chunks(ids, CHUNK):
        connection.execute(update(_total).where(_total.c.id.in_(part), _total.c.shown.is_(None)).values(shown=now))


def _as_total(row: Any, *, withheld: bool, now: datetime) -> Total:
    count = row.counted - (_lately(row, now) if withheld else 0)
    execution, queue = _histograms(row.histograms) if count or not withheld else (EMPTY.counts, EMPTY.counts)
    is_empty = withheld and not count
    return Total(
        pipeline_id=row.pipeline_id,
        pipeline_task=row.pipeline_task,
        status=row.status,
        outcome=row.result,
        created=row.created,
        count=count,
        execution=Histogram(execution, 0 if is_empty else row.execution_time),
        queue=Histogram(queue, 0 if is_empty else row.queue_time),
        last_started=row.last_started,
        last_completed=row.last_completed,
        last_traced=None if is_empty else _traced(row),
    )


def _lately(row: Any, now: datetime) -> int:
    """How many of those counted completed in this hour and the one before it."""
    hour = _hour(now)
    if row.hour >= hour:
        return int(row.in_hour + row.in_hour_before)
    return int(row.in_hour) if row.hour == hour - 1 else 0


def _traced(row: Any) -> TracedRun | None:
    if row.last_run_id is None:
        return None
    traced: Mapping[str, int | None] = json.loads(row.last_traced)
    execution, queue = traced["execution"], traced["queue"]
    return TracedRun(
        run_id=row.last_run_id,
        record_id=traced["record"] or 0,
        at=_EPOCH + timedelta(microseconds=traced["at"] or 0),
        execution=None if execution is None else execution / 1_000_000,
        queue=None if queue is None else queue / 1_000_000,
    )


def _histograms(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not text:
        return EMPTY.counts, EMPTY.counts
    stored = json.loads(text)
    return tuple(stored["execution"]), tuple(stored["queue"])


def _active_runs(connection: Connection, now: datetime) -> Iterable[Active]:
    waiting = case((_run.c.created > now - GIVEN_UP, _run.c.created))
    statement = (
        select(
            _run.c.pipeline_id,
            _run.c.status,
            func.count().label("number"),
            func.min(_run.c.created).label("created"),
            func.min(waiting).label("waiting"),
            func.min(_run.c.started).label("started"),
            func.max(_run.c.started).label("last_started"),
        )
        .where(_run.c.status.in_(_ACTIVE))
        .group_by(_run.c.pipeline_id, _run.c.status)
    )
    for row in connection.execute(statement):
        is_running = row.status is PipelineTaskStatus.RUNNING
        yield Active(
            pipeline_id=row.pipeline_id,
            pipeline_task="",
            status=row.status,
            count=row.number,
            oldest=(row.started if is_running else row.waiting) or row.created,
            last_started=row.last_started,
        )


def _running_results(connection: Connection) -> Iterable[Active]:
    statement = (
        select(
            _run.c.pipeline_id,
            _task.c.pipeline_task,
            func.count().label("number"),
            func.min(func.coalesce(_result.c.started, _result.c.created)).label("oldest"),
            func.max(_result.c.started).label("last_started"),
        )
        .join_from(_result, _task, _task.c.id == _result.c.task_execution_id)
        .join(_run, _run.c.id == _result.c.execution_id)
        .where(_result.c.status == PipelineTaskStatus.RUNNING)
        .group_by(_run.c.pipeline_id, _task.c.pipeline_task)
    )
    for row in connection.execute(statement):
        yield Active(
            pipeline_id=row.pipeline_id,
            pipeline_task=row.pipeline_task,
            status=PipelineTaskStatus.RUNNING,
            count=row.number,
            oldest=row.oldest,
            last_started=row.last_started,
        )


def _sending(connection: Connection, now: datetime) -> Sending:
    sender = schema.sender
    lately = select(sender.c.is_watching, func.count()).where(sender.c.seen >= now - _SEEN_LATELY)
    seen = {
        bool(is_watching): number for is_watching, number in connection.execute(lately.group_by(sender.c.is_watching))
    }
    last = connection.execute(
        select(func.max(sender.c.sent).label("sent"), func.max(sender.c.failed).label("failed"))
    ).one()
    return Sending(
        watching=seen.get(True, 0), others=seen.get(False, 0), last_success=last.sent, last_failure=last.failed
    )


@lru_cache(maxsize=256)
def _is_sampled(trace: str | None) -> bool:
    return bool((load_json(trace) or {}).get("sampled"))


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(filter(None, (one, other)), default=None)


def _microseconds(time: timedelta) -> int:
    return (time.days * 86_400 + time.seconds) * 1_000_000 + time.microseconds


def _hour(moment: datetime) -> int:
    """The hour since 1970."""
    return int(moment.timestamp() // 3600)
