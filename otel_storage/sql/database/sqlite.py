"""SQLite: one writer at a time, who takes the write lock when the transaction begins; times are stored as text."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    Insert,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    event,
    func,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeEngine, UserDefinedType

from otel_storage.sql.database.among import IDS
from otel_storage.sql.database.policy import Policy, Result, Use, Work, begins_by_code_points, set_ids
from otel_storage.sql.database.urls import is_memory
from otel_storage.sql.database.values import aware, dump_json

BUSY_TIMEOUT = 30.0
"""Seconds that a connection waits for another's write transaction."""

_MENDS = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    # Exceeding a quota or a file size limit raises these errors too.
    sqlite3.SQLITE_IOERR: "check its disk, and the room, the quota and the limit on the size of files there",
}
"""What to do, by primary result code."""

_NOT_WRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


class SqlitePolicy(Policy):
    """How a SQLite database is used."""

    names = ("sqlite",)
    is_server = False
    upgrades_itself = True

    def engine_options(self, url: URL, patience: float | None) -> dict[str, Any]:
        """Connections that any thread may use, and named parameters."""
        options: dict[str, Any] = {
            "connect_args": {"timeout": patience or BUSY_TIMEOUT, "check_same_thread": False},
            # Named as with the other drivers, so that prepared statements need no order of their parameters.
            "paramstyle": "named",
        }
        if is_memory(url):
            # A database in memory lives in its only connection, which threads use by turns.
            options.update(poolclass=QueuePool, pool_size=1, max_overflow=0)
        return options

    def configure(self, engine: Engine, *, durable: bool, patience: float | None) -> None:
        """Set each connection up."""
        timeout = patience or BUSY_TIMEOUT

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: object) -> None:
            # Do not let the driver begin transactions: it would take the write lock too late.
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
            _switch_to_wal(cursor, timeout)
            cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.close()

    def commits_each(self, url: URL) -> bool:
        """A statement is a transaction by itself."""
        return True

    def must_be_asked(self, use: Use, *, is_tried: bool) -> bool:
        """No file closes a connection, so there is nothing to ping."""
        return False

    def transact(self, connection: Connection, work: Work[Result], use: Use, *, is_one_statement: bool) -> Result:
        """Take the write lock first: a read lock cannot always be upgraded."""
        if is_one_statement and use.commits_each:
            return work(connection)
        with connection.begin():
            if use.commits_each or not _begins(connection):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql("DELETE FROM otel_storage_outbox WHERE 1 = 0")
            return work(connection)

    def migrate(self, connection: Connection, work: Work[Result], use: Use) -> Result:
        """Take the write lock; if the driver begins transactions, the first writing statement takes it."""
        with connection.begin():
            if use.commits_each or not _begins(connection):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return work(connection)

    def rest(self, seconds: float) -> None:
        """Leave the lock free for as long again, because other writers only poll for it."""
        time.sleep(seconds)

    def forbids_writing(self, error: BaseException | None) -> bool:
        """Whether the file or its folder is read-only: SQLite opened the file read-only, or cannot open its journal."""
        return isinstance(error, DBAPIError) and _code(error.orig) in _NOT_WRITABLE

    def mend_of_full_disk(self, error: BaseException | None) -> str | None:
        """Decides by SQLite's result code."""
        code = _code(error)
        return None if code is None else _MENDS.get(code)

    def mend_of_connecting(self) -> str:
        """What can be wrong with a file."""
        return "check that the folder exists and that the file may be written and is a SQLite database"

    def among(self, column: ColumnElement[int]) -> ColumnElement[bool]:
        """Pass all ids as one JSON text: with a parameter for each, every length would be another statement."""
        given = func.json_each(bindparam(IDS, type_=_JsonArray)).table_valued("value")
        return column.in_(select(given.c.value))

    def begins_with(self, column: ColumnElement[str], start: str) -> ColumnElement[bool]:
        """By code points: SQLite's LIKE ignores the case, and so cannot use the index."""
        return begins_by_code_points(column, start)

    def insert(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        """Compute the ids before the INSERT, which the write lock makes safe and which is quicker than RETURNING."""
        statement = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        last = connection.exec_driver_sql(statement, (table.name,)).scalar() or 0
        set_ids(rows, range(last + 1, last + 1 + len(rows)))
        self.insert_many(connection, table, rows)

    def insert_unless_there(self, table: Table) -> Insert:
        """ON CONFLICT DO NOTHING."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def time_type(self) -> TypeEngine[Any]:
        """Text, under the name of the time type."""
        return _TimeText()


class _TimeText(UserDefinedType[datetime]):
    """A time as text in UTC. Conversion is direct, because times are most of the cost of a statement's values."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """As SQLAlchemy declares times."""
        return "DATETIME"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Convert by a cache lookup in C, without a call of a Python function."""
        return _TEXTS.__getitem__

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """The text as a literal of the statement."""
        return lambda moment: f"'{_TEXTS[moment]}'"

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Give UTC."""
        return _utc_from_text


def _utc_from_text(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(f"{text}+00:00")


class _Texts(dict[Any, Any]):
    """A cache of the texts of UTC times, always with six decimals, because the database compares them as text.

    The cache pays: the time of one change goes into several columns, and a process's start into each row that it works
    on. Only UTC times are cached: in another zone two equal times may be an hour apart and differ only in ``fold``.
    """

    _MOST = 256

    def __missing__(self, moment: Any) -> str | None:
        if moment is None:
            return None
        is_utc = getattr(moment, "tzinfo", None) is UTC
        utc = moment if is_utc else aware(moment, "a stored time")
        text: str = utc.isoformat(" ", "microseconds")[:26]
        if is_utc:
            if len(self) >= self._MOST:
                self.clear()
            self[moment] = text
        return text


_TEXTS = _Texts()


class _JsonArray(TypeDecorator[Any]):
    """Ids, as SQLite's ``json_each`` takes them apart: https://www.sqlite.org/json1.html."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        """The ids as JSON."""
        return dump_json(None if value is None else list(value), "ids")


def _begins(connection: Connection) -> bool:
    """Whether the driver of a given engine, or an event of its owner, begins transactions; ours does not."""
    driver: Any = connection.connection.dbapi_connection
    return driver.isolation_level is not None or bool(driver.in_transaction)


def _switch_to_wal(cursor: Any, timeout: float) -> None:
    """Switch the file to WAL, and retry while others use it: SQLite ignores ``busy_timeout`` here."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _code(error: BaseException | None) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    # The lower byte is the primary code, https://www.sqlite.org/rescode.html.
    return None if code is None else code & 0xFF


SQLITE = SqlitePolicy()
