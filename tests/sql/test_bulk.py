"""Runs of many records, on PostgreSQL: built by a statement a level, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event, make_url

from otel_storage.composite import OtelPipelineStorage
from otel_storage.sql.database import bulk
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.watch.memory import MemoryStorage

OBJECTS: list[Any] = [
    None,
    "",
    "{}",
    '{"a", NULL}',
    "back\\slash",
    "\u20ac \U0001f600",
    "null",
    0,
    1.5,
    True,
    [],
    {"a": [None]},
]
"""What an array's own way of writing could make something else of."""


@pytest.fixture(params=["postgresql+psycopg", "postgresql+psycopg2"])
def storage(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage by each driver."""
    url = make_url(postgresql_url).set(drivername=request.param)
    with closing(SqlPipelineStorage(url)) as storage:
        yield storage


def statements(storage: SqlPipelineStorage, beginning: str) -> list[str]:
    """The statements executed from now on that begin so."""
    executed: list[str] = []

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning):
            executed.append(statement)

    event.listen(storage.database.engine, "before_cursor_execute", execute)
    return executed


def as_stored(objects: list[Any]) -> list[Any]:
    """The objects as the pipeline and the task serialize them."""
    return [None if each is None else {"obj": each} for each in objects]


def build(storage: SqlPipelineStorage, objects: list[Any]) -> list[Any]:
    """Build a run of a task with these objects; returns those of its records, in the order of their ids."""
    pipeline = Pipeline(Task("load", objects=objects), objects=objects)
    storage.build_pipeline_execution(pipeline, "run", Runner(), RecordingReporter(), None)
    [execution] = storage.get_pipeline_executions()
    for pipeline_result in execution.get_pipeline_results():
        [task_execution] = pipeline_result.get_task_executions()
        assert [result.serializable_task_object for result in task_execution.get_task_results()] == as_stored(objects)
    results = list(storage.get_task_results("run"))
    assert {result.created for result in results} == {execution.created}
    assert [result.id for result in results] == sorted(result.id for result in results)
    assert {result.status.value for result in results} == {"PENDING"}
    assert [each.serializable_pipeline_object for each in storage.get_pipeline_results()] == as_stored(objects)
    return [result.serializable_task_object for result in results]


def test_a_statement_a_level(storage: SqlPipelineStorage) -> None:
    """What is stored is what was given, in its order."""
    inserts = statements(storage, "INSERT INTO otel_storage_task_result")
    objects = [*OBJECTS, *range(bulk.FEWEST)]

    assert build(storage, objects) == as_stored(objects) * len(objects)
    [insert] = inserts
    assert "unnest" in insert


@pytest.mark.parametrize("limit", ["_ROWS", "_CHARACTERS"])
def test_in_parts(storage: SqlPipelineStorage, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much is sent in parts: by the number of rows, or by how long they are; one that is too long goes alone."""
    monkeypatch.setattr(bulk, limit, 25)
    inserts = statements(storage, "INSERT INTO otel_storage_task_result")
    objects = [*("x" * 100, "y"), *range(10), *("z" * 100,) * 2, *range(10)]

    assert build(storage, objects) == as_stored(objects) * len(objects)
    assert len(inserts) >= len(objects)


def test_objects_that_are_all_none(storage: SqlPipelineStorage) -> None:
    """A column that has no value in any row."""
    objects = [None] * bulk.FEWEST

    assert build(storage, objects) == as_stored(objects) * len(objects)


def test_copies(postgresql_url: str) -> None:
    """Of another storage's run, the copies of all records, with what they are copies of."""
    objects = list(range(bulk.FEWEST))
    theirs = MemoryStorage()
    telemetry: dict[str, Any] = {"delivery": "external", "capture": ["objects"]}
    with closing(OtelPipelineStorage(theirs, outbox_url=postgresql_url, **telemetry)) as storage:
        pipeline = Pipeline(Task("load", objects=objects), objects=objects)
        storage.build_pipeline_execution(pipeline, "run", Runner(), RecordingReporter(), None)

        copies = list(storage.records.get_task_results("run"))

    assert [copy.source_id for copy in copies] == [result.get_id() for result in theirs.get_task_results("run")]
    assert [copy.serializable_task_object for copy in copies] == as_stored(objects) * len(objects)
