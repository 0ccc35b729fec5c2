"""Runs found by the start of their id: on each engine, by its index, and with no character that stands for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task


@pytest.fixture
def storage(database_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage on each engine."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        yield storage


def build(storage: SqlPipelineStorage, *run_ids: str) -> None:
    """A run of each id."""
    for run_id in run_ids:
        storage.build_pipeline_execution(Pipeline(Task("load")), run_id, Runner(), RecordingReporter(), None)


@pytest.mark.parametrize(
    ("start", "found"),
    [
        ("ab", ["abc", "ab"]),
        ("abc", ["abc"]),
        ("AB", ["ABc"]),
        ("a", ["a\U0001f680", "azz", "aé", "a-b", "a_b", "a%b", "abc", "ab"]),
        ("a%", ["a%b"]),
        ("a_", ["a_b"]),
        ("a-", ["a-b"]),
        ("%", []),
        ("_", []),
        ("\\", ["\\x"]),
        ("/", ["/y"]),
        ("aé", ["aé"]),
        ("a\U0001f680", ["a\U0001f680"]),
        ("", []),
        ("\x00", []),
        ("a" * 300, []),
    ],
)
def test_starts(start: str, found: list[str], storage: SqlPipelineStorage) -> None:
    """A start matches the ids that begin with just it, newest first."""
    build(storage, "ab", "abc", "ABc", "a%b", "a_b", "a-b", "aé", "azz", "\\x", "/y", "b", "a\U0001f680")

    assert [run.run_id for run in storage.runs_starting([start], limit=20)] == found


def test_several_starts_and_a_limit(storage: SqlPipelineStorage) -> None:
    """An id that begins with any of the texts matches, once, and no more are read than are asked for."""
    build(storage, "ab-1", "ab1", "b", "ab2")

    assert [run.run_id for run in storage.runs_starting(["ab1", "ab-1", "ab"], limit=9)] == ["ab2", "ab1", "ab-1"]
    assert len(storage.runs_starting(["ab"], limit=2)) == 2
    assert storage.runs_starting([], limit=2) == []


def test_by_index(storage: SqlPipelineStorage) -> None:
    """The start is looked up in the index of the ids; the table is read for the runs that were found alone."""
    build(storage, *(f"{number:03}" for number in range(300)))
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(storage.database.engine, "before_cursor_execute", note)
    storage.runs_starting(["12"], limit=6)
    event.remove(storage.database.engine, "before_cursor_execute", note)
    [(statement, parameters)] = [each for each in statements if "input_data" in each[0]]
    with storage.database.read() as connection:
        if storage.database.dialect == "postgresql":
            # The planner reads a table this small whole if it may.
            connection.exec_driver_sql("SET enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if storage.database.dialect == "sqlite" else "EXPLAIN"
        plan = "\n".join(map(str, connection.exec_driver_sql(f"{explain} {statement}", parameters)))

    read = {
        "sqlite": "USING COVERING INDEX sqlite_autoindex_otel_storage_pipeline_execution_1 (run_id>? AND run_id<?)",
        "postgresql": "Index Only Scan using uq_otel_storage_pipeline_execution_run_id",
        "mariadb": "'range', 'uq_otel_storage_pipeline_execution_run_id'",
    }[storage.database.dialect if storage.database.dialect in ("sqlite", "postgresql") else "mariadb"]
    assert read in plan
