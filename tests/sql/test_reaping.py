"""Which records are taken for dead, and how they are closed; the processes that had them are real, and killed."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.database import schema
from otel_storage.sql.upkeep import reaping
from otel_storage.sql.upkeep.closing import Closing, Outcome
from otel_storage.sql.upkeep.reaping import DeadRecord, find_dead
from otel_storage.testing.clock import START, ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.processes import die_after
from tests.sql import racers

eager = pytest.importorskip("pipelines.runners.eager", reason="django-pipelines is not installed")


@pytest.fixture
def clock() -> ManualClock:
    """The storage's clock."""
    return ManualClock()


@pytest.fixture
def storage(database_url: str, clock: ManualClock) -> Iterator[OtelPipelineStorage]:
    """A storage with telemetry that sends nothing by itself."""
    with closing(OtelPipelineStorage(url=database_url, delivery="external", clock=clock)) as storage:
        yield storage


def build(storage: OtelPipelineStorage, runner: object = None, objects: Any = None) -> str:
    """A run of two tasks, the second with three objects; its id."""
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(Task("extract"), Task("load", objects=["a", "b", "c"]), objects=objects)
    storage.build_pipeline_execution(pipeline, run_id, runner or Runner(), RecordingReporter(), {})
    return run_id


def run(storage: OtelPipelineStorage, run_id: str, *places: int, done: Sequence[int] = ()) -> None:
    """Report those of the run's task results DONE whose places are in ``done``, and then the others RUNNING."""
    results = list(storage.get_task_results(run_id))
    for place in (*done, *places):
        results[place].report_status_change(RecordingReporter(), Status.RUNNING)
        if place in done:
            results[place].report_status_change(RecordingReporter(), Status.DONE, propagate=False)


def run_all(storage: OtelPipelineStorage, run_ids: Sequence[str], *places: int) -> None:
    """Report the task results at those places of all the runs RUNNING."""
    for run_id in run_ids:
        run(storage, run_id, *places)


def found(storage: OtelPipelineStorage, unchanged_since: Any = None) -> list[tuple[str, int]]:
    """Kind and id of the records that are taken for dead."""
    return [(dead.kind, dead.record_id) for dead in find_dead(storage.records.database, unchanged_since)]


def close_all(storage: OtelPipelineStorage, unchanged_since: Any = None, reporter: Any = None) -> list[Outcome]:
    """Close what is taken for dead."""
    closer = Closing(storage.records, None, reporter)
    return [closer.close(dead) for dead in find_dead(storage.records.database, unchanged_since)]


def states(storage: OtelPipelineStorage, run_id: str) -> dict[str, list[str]]:
    """The statuses of the run's records, by kind."""
    execution = storage.get_pipeline_execution(run_id)
    assert execution is not None
    return {
        "execution": [execution.get_status().value],
        "results": [record.get_status().value for record in storage.get_pipeline_results(run_id)],
        "tasks": [record.get_status().value for record in storage.get_task_executions(run_id)],
        "task results": [record.get_status().value for record in storage.get_task_results(run_id)],
    }


def test_only_what_a_killed_process_ran_is_dead(storage: OtelPipelineStorage) -> None:
    """A task result of a living process is left alone, and its parents are not taken for dead while it runs."""
    run_id = build(storage)
    pid = die_after(lambda: run(storage, run_id, 1, 2, done=[0]))
    run(storage, run_id, 3)

    dead = list(find_dead(storage.records.database))

    assert [(each.kind, each.record_id) for each in dead] == [("TaskResult", 2), ("TaskResult", 3)]
    assert [each.worker.pid for each in dead if each.worker] == [pid, pid]
    assert dead[0].pipeline_task == "load"


