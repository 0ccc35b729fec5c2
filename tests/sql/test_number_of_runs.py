"""How many runs there are is told from the totals, and is what a COUNT says, whoever counts and cleans up meanwhile."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, func, select

from otel_storage import OtelPipelineStorage, PipelineTaskStatus, SqlPipelineStorage
from otel_storage.sql.database import schema
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

STATUSES = {
    "never started": [],
    "running": [PipelineTaskStatus.RUNNING],
    "done": [PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE],
    "failed": [PipelineTaskStatus.RUNNING, PipelineTaskStatus.RUNTIME_ERROR],
}


@pytest.fixture
def storage(database_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage on each engine."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        yield storage


def build(storage: SqlPipelineStorage | OtelPipelineStorage, pipeline_id: str = "shop.A") -> None:
    """Build one run in each of the states."""
    for statuses in STATUSES.values():
        run_id = str(uuid.uuid4())
        pipeline = Pipeline(Task("load"), id=pipeline_id)
        storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
        for status in statuses:
            for result in storage.get_task_results(run_id):
                result.report_status_change(RecordingReporter(), status)
            execution = storage.get_pipeline_execution(run_id)
            assert execution is not None
            execution.report_status_change(RecordingReporter(), status)


def counted(storage: SqlPipelineStorage, pipeline_id: str | None) -> int:
    """What a COUNT says."""
    table = schema.pipeline_execution
    condition = [] if pipeline_id is None else [table.c.pipeline_id == pipeline_id]
    with storage.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table).where(*condition)).scalar_one())


def assert_same(storage: SqlPipelineStorage) -> None:
    """The number is that of a COUNT, of all and of each pipeline."""
    for pipeline_id in (None, "shop.A", "shop.B", "shop.C"):
        assert len(storage.get_pipeline_executions(pipeline_id)) == counted(storage, pipeline_id)


@contextmanager
def clock_at(storage: SqlPipelineStorage, moment: datetime) -> Iterator[None]:
    """Runs are built at that moment."""
    before, storage.clock = storage.clock, lambda: moment
    yield
    storage.clock = before


def test_in_every_state_of_counting(storage: SqlPipelineStorage) -> None:
    """Where nobody has counted, where all is counted, some of it, and where runs are removed that are and are not."""
    assert_same(storage)
    long_ago = datetime.now(UTC) - timedelta(days=9)
    with clock_at(storage, long_ago):
        build(storage)
    assert_same(storage)
    storage.totals.count()
    assert_same(storage)
    build(storage, "shop.B")
    assert_same(storage)
    with clock_at(storage, long_ago):
        build(storage)
    assert_same(storage)
    assert len(storage.cleanup(long_ago + timedelta(days=1))) == 8
    assert_same(storage)
    build(storage)
    storage.totals.count()
    storage.totals.count()
    assert_same(storage)
    assert len(storage.get_pipeline_executions()) == 8
    assert len(storage.cleanup()) == 8
    assert_same(storage)


def test_while_others_count_and_clean_up(storage: SqlPipelineStorage) -> None:
    """Counting changes no number, and a clean-up and a build change it by what they remove and add, never by a part."""
    for _ in range(10):
        build(storage)
    storage.totals.count()
    for _ in range(20):
        build(storage)
    ended = threading.Event()
    seen: set[int] = set()

    def look() -> None:
        while not ended.is_set():
            seen.add(len(storage.get_pipeline_executions("shop.A")))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        storage.totals.count()
        while_counted = set(seen)
        removed = storage.cleanup()
    finally:
        ended.set()
        looking.join()
    assert len(removed) == 120
    # Fewer than a chunk of runs goes in one transaction.
    assert while_counted <= {120}
    assert seen <= {120, 0}


def test_one_statement_that_reads_no_run_that_is_counted(storage: SqlPipelineStorage) -> None:
    """The number comes from one statement, which counts all runs only if there are no totals."""
    build(storage)
    statements: list[str] = []

    def execute(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(storage.database.engine, "before_cursor_execute", execute)
    storage.get_pipeline_executions("shop.A").count()
    event.remove(storage.database.engine, "before_cursor_execute", execute)
    [statement] = statements
    assert statement.startswith("SELECT CASE WHEN")
