"""What a cleanup removes at once, and what others do meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import update

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.records.levels import SqlPipelineExecution
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.sql.upkeep import cleanup
from otel_storage.testing.clock import START
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.watch.memory import MemoryStorage

DONE, RUNNING = PipelineTaskStatus.DONE, PipelineTaskStatus.RUNNING
REPORTER = RecordingReporter()


@pytest.fixture
def storage(database_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage on each engine."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        yield storage


def build(storage: SqlPipelineStorage, run_id: str, results: int = 1) -> SqlPipelineExecution:
    """A run of one task with so many results."""
    pipeline = Pipeline(Task("load", objects=range(results)))
    return storage.build_pipeline_execution(pipeline, run_id, Runner(), REPORTER, None)


def test_a_transaction_removes_so_many_results(storage: SqlPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go together as long as they have few task results; one that has more goes alone; the oldest go first."""
    monkeypatch.setattr(cleanup, "RESULTS", 5)
    runs = {f"run {number}": results for number, results in enumerate([2, 3, 1, 7, 2, 4])}
    ids = [build(storage, run_id, results).id for run_id, results in runs.items()]

    with storage.database.read() as connection:
        parts = cleanup.oldest(connection, None)

    assert parts == [ids[:2], ids[2:3], ids[3:4], ids[4:5], ids[5:]]
    assert [*storage.cleanup()] == [*runs]
    assert len(storage.get_task_results()) == 0


def test_runs_that_another_removed(storage: SqlPipelineStorage) -> None:
    """Runs that another process removes between the look and the removal are returned by one of both only."""
    ids = [build(storage, f"run {number}").id for number in range(3)]
    now = storage.clock()

    first = storage.database.write(lambda connection: cleanup.remove(connection, ids[:2], now))
    second = storage.database.write(lambda connection: cleanup.remove(connection, ids, now))
    third = storage.database.write(lambda connection: cleanup.remove(connection, ids, now))

    assert [removed for removed, _ in (first, second, third)] == [["run 0", "run 1"], ["run 2"], []]


def test_a_task_that_ends_meanwhile_is_counted(server_url: str) -> None:
    """A cleanup waits for the transaction that ends a task, and counts the task before it removes it."""
    result = schema.task_result
    with closing(SqlPipelineStorage(server_url)) as storage:
        build(storage, "run")
        [task_result] = storage.get_task_results("run")
        task_result.report_status_change(REPORTER, RUNNING)
        removed: list[str] = []
        cleaning = threading.Thread(target=lambda: removed.extend(storage.cleanup()))
        with storage.database.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
            connection.execute(update(result).values(status=DONE, completed=START))
            cleaning.start()
            # Time to come upon the row: without it the cleanup would have nothing to wait for, and the test no say.
            time.sleep(0.5)
            connection.commit()
        cleaning.join()

        assert removed == ["run"]
        counted = {
            (total.pipeline_task, total.status): total.count
            for total in storage.totals.read(as_shown=False).totals
            if total.count
        }
        assert counted == {("load", DONE): 1}


def test_copies_go_in_parts(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies of runs that are removed go in transactions of so many task results."""
    monkeypatch.setattr(cleanup, "RESULTS", 3)
    with closing(OtelPipelineStorage(MemoryStorage(), outbox_url=database_url, delivery="external")) as storage:
        for number in range(4):
            pipeline = Pipeline(Task("load", objects=range(2)))
            storage.build_pipeline_execution(pipeline, f"run {number}", Runner(), REPORTER, None)
        with storage.records.database.read() as connection:
            parts = cleanup.copies(connection, [f"run {number}" for number in range(1, 4)])
        assert len(parts) == 3

        storage.cleanup()

        assert len(storage.records.get_pipeline_executions()) == 0
