"""What differs between kinds of database: one policy object per kind; no other code asks for the dialect.

:class:`Policy` itself is the policy of any other database: plain SQL, as SQLAlchemy makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ExceptionContext,
    Insert,
    Table,
    and_,
    bindparam,
    event,
    insert,
)
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeDecorator, TypeEngine

from otel_storage.privacy.lines import one_line
from otel_storage.results.exceptions import DatabaseUnavailable
from otel_storage.sql.database.among import IDS
from otel_storage.sql.database.prepared import prepared_insert
from otel_storage.sql.database.values import aware

Result = TypeVar("Result")
Work = Callable[[Connection], Result]

CONNECT_TIMEOUT = 10
"""Seconds to wait for a server's answer to a new connection."""


@dataclass(frozen=True, slots=True)
class Use:
    """How an engine is used."""

    is_owned: bool
    """Whether we made the engine; a given engine keeps its own settings."""
    commits_each: bool
    """Whether a statement is a transaction by itself, unless we begin one."""


class Policy:
    """How a database is used."""

    names: tuple[str, ...] = ()
    """SQLAlchemy's names of the dialect."""

    is_server = True
    """Whether connections go to a server, which may restart while they are open."""

    upgrades_itself = False
    """Whether the first use of a database creates or upgrades its schema."""

    refers_at_once = False
    """Whether one statement can make a record final and write the record's outbox entry."""

    limits_statements = False
    """Whether the server closes the connection on a statement that is too large."""

    migrates_in_parts = False
    """Whether each change of the schema is committed at once, so that an upgrade can be interrupted halfway."""

    # --- engines and connections ---

    def engine_options(self, url: URL, patience: float | None) -> dict[str, Any]:
        """Arguments of ``create_engine()`` beside the URL; ``patience`` as of :class:`.engine.Database`."""
        return {}

    def configure(self, engine: Engine, *, durable: bool, patience: float | None) -> None:
        """Prepare an engine that we made."""
        _give_up_when_interrupted(engine)

    def commits_each(self, url: URL) -> bool:
        """Whether the connections that we open execute each statement as a transaction by itself."""
        return False

    def autocommits(self, use: Use) -> bool:
        """Whether queries see the latest commits without a change of the connection, and without another round trip."""
        return use.commits_each

    def must_be_asked(self, use: Use, *, is_tried: bool) -> bool:
        """Whether the server is pinged on a connection before the connection is used.

        Work that is not tried again needs a connection that survived a restart of the server. A given engine has its
        own setting for that (``pool_pre_ping``).
        """
        return use.is_owned and not is_tried

    def check_server(self, connection: Connection, url: str) -> None:
        """Refuse a server that cannot do what is needed.

        Raises:
            ConfigurationError: the message names the server's product and version.
        """

    # --- transactions ---

    def transact(self, connection: Connection, work: Work[Result], use: Use, *, is_one_statement: bool) -> Result:
        """Run the work in one transaction and commit it; ``is_one_statement`` as of ``Database.write``."""
        with connection.begin():
            return work(connection)

    def migrate(self, connection: Connection, work: Work[Result], use: Use) -> Result:
        """Run the work, which changes the schema, while no other process changes it."""
        return self.transact(connection, work, use, is_one_statement=False)

    def rest(self, seconds: float) -> None:
        """Let other writers in after a transaction that took this many seconds."""

    # --- errors ---

    def is_conflict(self, error: DBAPIError) -> bool:
        """Whether the transaction lost a conflict with another, and can be run again."""
        return False

    def forbids_writing(self, error: BaseException | None) -> bool:
        """Whether the error says that a connection, although it was opened, may not write."""
        return False

    def mend_of_full_disk(self, error: BaseException | None) -> str | None:
        """What to do about a database that was reached but could not be written; None for any other error."""
        return None

    def mend_of_connecting(self) -> str:
        """What to check if the database cannot be reached."""
        return "check that the server runs, and the URL's host, port, user, password and database name"

    def why_unconnected(self, error: Exception, url: str) -> Exception:
        """Our own exception for an error of connecting; the error itself if it is not the driver's."""
        if isinstance(error, PoolTimeoutError):
            return DatabaseUnavailable(f"no connection to {url} came free: {error}")
        if isinstance(error, (OperationalError, InterfaceError, DatabaseError)):
            return DatabaseUnavailable(self.unavailable(error.orig, url))
        if isinstance(error, (TypeError, ValueError)):
            # Drivers leave these errors as they are: for an invalid host name, a NUL in a file name, an unknown option
            # of PyMySQL.
            return DatabaseUnavailable(self.unavailable(error, url))
        return error

    def unavailable(self, error: BaseException | None, url: str) -> str:
        """The message about a database that cannot be opened, with what to check."""
        mend = self.mend_of_full_disk(error) or self.mend_of_connecting()
        return f"cannot open {url}: {one_line(error)}; {mend}"

    def refuse_oversized(self, error: DBAPIError, connection: Connection) -> None:
        """Raise an error that says so, if the connection was lost because a statement was too large.

        Raises:
            InvalidInput: the statement was larger than the server takes.
        """

    # --- statements ---

    def among(self, column: ColumnElement[int]) -> ColumnElement[bool]:
        """Whether the column has one of the ids in the parameter ``ids`` of the execution."""
        return column.in_(bindparam(IDS, expanding=True))

    def begins_with(self, column: ColumnElement[str], start: str) -> ColumnElement[bool]:
        """Whether the column's text begins with the start, whose case counts.

        PostgreSQL reads that part of the column's index where the database's collation is C, else the whole index.
        """
        return column.startswith(start, autoescape=True)

    def insert(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        """Insert the rows, which have the same columns, in their order, and set ``id`` in each of them.

        The table is one of the four kinds of record.
        """
        raise NotImplementedError

    def insert_many(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        """Insert the rows, which have the same columns."""
        prepared_insert(table, tuple(rows[0])).execute_many(connection, rows)

    def insert_unless_there(self, table: Table) -> Insert:
        """An INSERT that skips rows which another process inserted first."""
        return insert(table)

    # --- times ---

    def time_type(self) -> TypeEngine[Any]:
        """The column type of an aware time, which is returned in UTC."""
        return ServerTime(DateTime())


class ServerTime(TypeDecorator[datetime]):
    """An aware time on a server.

    Args:
        server_type: The server's own type; a type without a zone stores UTC.
    """

    impl = DateTime
    cache_ok = True

    def __init__(self, server_type: DateTime) -> None:
        super().__init__()
        self.server_type = server_type

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The server's own type."""
        return dialect.type_descriptor(self.server_type)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a naive time is refused."""
        if value is None:
            return None
        moment = aware(value, "a stored time")
        return moment if self.server_type.timezone else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)


def begins_by_code_points(column: ColumnElement[str], start: str) -> ColumnElement[bool]:
    """Whether the text begins with the start, of a column that is ordered by code points: that part of its index.

    No text has the last code point, which is no character.
    """
    return and_(column >= start, column < start + "\U0010ffff")


def set_ids(rows: Sequence[dict[str, Any]], ids: Sequence[int] | range) -> None:
    """Set the ids of the rows, in their order."""
    for row, id_ in zip(rows, ids, strict=True):
        row["id"] = id_


def _give_up_when_interrupted(engine: Engine) -> None:
    """Discard a connection whose statement was interrupted by an exception that is not the driver's.

    A signal handler may raise while the driver waits for an answer, as Celery's soft time limit does. A rollback would
    read that late answer and fail; its error would hide the exception, and might run the transaction again.
    """

    @event.listens_for(engine, "handle_error")
    def give_up(context: ExceptionContext) -> None:
        is_the_drivers = isinstance(context.original_exception, engine.dialect.loaded_dbapi.Error)
        # The driver finds a value that it cannot send before it sends anything: then the connection stays good.
        is_on_its_way = context.execution_context is not None or context.statement is None
        if not is_the_drivers and is_on_its_way:
            context.is_disconnect = True
            # Other connections of the pool are not affected.
            context.invalidate_pool_on_disconnect = False
