"""Counting: final records are added to the totals once, whatever happens to those who count and clean up.

A record is counted in the transaction that marks it so. Rows are locked before the totals, and these in the order of
their ids, so that nobody waits for who waits for him.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from otel_storage.results.outcomes import MESSAGE_LENGTH, OUTCOMES, outcome
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.results.totals import (
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
from otel_storage.sql import mariadb, schema
from otel_storage.sql.types import load_json

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.sql.engine import Database
    from otel_storage.sql.outbox import SqlOutbox

CHUNK = 500
"""How many records are counted in one transaction: it holds SQLite's write lock."""

_SEEN_LATELY = timedelta(minutes=5)
_ACTIVE_READ = 10_000
"""How many of the newest runs that are not final are looked at for pipelines and tasks that are not known."""

_BEHIND = 1000
"""How many ids before the newest seen one are looked at again: ids are not committed in their order."""

_run = schema.pipeline_execution
_result = schema.task_result
_task = schema.task_execution
_total = schema.total

Key = tuple[str, str, PipelineTaskStatus, str]
"""Pipeline, task or nothing, status, outcome."""

_MICROSECOND = timedelta(microseconds=1)
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
        hour = int((at - _EPOCH) // timedelta(hours=1))
        self.hours[hour] = self.hours.get(hour, 0) + 1
        queue = execution = None
        if row.started is not None:
            queue = max((row.started - row.created) // _MICROSECOND, 0)
            self.queue_time += queue
            self.queue[bisect_left(_BOUNDS_US, queue)] += 1
            self.last_started = _later(self.last_started, row.started)
            if row.completed is not None:
                runtime = (row.completed - row.started) // _MICROSECOND
                self.timed += 1
                self.runtime += runtime
                execution = max(runtime, 0)
                self.execution_time += execution
                self.execution[bisect_left(_BOUNDS_US, execution)] += 1
        if (self.last_completed is None or at >= self.last_completed) and _is_sampled(run):
            self.traced_run_id = run.run_id
            record = row.id if row.source_id is None else row.source_id
            self.traced = {"record": record, "at": _microseconds(at), "execution": execution, "queue": queue}
        self.last_completed = _later(self.last_completed, at)

    def remove(self, row: Any) -> None:
        """Take a record that is, or will be, counted from those that live."""
        self.removed += 1
        if row.started is not None and row.completed is not None:
            self.timed -= 1
            self.runtime -= (row.completed - row.started) // _MICROSECOND


Additions = dict[Key, Addition]


class SqlTotals:
    """The totals in a database of ours; see :class:`~otel_storage.results.totals.Totals` for what it promises."""

    def __init__(self, database: Database, clock: Clock, outbox: SqlOutbox) -> None:
        self._database = database
        self._clock = clock
        self._outbox = outbox
        self._known_up_to = 0
        """The id of the newest run whose pipeline and tasks are known to have totals."""

    def count(self, *, seconds: float | None = None) -> bool:
        """Count until nothing is left, or for about so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for table in (_run, _result):
            while self._count_chunk(table) == CHUNK:
                if deadline is not None and time.monotonic() >= deadline:
                    return False
        return True

    def know(self, pipelines: Iterable[tuple[str, Iterable[str]]] = ()) -> None:
        """Have a total of each final status of the pipelines given, and of those of the runs that are not final."""
        pairs = {(pipeline_id, task) for pipeline_id, tasks in pipelines for task in ("", *tasks)}
        active, newest = self._active_pairs()
        pairs |= active
        if pairs:
            with self._database.read() as connection:
                missing = _missing(connection, pairs)
            if missing:
                now = self._clock()
                self._database.write(lambda connection: _create(connection, missing, now))
        self._known_up_to = max(self._known_up_to, newest)

    def read(self, *, as_shown: bool = True) -> Figures:
        """The figures as they are now."""
        now = self._clock()
        with self._database.read() as connection:
            rows = connection.execute(select(_total).order_by(_total.c.id)).all()
            active = [*_active_runs(connection), *_running_results(connection)]
            sending = _sending(connection, now)
        unshown = [row.id for row in rows if row.shown is None] if as_shown else []
        if unshown:
            self._database.write(lambda connection: _mark_shown(connection, unshown, now))
        totals = [
            _as_total(row, withheld=as_shown and (row.shown is None or now < row.shown + SHOWN_FOR), now=now)
            for row in rows
        ]
        return Figures(at=now, totals=totals, active=active, outbox=self._outbox.counts(), sending=sending)

    def _count_chunk(self, table: Table) -> int:
        found = _uncounted(table)
        # A look without the write lock: who has nothing to count must not make writers wait.
        with self._database.read() as connection:
            if connection.execute(found.limit(1)).first() is None:
                return 0
        now = self._clock()

        def work(connection: Connection) -> int:
            statement = found.limit(CHUNK).with_for_update(skip_locked=True, key_share=True)
            ids = connection.execute(statement).scalars().all()
            if ids:
                additions: Additions = {}
                count(connection, table, ids, additions)
                add(connection, additions, now)
            return len(ids)

        return self._database.write(work)

    def _active_pairs(self) -> tuple[set[tuple[str, str]], int]:
        """The pipelines and tasks of the runs that are not final and were not looked at; the newest run's id."""
        after = max(self._known_up_to - _BEHIND, 0)
        newest = select(_run.c.id, _run.c.pipeline_id).where(_run.c.status.in_(_ACTIVE), _run.c.id > after)
        runs = newest.order_by(_run.c.id.desc()).limit(_ACTIVE_READ)
        with self._database.read() as connection:
            found = connection.execute(runs).all()
            if not found:
                return set(), 0
            part = runs.subquery()
            tasks = (
                select(part.c.pipeline_id, _task.c.pipeline_task)
                .join_from(part, _task, _task.c.execution_id == part.c.id)
                .distinct()
            )
            pairs = {(row.pipeline_id, row.pipeline_task) for row in connection.execute(tasks)}
        return pairs | {(row.pipeline_id, "") for row in found}, found[0].id


def count(connection: Connection, table: Table, ids: Sequence[int], additions: Additions) -> None:
    """Mark the records as counted, which are locked and are not; what is to be added to the totals for it is added."""
    if table is _run:
        rows = connection.execute(select(*_STATE(_run), *_OF_RUN).where(_run.c.id.in_(ids))).all()
        for row in rows:
            key = (row.pipeline_id, "", row.status, outcome(row.status, row.message or ""))
            additions.setdefault(key, Addition()).count(row, row)
    else:
        statement = (
            select(*_STATE(_result), _result.c.execution_id, _task.c.pipeline_task)
            .join_from(_result, _task, _task.c.id == _result.c.task_execution_id)
            .where(_result.c.id.in_(ids))
        )
        rows = connection.execute(statement).all()
        runs = connection.execute(select(_run.c.id, *_OF_RUN).where(_run.c.id.in_({row.execution_id for row in rows})))
        by_id = {run.id: run for run in runs}
        for row in rows:
            if (run := by_id.get(row.execution_id)) is not None:
                key = (run.pipeline_id, row.pipeline_task, row.status, OUTCOMES[row.status])
                additions.setdefault(key, Addition()).count(row, run)
    connection.execute(update(table).where(table.c.id.in_(ids)).values(counted=True))


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


def _uncounted(table: Table) -> Select[Any]:
    statement = select(table.c.id).where(schema.IS_UNCOUNTED)
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
    for start in range(0, len(ids), CHUNK):
        part = _total.c.id.in_(ids[start : start + CHUNK])
        connection.execute(update(_total).where(part, _total.c.shown.is_(None)).values(shown=now))


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
    hour = int((now - _EPOCH) // timedelta(hours=1))
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


def _active_runs(connection: Connection) -> Iterable[Active]:
    statement = (
        select(
            _run.c.pipeline_id,
            _run.c.status,
            func.count().label("number"),
            func.min(_run.c.created).label("created"),
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
            oldest=(row.started if is_running else None) or row.created,
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


def _is_sampled(run: Any) -> bool:
    trace = load_json(run.trace)
    return bool(trace and trace.get("sampled"))


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(filter(None, (one, other)), default=None)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