def test_closing_is_a_failure(storage: OtelPipelineStorage) -> None:
    """What is closed fails as its own process would have failed it: parents first, with the reason, told once."""
    run_id = build(storage)
    pid = die_after(lambda: run(storage, run_id, 1, 2))
    reporter = RecordingReporter()

    outcomes = close_all(storage, reporter=reporter)

    assert [outcome.name for outcome in outcomes] == ["closed", "closed"]
    told = [(report.kind, report.id) for report in reporter.reports]
    assert told == [
        ("PipelineExecution", 1),
        ("PipelineResult", 1),
        ("TaskExecution", 2),
        ("TaskResult", 2),
        ("TaskResult", 3),
    ]
    record = storage.get_task_result(2)
    assert record is not None
    message = record.get_status_message()
    assert message.startswith(f"reaped: process {pid} on ")
    assert message.endswith(", which ran it since 2024-02-29 12:00:00 UTC, is gone")
    assert reporter.reports[-1].message == f"Changed state to RUNTIME_ERROR - {message}"
    assert states(storage, run_id) == {
        "execution": ["RUNTIME_ERROR"],
        "results": ["RUNTIME_ERROR"],
        "tasks": ["PENDING", "RUNTIME_ERROR"],
        "task results": ["PENDING", "RUNTIME_ERROR", "RUNTIME_ERROR", "PENDING"],
    }
    assert found(storage) == []
    assert storage.records.outbox.status().due == 3


def test_who_is_final_first_wins(storage: OtelPipelineStorage) -> None:
    """A record that its worker, which was not dead after all, finishes meanwhile is left alone, and its parents."""
    run_id = build(storage)
    die_after(lambda: run(storage, run_id, 1))
    [dead] = find_dead(storage.records.database)
    [_, result, *_] = storage.get_task_results(run_id)
    result.report_status_change(RecordingReporter(), Status.DONE, "just in time", propagate=False)
    reporter = RecordingReporter()

    outcome = Closing(storage.records, None, reporter).close(dead)

    assert (outcome.name, reporter.reports) == ("final", [])
    assert states(storage, run_id)["execution"] == ["RUNNING"]


def test_the_worker_comes_too_late(storage: OtelPipelineStorage) -> None:
    """What its worker reports of a record that was closed is ignored: there is one winner."""
    run_id = build(storage)
    die_after(lambda: run(storage, run_id, 1))
    [_, result, *_] = storage.get_task_results(run_id)
    close_all(storage)

    result.report_status_change(RecordingReporter(), Status.DONE, "late", propagate=False)

    assert result.get_status() is Status.RUNTIME_ERROR
    assert result.get_status_message().startswith("reaped: ")


@pytest.mark.slow
def test_race_with_the_worker(storage: OtelPipelineStorage, database_url: str) -> None:
    """Reaped while a process that was taken for dead reports DONE, each task result has one winner of the two."""
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(Task("load", objects=range(20)))
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    die_after(lambda: run(storage, run_id, *range(20)))

    done, closed = racers.race(racers.finish_late, racers.close_dead, arguments=(database_url, run_id))

    winners = {report.id: report.status for report in [*done, *closed]}
    assert len(winners) == len(done) + len(closed) == 20
    assert {record.get_id(): record.get_status() for record in storage.get_task_results(run_id)} == winners
    assert Counter(row.kind for row in _references(storage)) == {"TaskResult": 20, "PipelineExecution": 1}


def _references(storage: OtelPipelineStorage) -> list[Any]:
    with storage.records.database.read() as connection:
        return list(connection.execute(select(schema.outbox)))


def test_removed_record(storage: OtelPipelineStorage) -> None:
    """A run that a cleanup removes meanwhile is no failure."""
    run_id = build(storage)
    die_after(lambda: run(storage, run_id, 1))
    [dead] = find_dead(storage.records.database)
    storage.cleanup()

    assert Closing(storage.records, None, None).close(dead) == Outcome("final")


