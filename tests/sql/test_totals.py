"""Counting: every final record is in the totals once, whatever dies and whatever is cleaned up."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import case, delete, event, func, select
from sqlalchemy.exc import OperationalError

from otel_storage.composite import OtelPipelineStorage
from otel_storage.ports.totals import EMPTY, SHOWN_FOR, Figures, Total
from otel_storage.results.base import PipelineDigest, PipelineDigestItem, PipelineExecution
from otel_storage.results.status import FAILED, FINAL
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.database import schema
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.sql.totals import counting as totals
from otel_storage.sql.totals import reading
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.benchmarks.metrics import fill

FINALS = sorted(FINAL, key=lambda status: status.value)
REPORTER = RecordingReporter()
PATIENCE = 60.0


@pytest.fixture
def clock() -> ManualClock:
    """A clock moved by hand."""
    return ManualClock()


@pytest.fixture
def storage(database_url: str, clock: ManualClock) -> Iterator[SqlPipelineStorage]:
    """A storage on each engine."""
    with closing(SqlPipelineStorage(database_url, clock=clock)) as storage:
        yield storage


@pytest.fixture
def on_sqlite(sqlite_url: str, clock: ManualClock) -> Iterator[SqlPipelineStorage]:
    """A storage for what is the same on all."""
    with closing(SqlPipelineStorage(sqlite_url, clock=clock)) as storage:
        yield storage


def build(
    storage: Any, pipeline_id: str = "shop.Orders", *, build_all: bool = True, objects: Any = None
) -> PipelineExecution:
    """A run of two tasks that is waiting to start."""
    pipeline = Pipeline(Task("extract"), Task("load", objects=objects), id=pipeline_id)
    execution: PipelineExecution = storage.build_pipeline_execution(
        pipeline, str(uuid.uuid4()), Runner(), REPORTER, {}, build_all=build_all
    )
    return execution


def run(
    storage: Any,
    clock: ManualClock,
    status: Status = Status.DONE,
    *,
    pipeline_id: str = "shop.Orders",
    seconds: float = 1.0,
    queued: float = 0.0,
) -> PipelineExecution:
    """A run whose task results, and itself, end in the status."""
    execution = build(storage, pipeline_id)
    clock.advance(queued)
    results = list(storage.get_task_results(execution.get_run_id()))
    for result in results:
        result.report_status_change(REPORTER, Status.RUNNING)
    clock.advance(seconds)
    for result in results:
        result.report_status_change(REPORTER, status, propagate=False)
    execution.report_status_change(REPORTER, Status.RUNNING)
    execution.report_status_change(REPORTER, status)
    return execution


def read(storage: SqlPipelineStorage) -> Figures:
    """The figures as they are, after all was counted."""
    assert storage.totals.count()
    return storage.totals.read(as_shown=False)


def counts(figures: Figures) -> dict[tuple[str, str, str], int]:
    """How many of each pipeline, task and status; what is 0 is left out."""
    found: Counter[tuple[str, str, str]] = Counter()
    for total in figures.totals:
        found[total.pipeline_id, total.pipeline_task, total.status.value] += total.count
    return {key: count for key, count in found.items() if count}


def one(figures: Figures, status: Status, task: str = "", pipeline_id: str = "shop.Orders") -> Total:
    """The total of the status that has the most."""
    found = [
        total
        for total in figures.totals
        if (total.pipeline_id, total.pipeline_task, total.status) == (pipeline_id, task, status)
    ]
    return max(found, key=lambda total: total.count)


def whole_digest(storage: SqlPipelineStorage) -> PipelineDigest:
    """The digest by a look at every run."""
    table = schema.pipeline_execution
    items: dict[str, PipelineDigestItem] = {}
    with storage.database.read() as connection:
        rows = connection.execute(select(table)).all()
    for pipeline_id in sorted({row.pipeline_id for row in rows}):
        runs = [row for row in rows if row.pipeline_id == pipeline_id]
        times = [max(row.completed - row.started, timedelta()) for row in runs if row.completed and row.started]
        items[pipeline_id] = PipelineDigestItem(
            total_runs=len(runs),
            total_success=sum(row.status is Status.DONE for row in runs),
            total_failure=sum(row.status in FAILED for row in runs),
            last_ran=max((row.started for row in runs if row.started), default=None),
            average_runtime=sum(times, timedelta()) / len(times) if times else None,
        )
    return items


def test_what_is_counted(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """Each final status of runs and task results, once; the times they took, to the microsecond."""
    for status in FINALS:
        run(storage, clock, status, seconds=1.000001, queued=0.25)
    run(storage, clock, seconds=90_000)
    build(storage, build_all=False)
    build(storage)

    figures = read(storage)

    assert counts(figures) == {
        ("shop.Orders", task, status.value): 2 if status is Status.DONE else 1
        for status in FINALS
        for task in ("extract", "load")
    } | {
        ("shop.Orders", "", status.value): 2 if status in (Status.DONE, Status.CONFIG_ERROR) else 1 for status in FINALS
    }
    done = one(figures, Status.DONE)
    assert done.execution.total == 90_001_000_001
    assert (done.execution.counts[4], done.execution.counts[-1], done.execution.count) == (1, 1, 2)
    assert (done.queue.total, done.queue.counts[1], done.queue.count) == (250_000, 1, 2)
    config_error = one(figures, Status.CONFIG_ERROR)
    assert (config_error.count, config_error.execution.count, config_error.queue.count) == (2, 1, 1)
    assert read(storage).totals == figures.totals


def test_a_timeout_is_told_apart(storage: SqlPipelineStorage) -> None:
    """A run that Celery's time limit ended has a total of its own; both are RUNTIME_ERROR."""
    for message in ("TimeLimitExceeded(3,)", "it took too long: TimeLimitExceeded(3,)", "x" * 5000):
        build(storage).report_status_change(REPORTER, Status.RUNTIME_ERROR, message)

    found = {total.outcome: total.count for total in read(storage).totals if total.count}

    assert found == {"timeout": 1, "failure": 2}


