"""Statements that are compiled once for an engine."""

from __future__ import annotations

import gc
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, literal_column, select, update

from otel_storage import PipelineTaskStatus
from otel_storage.results.exceptions import InvalidInput
from otel_storage.results.kinds import TASK_RESULT
from otel_storage.sql.database import schema
from otel_storage.sql.database.prepared import Prepared, _Text, parameter, prepared_insert
from otel_storage.sql.database.types import Status, UtcDateTime
from otel_storage.sql.outbox import settling, transitions
from otel_storage.sql.storage import SqlPipelineStorage

table = Table(
    "record", MetaData(), Column("id", Integer, primary_key=True), Column("status", Status), Column("at", UtcDateTime)
)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
INSERT = prepared_insert(table, ("id", "status", "at"))
FINISH = Prepared(
    update(table)
    .where(table.c.id == parameter(table.c.id, "record_id"))
    .values(status=literal_column("'DONE'"), at=parameter(table.c.at, "now"))
)


def rows(connection: Connection) -> list[tuple[int, PipelineTaskStatus, datetime | None]]:
    """What is stored, as SQLAlchemy reads it."""
    return [(row.id, row.status, row.at) for row in connection.execute(select(table).order_by(table.c.id))]


@pytest.mark.parametrize("paramstyle", ["named", "qmark"])
def test_values_are_stored_as_sqlalchemy_stores_them(tmp_path: Path, paramstyle: Any) -> None:
    """For one row or many, parameters are converted by their columns' types, whoever executes the statement."""
    engine = create_engine(f"sqlite:///{tmp_path / 'runs.db'}", paramstyle=paramstyle)
    with engine.begin() as connection:
        table.create(connection)
        later = NOON.replace(hour=13)
        INSERT.execute(connection, {"id": 1, "status": PipelineTaskStatus.PENDING, "at": NOON})
        INSERT.execute_many(
            connection,
            [
                {"id": 2, "status": PipelineTaskStatus.RUNNING, "at": NOON},
                {"id": 3, "status": PipelineTaskStatus.RUNNING, "at": later},
                {"id": 4, "status": PipelineTaskStatus.PENDING, "at": None},
            ],
        )
        assert FINISH.execute(connection, {"record_id": 1, "now": later}).rowcount == 1
        assert FINISH.execute(connection, {"record_id": 9, "now": later}).rowcount == 0
        assert rows(connection) == [
            (1, PipelineTaskStatus.DONE, later),
            (2, PipelineTaskStatus.RUNNING, NOON),
            (3, PipelineTaskStatus.RUNNING, later),
            (4, PipelineTaskStatus.PENDING, None),
        ]
    engine.dispose()


def test_what_a_type_refuses_is_refused(tmp_path: Path) -> None:
    """A naive time does not reach the database."""
    engine = create_engine(f"sqlite:///{tmp_path / 'runs.db'}", paramstyle="named")
    with engine.begin() as connection:
        table.create(connection)
        values = {"id": 1, "status": PipelineTaskStatus.PENDING, "at": NOON.replace(tzinfo=None)}
        with pytest.raises(InvalidInput, match="no time zone"):
            INSERT.execute(connection, values)
    engine.dispose()


def test_our_statements_go_to_the_driver_as_they_are(empty_sqlite_url: str) -> None:
    """SQLAlchemy takes no part in a change of state, on our own engines: none of the statements has a constant."""
    prepared = [
        transitions._prepared_update(TASK_RESULT, PipelineTaskStatus.RUNNING, False),
        transitions._prepared_update(TASK_RESULT, PipelineTaskStatus.DONE, False),
        transitions._INSERT_REFERENCE,
        transitions._MAKE_DUE,
        settling._storing(schema.task_execution),
        prepared_insert(schema.task_result, ("status", "created")),
    ]
    with closing(SqlPipelineStorage(empty_sqlite_url)) as storage, storage.database.read() as connection:
        assert all(one._text(connection).is_for_driver for one in prepared)
    on_postgresql = transitions._prepared_update(TASK_RESULT, PipelineTaskStatus.DONE, True)
    assert _Text(
        on_postgresql._statement, on_postgresql._types, create_engine("postgresql+psycopg://").dialect
    ).is_for_driver


def test_tables_in_another_schema(tmp_path: Path) -> None:
    """An engine of the user's that keeps the tables in a schema of its own is followed there."""
    engine = create_engine(f"sqlite:///{tmp_path / 'runs.db'}", execution_options={"schema_translate_map": {None: "b"}})
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'other.db'}' AS b")
        table.create(connection)
        INSERT.execute_many(connection, [{"id": 1, "status": PipelineTaskStatus.PENDING, "at": NOON}])
        FINISH.execute(connection, {"record_id": 1, "now": NOON})
        assert connection.exec_driver_sql("SELECT id, status FROM b.record").all() == [(1, "DONE")]
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite://", "postgresql+psycopg://"])
def test_an_engine_that_is_gone_leaves_nothing(url: str) -> None:
    """Its texts go with it."""
    gc.collect()
    before = sum(type(thing) is _Text for thing in gc.get_objects())
    engine = create_engine(url)
    FINISH._texts[engine] = _Text(FINISH._statement, {}, engine.dialect)
    assert sum(type(thing) is _Text for thing in gc.get_objects()) == before + 1

    del engine
    gc.collect()

    assert sum(type(thing) is _Text for thing in gc.get_objects()) == before