def test_killed_in_a_task_of_the_eager_runner(storage: OtelPipelineStorage) -> None:
    """The task result is found, and fails the records above it; those of its run are found no more."""
    run_id = build(storage, eager.Runner())
    die_after(lambda: run(storage, run_id, 1, done=[0]))

    assert found(storage) == [("TaskResult", 2)]
    assert [outcome.name for outcome in close_all(storage)] == ["closed"]
    assert states(storage, run_id)["execution"] == ["RUNTIME_ERROR"]
    # All of it is DONE, so it counts as DONE: the eager runner never says so.
    assert states(storage, run_id)["tasks"] == ["RUNNING", "RUNTIME_ERROR"]


def test_killed_between_tasks_of_the_eager_runner(storage: OtelPipelineStorage) -> None:
    """With no task result RUNNING the lowest record that is not final is found: its failure is that of the run."""
    between_tasks, between_results = build(storage, eager.Runner()), build(storage, eager.Runner(), objects=["n", "s"])
    die_after(lambda: run(storage, between_tasks, done=[0]))
    die_after(lambda: run(storage, between_results, done=[0, 1]))

    assert found(storage) == [("PipelineResult", 1), ("TaskExecution", 4)]
    close_all(storage)
    assert states(storage, between_tasks) == {
        "execution": ["RUNTIME_ERROR"],
        "results": ["RUNTIME_ERROR"],
        "tasks": ["RUNNING", "PENDING"],
        "task results": ["DONE", "PENDING", "PENDING", "PENDING"],
    }
    assert states(storage, between_results)["results"] == ["RUNTIME_ERROR", "PENDING"]
    assert states(storage, between_results)["execution"] == ["RUNTIME_ERROR"]
    assert found(storage) == []


def test_run_that_is_done_but_for_its_last_report(storage: OtelPipelineStorage) -> None:
    """Killed when only the execution was left to be reported, it is the execution that is found."""
    run_id = build(storage, eager.Runner())

    def finish_all_but_the_run() -> None:
        run(storage, run_id, done=[0, 1, 2, 3])
        storage.get_pipeline_results(run_id)[0].report_status_change(RecordingReporter(), Status.DONE, propagate=False)

    die_after(finish_all_but_the_run)

    assert found(storage) == [("PipelineExecution", 1)]


def test_finished_eager_runs_are_not_dead(storage: OtelPipelineStorage) -> None:
    """The eager runner leaves successful task executions RUNNING; they count as DONE, and are not found."""
    run_id = build(storage, eager.Runner())

    def finish() -> None:
        run(storage, run_id, done=[0, 1, 2, 3])
        storage.get_pipeline_results(run_id)[0].report_status_change(RecordingReporter(), Status.DONE)

    die_after(finish)

    assert states(storage, run_id)["tasks"] == ["RUNNING", "RUNNING"]
    assert found(storage) == []


def test_eager_run_with_a_task_in_a_living_process(storage: OtelPipelineStorage) -> None:
    """Nothing above is taken for dead while a task of the run goes on elsewhere, whoever ran the rest."""
    run_id = build(storage, eager.Runner())
    die_after(lambda: run(storage, run_id, done=[0]))
    run(storage, run_id, 1)

    assert found(storage) == []


def test_parents_of_other_runners(storage: OtelPipelineStorage) -> None:
    """A Celery child that leaves between two tasks is no sign that its run does not go on."""
    run_id = build(storage)
    die_after(lambda: run(storage, run_id, done=[0]))

    assert states(storage, run_id)["execution"] == ["RUNNING"]
    assert found(storage) == []


def test_other_hosts_are_not_asked(storage: OtelPipelineStorage) -> None:
    """A task result of another host may still run, so its parents count as alive too."""
    run_id = build(storage, eager.Runner())
    die_after(lambda: run(storage, run_id, 1))
    with storage.records.database.engine.begin() as connection:
        connection.execute(text("UPDATE otel_storage_task_result SET worker_host = 'elsewhere' WHERE id = 2"))

    assert found(storage) == []


