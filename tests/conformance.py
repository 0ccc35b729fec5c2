"""Our storages on each SQL engine; a test file says which rules, and by ``open_storage`` which storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import pytest
from sqlalchemy import URL, Connection, Engine, Table, create_engine, delete, func, select

from otel_storage.composite import OtelPipelineStorage
from otel_storage.sql.database import schema
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.sql.upkeep.closing import Closing
from otel_storage.sql.upkeep.reaping import find_dead
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance.fixtures import Extras
from otel_storage.testing.pipelines import RecordingReporter
from tests import schemas

ClosableStorage = SqlPipelineStorage | OtelPipelineStorage


def extras_of(storage: ClosableStorage, clock: ManualClock) -> Extras:
    """What our storages have beyond the contract: an outbox where there is telemetry, ``reap --force``, counting."""
    has_outbox = isinstance(storage, OtelPipelineStorage)
    records = storage.records if isinstance(storage, OtelPipelineStorage) else storage
    return Extras(
        references=partial(_references, records) if has_outbox else None,
        close_running=partial(_close_running, records, clock),
        upkeep=(records.totals.count,),
    )


def _references(records: SqlPipelineStorage) -> list[tuple[str, Any, bool]]:
    outbox = schema.outbox.c
    with records.database.read() as connection:
        rows = connection.execute(select(outbox.kind, outbox.record_id, outbox.due)).all()
    return [(kind, record_id, due is not None) for kind, record_id, due in rows]


def _close_running(records: SqlPipelineStorage, clock: ManualClock, reporter: RecordingReporter) -> None:
    closing_them = Closing(records, None, reporter)
    for dead in find_dead(records.database, clock() + timedelta(seconds=1)):
        assert closing_them.close(dead).name == "closed"


class OnSql:
    """A storage on ``url``."""

    def open_storage(self, url: str, clock: ManualClock) -> ClosableStorage:
        """A storage on the database."""
        raise NotImplementedError

    @pytest.fixture
    def url(self) -> str:
        """URL of a database without a record."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> ManualClock:
        """A clock that stands still until a test moves it."""
        return ManualClock()

    @pytest.fixture
    def storage(self, url: str, clock: ManualClock) -> Iterator[ClosableStorage]:
        """A storage on a database without a record."""
        with closing(self.open_storage(url, clock)) as storage:
            yield storage

    @pytest.fixture
    def extras(self, storage: ClosableStorage, clock: ManualClock) -> Extras:
        """An outbox, where there is telemetry; a way to close what is RUNNING; counting."""
        return extras_of(storage, clock)


class OnSharedSql(OnSql):
    """On a database that a second storage can open too."""

    @pytest.fixture
    def other_storage(self, url: str, clock: ManualClock, storage: ClosableStorage) -> Iterator[ClosableStorage]:
        """A second storage with connections of its own, as another process has it."""
        with closing(self.open_storage(url, clock)) as other:
            yield other


class OnSqliteFile(OnSharedSql):
    """On a SQLite file."""

    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        """A file that has the schema."""
        return sqlite_url


class OnSqliteMemory(OnSql):
    """On SQLite in memory: one connection, which nobody else can have."""

    @pytest.fixture
    def url(self) -> str:
        """A database in memory."""
        return "sqlite://"

    @pytest.fixture
    def storage(self, url: str, clock: ManualClock) -> Iterator[ClosableStorage]:
        """A storage whose database, which begins with its connection, has the schema."""
        with closing(self.open_storage(url, clock)) as storage:
            records = storage.records if isinstance(storage, OtelPipelineStorage) else storage
            schemas.fill_memory(records.database.engine)
            yield storage


class OnServer(OnSharedSql):
    """On a server: one database for all tests of the class, emptied before each."""

    _databases: ClassVar[ExitStack]
    _engine: ClassVar[Engine]

    @classmethod
    def create_database(cls) -> AbstractContextManager[URL]:
        """A database that has the schema, dropped at the end."""
        raise NotImplementedError

    def restart_ids(self, connection: Connection, table: Table) -> None:
        """Let the next record of the empty table have the id 1."""
        raise NotImplementedError

    @classmethod
    def setup_class(cls) -> None:
        """Create the database; skip the class where there is no server."""
        cls._databases = ExitStack()
        # Share one engine between all tests: connecting takes as long as a test.
        cls._engine = create_engine(cls._databases.enter_context(cls.create_database()))
        cls._databases.callback(cls._engine.dispose)

    @classmethod
    def teardown_class(cls) -> None:
        """Drop the database."""
        cls._databases.close()

    @pytest.fixture
    def url(self) -> str:
        """The database, without a record and with ids that begin at 1."""
        with self._engine.begin() as connection:
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(delete(table))
            for table in schema.LEVELS.values():
                self.restart_ids(connection, table)
        return self._engine.url.render_as_string(hide_password=False)


class OnPostgresql(OnServer):
    """On PostgreSQL."""

    @classmethod
    def create_database(cls) -> AbstractContextManager[URL]:
        """A database that has the schema, dropped at the end."""
        return schemas.postgresql_database()

    def restart_ids(self, connection: Connection, table: Table) -> None:
        """Set the sequence back."""
        connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), 1, False)))


class OnMariadb(OnServer):
    """On MariaDB."""

    @classmethod
    def create_database(cls) -> AbstractContextManager[URL]:
        """A database that has the schema, dropped at the end."""
        return schemas.mariadb_database()

    def restart_ids(self, connection: Connection, table: Table) -> None:
        """Set the counter back."""
        connection.exec_driver_sql(f"ALTER TABLE {table.name} AUTO_INCREMENT = 1")
