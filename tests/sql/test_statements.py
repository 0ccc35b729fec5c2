"""What a call costs in statements, whatever the size of the run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE


@pytest.fixture
def storage(database_url: str) -> Iterator[OtelPipelineStorage]:
    """A storage with telemetry that sends nothing by itself."""
    with closing(OtelPipelineStorage(url=database_url, delivery="external")) as storage:
        storage.records.upgrade()
        yield storage


@contextmanager
def counted(storage: OtelPipelineStorage) -> Iterator[list[str]]:
    """The statements that are executed meanwhile, and COMMIT for each transaction that is."""
    statements: list[str] = []
    engine = storage.records.database.engine

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    def commit(_connection: Any) -> None:
        statements.append("COMMIT")

    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "commit", commit)
    yield statements
    event.remove(engine, "before_cursor_execute", execute)
    event.remove(engine, "commit", commit)


def test_building_is_one_transaction_of_any_size(storage: OtelPipelineStorage) -> None:
    """A run of one task result and one of five thousand take the same statements, and one commit."""
    costs = []
    for per_task, per_pipeline in ((1, 1), (50, 10)):
        pipeline = Pipeline(*(Task(f"t{n}", objects=range(per_task)) for n in range(10)), objects=range(per_pipeline))
        with counted(storage) as statements:
            storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), RecordingReporter(), {})
        assert statements.count("COMMIT") == 1
        costs.append([statement.split(" VALUES")[0] for statement in statements])
    assert costs[0] == costs[1]
    assert len([statement for statement in costs[0] if statement.startswith("INSERT")]) == 5


def test_a_parent_that_is_known_to_run_costs_nothing(storage: OtelPipelineStorage) -> None:
    """RUNNING of a second task result is one UPDATE: its parents are known to be RUNNING already."""
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(Task("load", objects=range(2)))
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    first, second = storage.get_task_results(run_id)
    with counted(storage) as statements:
        first.report_status_change(RecordingReporter(), RUNNING)
    assert [statement.split(" SET")[0] for statement in statements] == [
        "UPDATE otel_storage_pipeline_execution",
        "UPDATE otel_storage_pipeline_result",
        "UPDATE otel_storage_task_execution",
        "UPDATE otel_storage_task_result",
        "COMMIT",
    ]
    with counted(storage) as statements:
        second.report_status_change(RecordingReporter(), RUNNING)
    assert [statement.split(" SET")[0] for statement in statements] == ["UPDATE otel_storage_task_result", "COMMIT"]
    with counted(storage) as statements:
        second.report_status_change(RecordingReporter(), RUNNING)
        first.get_task_execution().report_status_change(RecordingReporter(), RUNNING)
    assert statements == []


def test_a_final_state_and_its_reference_are_one_transaction(storage: OtelPipelineStorage) -> None:
    """DONE of a task result is its UPDATE and the reference for its span, committed together."""
    run_id = str(uuid.uuid4())
    storage.build_pipeline_execution(Pipeline(Task("load")), run_id, Runner(), RecordingReporter(), {})
    [result] = storage.get_task_results(run_id)
    result.report_status_change(RecordingReporter(), RUNNING)
    with counted(storage) as statements:
        result.report_status_change(RecordingReporter(), DONE, propagate=False)
    assert [statement.split(" (")[0].split(" SET")[0] for statement in statements] == [
        "UPDATE otel_storage_task_result",
        "INSERT INTO otel_storage_outbox",
        "COMMIT",
    ]


def test_a_look_up_is_one_query(storage: OtelPipelineStorage) -> None:
    """A task result and all above it are read at once; a listing takes a query per level."""
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(Task("load", objects=range(20)), objects=range(20))
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    with counted(storage) as statements:
        result = storage.get_task_result(7)
        assert result is not None
        assert result.get_run_id() == run_id
        assert result.get_task_execution().get_pipeline_result().get_pipeline_execution().get_input_data() == {}
    assert len(statements) == 1
    with counted(storage) as statements:
        assert len(list(storage.get_task_results(run_id))) == 400
    assert len(statements) == 4