def test_by_age(storage: OtelPipelineStorage, clock: ManualClock) -> None:
    """What has been RUNNING for longer is dead, by any process and any runner, if its run has not changed since."""
    old, busy, young = build(storage), build(storage), build(storage)
    run(storage, old, 1, done=[0])
    run(storage, busy, 1)
    clock.advance(3600)
    run(storage, busy, 2)
    run(storage, young, 1)

    since = START + timedelta(minutes=30)
    assert found(storage, START) == []
    assert found(storage, since) == [("TaskResult", 2)]

    assert [outcome.name for outcome in close_all(storage, since)] == ["closed"]
    assert states(storage, old)["execution"] == ["RUNTIME_ERROR"]
    assert states(storage, busy)["task results"] == ["PENDING", "RUNNING", "RUNNING", "PENDING"]
    record = storage.get_task_result(2)
    assert record is not None
    assert record.get_status_message().endswith(
        " ran it since 2024-02-29 12:00:00 UTC, and its run has not changed since 2024-02-29 12:00:00 UTC"
    )


def test_parents_by_age(storage: OtelPipelineStorage, clock: ManualClock) -> None:
    """A run of Celery's that stopped between two tasks is found by its age."""
    run_id = build(storage)
    run(storage, run_id, done=[0, 1])
    clock.advance(3600)

    assert found(storage, clock()) == [("TaskExecution", 2)]
    close_all(storage, clock())
    assert states(storage, run_id)["execution"] == ["RUNTIME_ERROR"]
    assert found(storage, clock()) == []


def test_very_many(storage: OtelPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are read in parts, and each is found once, whether listed or closed one by one."""
    monkeypatch.setattr(reaping, "_PAGE", 2)
    monkeypatch.setattr(reaping, "_RUNS", 2)
    runs = [build(storage) for _ in range(7)]
    die_after(lambda: run_all(storage, runs, 1, 2, 3))

    dead = found(storage)

    assert len(dead) == len(set(dead)) == 21
    assert [outcome.name for outcome in close_all(storage)] == ["closed"] * 21
    assert found(storage) == []


def test_search_uses_indexes(storage: OtelPipelineStorage) -> None:
    """What is RUNNING is found without reading what is not, on each engine."""
    database = storage.records.database
    plans = []
    with database.engine.connect() as connection:
        if database.dialect == "postgresql":
            # The tables are empty: reading all of one would cost nothing.
            connection.execute(text("SET enable_seqscan = off"))
        for statement in _statements(storage):
            prefix = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
            rows = connection.exec_driver_sql(f"{prefix} {statement}").all()
            plans.append(" ".join(str(value) for row in rows for value in row))

    assert "ix_otel_storage_pipeline_execution_status_id" in plans[0]
    assert "ix_otel_storage_pipeline_result_running" in plans[1]
    assert "ix_otel_storage_task_result_running" in plans[2]
    assert "ix_otel_storage_task_result_running" in plans[3]
    assert not [plan for plan in plans if "SCAN" in plan.upper().replace("INDEX SCAN", "").replace("BITMAP", "")]


def _statements(storage: OtelPipelineStorage) -> list[str]:
    """The queries that look for what is RUNNING, with their parameters written out."""
    engine = storage.records.database.engine
    seen: list[str] = []

    def compile_(_connection: Any, clause: Any, *_: Any) -> None:
        # The state is part of the statement itself: with a parameter in its place no index of a part is used.
        if "'RUNNING'" in str(clause):
            seen.append(str(clause.compile(engine, compile_kwargs={"literal_binds": True})))

    run_id = build(storage)
    die_after(lambda: run(storage, run_id, 1))
    event.listen(engine, "before_execute", compile_)
    list(find_dead(storage.records.database))
    event.remove(engine, "before_execute", compile_)
    return seen[:4]


def test_dead_record_of_an_unknown_process() -> None:
    """The reason of one whose process was not stored says so."""
    dead = DeadRecord(
        kind="TaskResult",
        row_id=1,
        source_id=None,
        run_id="run",
        pipeline_id="tests.Orders",
        pipeline_task="extract",
        started=START,
        worker=None,
        run_changed=START,
    )
    assert dead.reason.startswith("a process that is not known ran it since 2024-02-29 12:00:00 UTC")
