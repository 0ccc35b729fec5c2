"""Databases with a ready schema: each process migrates one of each engine, and its tests get copies.

A copy takes 4 ms on SQLite, where the migrations take 70, and under 0.2 s on a server. The migrations make every
template, so that a wrong migration still fails each test. ``tests/sql/test_schemas.py`` compares copies with migrated
databases.
"""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine

from otel_storage.sql.storage import SqlPipelineStorage
from tests import services

_kept = ExitStack()
"""The templates of this process that something must be done for at the end."""


def drop_templates() -> None:
    """Drop what the templates of this process occupy; the next copy makes them anew."""
    for template in (_sqlite_template, _sqlite_in_memory, _postgresql_template, _mariadb_template):
        template.cache_clear()
    _kept.close()


def write_sqlite_file(path: Path) -> None:
    """Write a SQLite file that has the schema and no record."""
    path.write_bytes(_sqlite_template())


def fill_memory(engine: Engine) -> None:
    """Put the schema into the empty database in memory that is the engine's one connection."""
    with closing(engine.raw_connection()) as connection:
        driver = connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        _sqlite_in_memory().backup(driver)


@contextmanager
def postgresql_database() -> Iterator[URL]:
    """Create a database that has the schema on the test server, and drop it afterwards."""
    __tracebackhide__ = True
    services.postgresql_server()
    with services.postgresql_database(template=_postgresql_template()) as url:
        yield url


@contextmanager
def mariadb_database() -> Iterator[URL]:
    """Create a database that has the schema on the test server, and drop it afterwards."""
    __tracebackhide__ = True
    services.mariadb_server()
    statements = _mariadb_template()
    with services.mariadb_database() as url:
        with services.mariadb_connection(url) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        yield url


@functools.cache
def _sqlite_template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        _migrate(f"sqlite:///{path}")
        # The last connection that is closed moves the WAL into the file and removes it.
        assert list(Path(folder).iterdir()) == [path]
        return path.read_bytes()


@functools.cache
def _sqlite_in_memory() -> sqlite3.Connection:
    copy = _kept.enter_context(closing(sqlite3.connect(":memory:")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        write_sqlite_file(path)
        with closing(sqlite3.connect(path)) as template:
            template.backup(copy)
    return copy


@functools.cache
def _postgresql_template() -> str:
    # PostgreSQL copies a database only while nobody is connected to it: nobody but _migrate knows its name.
    url = _kept.enter_context(services.postgresql_database())
    _migrate(url)
    assert url.database is not None
    return url.database


@functools.cache
def _mariadb_template() -> list[str]:
    """The statements that make a copy: MariaDB copies no database, and ``CREATE TABLE ... LIKE`` no foreign key."""
    url = _kept.enter_context(services.mariadb_database())
    _migrate(url)
    statements = ["SET foreign_key_checks = 0"]
    with services.mariadb_connection(url) as connection:
        for table in connection.exec_driver_sql("SHOW TABLES").scalars().all():
            statements.append(connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1])
            if connection.exec_driver_sql(f"SELECT 1 FROM {table} LIMIT 1").first() is not None:  # noqa: S608 - its name
                statements.append(f"INSERT INTO {table} SELECT * FROM {url.database}.{table}")  # noqa: S608 - as above
    return statements


def _migrate(url: str | URL) -> None:
    with closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