def test_zero_from_the_start(storage: SqlPipelineStorage) -> None:
    """A pipeline has totals of every final status, and so has each task, as soon as a run of it is built."""
    build(storage)
    storage.totals.know([("shop.Stock", ["count"]), ("shop.Orders", ["extract"])])

    figures = read(storage)

    pairs = [
        ("shop.Orders", ""),
        ("shop.Orders", "extract"),
        ("shop.Orders", "load"),
        ("shop.Stock", ""),
        ("shop.Stock", "count"),
    ]
    assert {(t.pipeline_id, t.pipeline_task, t.status) for t in figures.totals} == {
        (*pair, status) for pair in pairs for status in FINALS
    }
    assert {total.count for total in figures.totals} == {0}
    assert {total.execution for total in figures.totals} == {EMPTY}


def test_runs_that_are_built_later_are_known(on_sqlite: SqlPipelineStorage) -> None:
    """Each look finds the pipelines of the runs built since the last."""
    for number in range(3):
        build(on_sqlite, f"shop.P{number}")
        on_sqlite.totals.know()
        known = {total.pipeline_id for total in on_sqlite.totals.read(as_shown=False).totals}
        assert known == {f"shop.P{n}" for n in range(number + 1)}


def test_zero_is_shown_first(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """A total is shown as 0 for ten seconds, whatever it is, by whoever reads; then as it is."""
    run(storage, clock)
    storage.totals.count()
    with closing(SqlPipelineStorage(storage.database.engine.url, clock=clock)) as other:
        figures = storage.totals.read()
        assert counts(figures) == {}
        # The totals were never shown, so their values are still withheld.
        clock.advance(600)
        assert counts(storage.totals.read()) == {}
        storage.totals.show(figures.unshown)
        clock.advance(SHOWN_FOR.total_seconds() - 0.001)
        assert counts(other.totals.read()) == {}
        assert counts(other.totals.read(as_shown=False)) != {}
        clock.advance(0.001)
        assert counts(other.totals.read()) == counts(storage.totals.read(as_shown=False))
    run(storage, clock, Status.RUNTIME_ERROR)
    storage.totals.count()
    assert one(storage.totals.read(), Status.RUNTIME_ERROR).count == 1


def test_history_is_no_growth(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """Records that finished long before the first scrape are shown from the start; recent ones are not."""
    for _ in range(3):
        run(storage, clock, Status.RUNTIME_ERROR)
    storage.totals.count()
    clock.advance(3 * 3600)
    run(storage, clock, Status.RUNTIME_ERROR)
    storage.totals.count()

    figures = storage.totals.read()
    assert one(figures, Status.RUNTIME_ERROR).count == 3
    storage.totals.show(figures.unshown)
    clock.advance(SHOWN_FOR.total_seconds())
    assert one(storage.totals.read(), Status.RUNTIME_ERROR).count == 4


def test_cleanup_takes_nothing_away(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """Totals stay as they are when runs are removed, counted or not; those that were not finished are not counted."""
    run(storage, clock)
    storage.totals.count()
    run(storage, clock, Status.CANCELLED)
    late = build(storage)
    late_result = next(iter(storage.get_task_results(late.get_run_id())))
    late_result.report_status_change(REPORTER, Status.DONE, propagate=False)

    storage.cleanup()

    assert counts(read(storage)) == {
        ("shop.Orders", "", "DONE"): 1,
        ("shop.Orders", "", "CANCELLED"): 1,
        ("shop.Orders", "extract", "DONE"): 2,
        ("shop.Orders", "load", "DONE"): 1,
        ("shop.Orders", "extract", "CANCELLED"): 1,
        ("shop.Orders", "load", "CANCELLED"): 1,
    }
    assert storage.get_pipeline_digest() == {}
    with storage.database.read() as connection:
        table = schema.total
        rows = connection.execute(select(table).where(table.c.pipeline_task == "", table.c.counted > 0)).all()
    assert [(row.counted, row.removed, row.timed, row.runtime) for row in rows] == [(1, 1, 0, 0)] * 2


def test_late_finishers(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """A task result that ends after its run was counted is counted then."""
    execution = build(storage)
    results = list(storage.get_task_results(execution.get_run_id()))
    results[0].report_status_change(REPORTER, Status.RUNTIME_ERROR)
    assert counts(read(storage)) == {
        ("shop.Orders", "", "RUNTIME_ERROR"): 1,
        ("shop.Orders", "extract", "RUNTIME_ERROR"): 1,
    }

    results[1].report_status_change(REPORTER, Status.DONE)

    assert counts(read(storage))["shop.Orders", "load", "DONE"] == 1


def test_what_goes_on(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """Runs that wait and that run, and task results that run, with when the oldest began."""
    build(storage)
    clock.advance(5)
    for _ in range(2):
        for result in storage.get_task_results(build(storage).get_run_id()):
            result.report_status_change(REPORTER, Status.RUNNING)
        clock.advance(5)

    active = {(a.pipeline_task, a.status): (a.count, a.oldest) for a in storage.totals.read().active}

    start = clock() - timedelta(seconds=15)
    assert active == {
        ("", Status.PENDING): (1, start),
        ("", Status.RUNNING): (2, start + timedelta(seconds=5)),
        ("extract", Status.RUNNING): (2, start + timedelta(seconds=5)),
        ("load", Status.RUNNING): (2, start + timedelta(seconds=5)),
    }


def test_a_run_that_was_given_up_hides_no_other(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """The oldest that waits for its start is one of the last day, if there is one."""

    def oldest() -> list[datetime]:
        return [a.oldest for a in storage.totals.read().active if a.status is Status.PENDING]

    [given_up] = [build(storage).get_created()]
    clock.advance(reading.GIVEN_UP.total_seconds() + 1)
    assert oldest() == [given_up]
    waiting = build(storage).get_created()
    clock.advance(900)
    assert oldest() == [waiting]


def test_the_last_run_with_a_trace(database_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A total knows the run that ended last, if it has a trace."""
    with closing(OtelPipelineStorage(SqlPipelineStorage(database_url, clock=clock), delivery="external")) as storage:
        run(storage, clock)
        assert storage.records.totals.count()
        last = run(storage, clock, seconds=2.5, queued=0.25)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with closing(OtelPipelineStorage(SqlPipelineStorage(database_url, clock=clock), delivery="external")) as storage:
        run(storage, clock)
        total = one(read(storage.records), Status.DONE)

    assert total.last_traced is not None
    assert (total.last_traced.run_id, total.last_traced.record_id) == (last.get_run_id(), last.get_id())
    assert (total.last_traced.execution, total.last_traced.queue) == (2.5, 0.25)


def test_several_transactions(storage: SqlPipelineStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting takes as many transactions as it must, and stops when its time is over."""
    monkeypatch.setattr(totals, "CHUNK", 2)
    for _ in range(5):
        run(storage, clock)

    assert not storage.totals.count(seconds=0)
    assert counts(storage.totals.read(as_shown=False)) == {("shop.Orders", "", "DONE"): 2}
    assert counts(read(storage))["shop.Orders", "load", "DONE"] == 5


def test_nothing_to_count_writes_nothing(on_sqlite: SqlPipelineStorage, clock: ManualClock) -> None:
    """A reader that finds nothing to count takes no write lock."""
    run(on_sqlite, clock)
    on_sqlite.totals.know()
    read(on_sqlite)
    statements: list[str] = []
    event.listen(on_sqlite.database.engine, "begin", lambda connection: statements.append("BEGIN"))
    event.listen(on_sqlite.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))

    on_sqlite.totals.know()
    assert on_sqlite.totals.count()

    assert [statement for statement in statements if not statement.startswith(("SELECT", "BEGIN"))] == []


@pytest.mark.slow
def test_the_index_finds_what_is_to_be_counted(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """Each engine looks into the index of what is not counted, also while all is uncounted, and while nothing is."""
    dialect = storage.database.dialect
    if dialect == "mariadb":
        for _ in range(100):
            run(storage, clock)
    else:
        storage.database.write(lambda connection: fill(connection, 20_000))
    for is_counted in (False, True):
        if dialect == "postgresql":
            with storage.database.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE")
        for table in (schema.pipeline_execution, schema.task_result):
            statement = totals._uncounted(table).limit(500)
            sql = str(statement.compile(storage.database.engine, compile_kwargs={"literal_binds": True}))
            with storage.database.read() as connection:
                explain = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
                plan = str(connection.exec_driver_sql(f"{explain} {sql}").all())
            assert f"ix_{table.name}_uncounted" in plan, (is_counted, plan)
        storage.totals.count()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_commit(storage: SqlPipelineStorage, clock: ManualClock, when: str) -> None:
    """A connection that is lost at the commit, done or not, counts nothing twice and leaves nothing out."""
    run(storage, clock)
    engine = storage.database.engine
    lost: list[str] = []

    def lose(connection: Any) -> None:
        raised = engine.dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")
        if lost or "otel_storage_total" not in str(written):
            return
        lost.append(when)
        if when == "after":
            connection.connection.dbapi_connection.commit()
        raise OperationalError("COMMIT", None, raised, connection_invalidated=True)

    written: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: written.append(a[2]) if "UPDATE" in a[2] else None)
    event.listen(engine, "commit", lose)

    storage.totals.count()

    assert lost == [when]
    assert counts(read(storage)) == {("shop.Orders", task, "DONE"): 1 for task in ("", "extract", "load")}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("build"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("report"), st.integers(0, 30), st.sampled_from([Status.RUNNING, *FINALS])),
        st.tuples(st.just("report"), st.integers(0, 30), st.sampled_from([Status.RUNNING, *FINALS])),
        st.tuples(st.just("report run"), st.integers(0, 30), st.sampled_from([Status.RUNNING, *FINALS])),
        st.tuples(st.just("count"), st.just(0), st.none()),
        st.tuples(st.just("cleanup"), st.integers(0, 40), st.none()),
        st.tuples(st.just("wait"), st.integers(-2, 5000), st.none()),
    ),
    min_size=10,
    max_size=40,
)


class Model:
    """Does the steps, and keeps what ever became final."""

    def __init__(self, storage: SqlPipelineStorage, clock: ManualClock) -> None:
        self.storage = storage
        self.clock = clock
        self.ever: Counter[tuple[str, str, str]] = Counter()

    def do(self, step: str, number: int, argument: Any) -> None:
        """Execute one step."""
        self.clock.advance(0.001)
        if step == "build":
            execution = build(self.storage, f"shop.P{number}", build_all=argument)
            if not argument:
                self.ever[execution.get_pipeline_id(), "", "CONFIG_ERROR"] += 1
        elif step.startswith("report"):
            self._report(step, number, argument)
        elif step == "count":
            self.storage.totals.count(seconds=0)
        elif step == "cleanup":
            self.storage.cleanup(self.clock() - timedelta(seconds=number))
        else:
            self.clock.advance(number)

    def _report(self, step: str, number: int, status: Status) -> None:
        records: Any = (
            self.storage.get_pipeline_executions() if step == "report run" else self.storage.get_task_results()
        )
        found = list(records)
        if not found:
            return
        record = found[number % len(found)]
        reporter = RecordingReporter()
        record.report_status_change(reporter, status)
        for told, winner in zip(reporter.reports, reporter.records, strict=True):
            if told.status in FINAL and told.kind in ("PipelineExecution", "TaskResult"):
                sql_record: Any = winner
                task = "" if isinstance(winner, PipelineExecution) else sql_record.parent.get_pipeline_task()
                pipeline_id = sql_record.execution.get_pipeline_id()
                self.ever[pipeline_id, task, told.status.value] += 1


def empty(storage: SqlPipelineStorage) -> None:
    """Remove every row."""
    with storage.database.engine.begin() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(delete(table))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_the_digest_is_what_a_look_at_every_run_gives(
    engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any builds, transitions, countings and cleanups; and the totals are of all that ever became final."""
    monkeypatch.setattr(totals, "CHUNK", 2)
    url = request.getfixturevalue(f"{engine}_url")
    with closing(SqlPipelineStorage(url)) as storage:

        @settings(max_examples=100 if engine == "sqlite" else 20)
        @given(STEPS)
        def check(steps: list[tuple[str, int, Any]]) -> None:
            empty(storage)
            clock = storage.clock = ManualClock()
            storage.totals._clock = clock
            model = Model(storage, clock)
            for step in steps:
                model.do(*step)
                assert storage.get_pipeline_digest() == whole_digest(storage)
            assert counts(read(storage)) == dict(model.ever)
            assert storage.get_pipeline_digest() == whole_digest(storage)
            storage.cleanup()
            assert storage.get_pipeline_digest() == {}
            assert counts(read(storage)) == dict(model.ever)

        check()


def test_the_digest_counts_where_nobody_does(on_sqlite: SqlPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many finished runs that are in no total, a digest counts some of them."""
    monkeypatch.setattr("otel_storage.sql.storage._MANY_UNCOUNTED", 3)
    for _ in range(3):
        build(on_sqlite, build_all=False)

    before = on_sqlite.get_pipeline_digest()

    assert counts(on_sqlite.totals.read(as_shown=False)) == {("shop.Orders", "", "CONFIG_ERROR"): 3}
    assert on_sqlite.get_pipeline_digest() == before


def count_for_ever(url: str, chunk: int, cleans: bool) -> None:
    """Count, and clean up; until somebody kills the process."""
    totals.CHUNK = chunk
    with closing(SqlPipelineStorage(url)) as storage:
        while True:
            storage.totals.know()
            storage.totals.count()
            storage.totals.show(storage.totals.read().unshown)
            if cleans:
                storage.cleanup(storage.clock() - timedelta(seconds=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("cleans", [False, True], ids=["counting", "cleaning up too"])
@pytest.mark.smoke
def test_counters_are_killed(database_url: str, cleans: bool) -> None:
    """Two processes count, killed at any instruction, while runs are reported: nothing is lost, or counted twice."""
    context = multiprocessing.get_context("spawn")
    dice = random.Random(7)  # noqa: S311 - when to kill is no secret
    ever: Counter[tuple[str, str, str]] = Counter()
    with closing(SqlPipelineStorage(database_url)) as storage:
        counters: list[Any] = []
        deadline = time.monotonic() + PATIENCE
        killed = 0
        began: dict[int, float] = {}
        while killed < 8:
            assert time.monotonic() < deadline
            while len(counters) < 2:
                process = context.Process(target=count_for_ever, args=(database_url, dice.choice([1, 3, 500]), cleans))
                process.start()
                counters.append(process)
                # Add the time that the process needs for its imports.
                began[process.pid or 0] = time.monotonic() + dice.uniform(0.8, 2.0)
            execution = build(storage, objects=[1, 2, 3])
            status = dice.choice(FINALS)
            for result in storage.get_task_results(execution.get_run_id()):
                if _report(result, status):
                    ever["shop.Orders", result.get_task_execution().get_pipeline_task(), status.value] += 1
            if _report(execution, status):
                ever["shop.Orders", "", status.value] += 1
            for process in [one for one in counters if time.monotonic() > began[one.pid or 0]]:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                assert process.exitcode == -signal.SIGKILL
                counters.remove(process)
                killed += 1
        for process in counters:
            process.kill()
            process.join()

        assert counts(read(storage)) == dict(ever)
        assert storage.get_pipeline_digest() == whole_digest(storage)
        if not cleans:
            assert storage.get_pipeline_digest()["shop.Orders"].total_runs == sum(
                count for (_, task, _), count in ever.items() if not task
            )


def _report(record: Any, status: Status) -> bool:
    """Whether the record became final by this: a cleanup of another process may have been quicker."""
    reporter = RecordingReporter()
    record.report_status_change(reporter, status, propagate=False)
    return bool(reporter.reports)


def test_times_are_sums_of_integers(on_sqlite: SqlPipelineStorage, clock: ManualClock) -> None:
    """A great many short times add up to what they are."""
    for _ in range(10):
        run(on_sqlite, clock, seconds=0.1)

    assert one(read(on_sqlite), Status.DONE, "load").execution.total == 1_000_000


def test_clocks_that_disagree(storage: SqlPipelineStorage, clock: ManualClock) -> None:
    """A run that ended before it started took no time, in the totals and in the average of the digest."""
    execution = build(storage)
    execution.report_status_change(REPORTER, Status.RUNNING)
    clock.advance(-3)
    execution.report_status_change(REPORTER, Status.DONE)

    total = one(read(storage), Status.DONE)

    assert (total.execution.total, total.execution.counts[0]) == (0, 1)
    assert storage.get_pipeline_digest()["shop.Orders"].average_runtime == timedelta()
    assert storage.get_pipeline_digest() == whole_digest(storage)
    assert isinstance(total.last_completed, datetime)


def test_a_time_makes_no_run_final(storage: SqlPipelineStorage) -> None:
    """A run that was given a time of completion and is not final is in no total; the digest has its time."""
    pending = build(storage)
    pending.set_started(storage.clock())
    pending.set_completed(storage.clock() + timedelta(seconds=1))
    pending.save()

    assert counts(read(storage)) == {}
    assert storage.get_pipeline_digest() == whole_digest(storage)


def test_the_whole_digest_is_the_databases(on_sqlite: SqlPipelineStorage, clock: ManualClock) -> None:
    """What the digest is compared with here counts as SQL does."""
    for status in FINALS:
        run(on_sqlite, clock, status)
    table = schema.pipeline_execution
    with on_sqlite.database.read() as connection:
        failures = connection.execute(select(func.sum(case((table.c.status.in_(FAILED), 1), else_=0)))).scalar_one()

    assert whole_digest(on_sqlite)["shop.Orders"].total_failure == failures == 4
