"""MariaDB: how a connection is set up, what errors mean, and upgrades that can be interrupted and continued."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, Insert, Select, Table, Update, func, insert, select
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.types import TypeEngine

from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable, InvalidInput
from otel_storage.sql.database.policy import (
    CONNECT_TIMEOUT,
    Policy,
    Result,
    ServerTime,
    Use,
    Work,
    begins_by_code_points,
    set_ids,
)

NAMES = ("mysql", "mariadb")
"""SQLAlchemy's names of the dialect: our URLs use mariadb, an engine of the user's may use either."""

OLDEST = (10, 6)
"""The first version with SKIP LOCKED, and with atomic DDL statements."""

CONFLICTS = {1020, 1205, 1213}
"""Record changed, lock wait timeout, deadlock: the transaction can run again."""

UPGRADE_PATIENCE = 600.0
"""Seconds that an upgrade waits for another process's upgrade."""

# Strict mode: MariaDB refuses a value that does not fit its column instead of cutting it, whatever the server's
# default.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"

_READ_COMMITTED = "READ COMMITTED"

Statement = TypeVar("Statement", Select[Any], Update)


class MariadbPolicy(Policy):
    """How a MariaDB database is used."""

    names = NAMES
    limits_statements = True
    migrates_in_parts = True

    def engine_options(self, url: URL, patience: float | None) -> dict[str, Any]:
        """The timeouts, and READ COMMITTED: the default, REPEATABLE READ, also locks the gaps between rows."""
        return {"connect_args": _connect_arguments(url, patience), "isolation_level": _READ_COMMITTED}

    def autocommits(self, use: Use) -> bool:
        """Our connections need no autocommit.

        Ending a transaction is the only extra round trip, and READ COMMITTED suffices.
        """
        return use.is_owned

    def must_be_asked(self, use: Use, *, is_tried: bool) -> bool:
        """A given engine's connection is always pinged.

        Setting its isolation level is not part of the work that is tried again.
        """
        return not use.is_owned or not is_tried

    def check_server(self, connection: Connection, url: str) -> None:
        """Refuse MySQL, a MariaDB that is too old, and a URL without a database name."""
        if connection.exec_driver_sql("SELECT DATABASE()").scalar() is None:
            raise ConfigurationError(f"{url} names no database; put its name behind the host: .../name")
        dialect: Any = connection.dialect
        version = tuple(part for part in dialect.server_version_info or () if isinstance(part, int))
        if dialect.is_mariadb and version >= OLDEST:
            return
        name = "MariaDB" if dialect.is_mariadb else "MySQL"
        raise ConfigurationError(_wrong_server(url, f"it is {name} {'.'.join(map(str, version))}"))

    def transact(self, connection: Connection, work: Work[Result], use: Use, *, is_one_statement: bool) -> Result:
        """Let the driver begin the transaction implicitly, and commit it at the end."""
        if not use.is_owned:
            connection = connection.execution_options(isolation_level=_READ_COMMITTED)
        with connection.begin():
            return work(connection)

    def migrate(self, connection: Connection, work: Work[Result], use: Use) -> Result:
        """Migrate under a named lock of the server."""

        def locked(connection: Connection) -> Result:
            with _upgrade_lock(connection):
                return work(connection)

        return self.transact(connection, locked, use, is_one_statement=False)

    def is_conflict(self, error: DBAPIError) -> bool:
        """See :data:`CONFLICTS`."""
        return getattr(error.orig, "args", (None,))[0] in CONFLICTS

    def why_unconnected(self, error: Exception, url: str) -> Exception:
        """Also explain SQLAlchemy's error for a server of another product than the URL's dialect."""
        if isinstance(error, InvalidRequestError):
            return ConfigurationError(_wrong_server(url, str(error).rstrip(".")))
        return super().why_unconnected(error, url)

    def refuse_oversized(self, error: DBAPIError, connection: Connection) -> None:
        """The server closes the connection on a statement that is too large, often without an answer."""
        size = max(_largest_statement(one) for one in _with_context(error))
        limit = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
        if size < limit:
            return
        raise InvalidInput(
            f"the statement has {size:,} bytes, and MariaDB's max_allowed_packet is {limit:,}; "
            "raise max_allowed_packet, or store less"
        ) from None

    def begins_with(self, column: ColumnElement[str], start: str) -> ColumnElement[bool]:
        """By code points, as the schema's collation orders: MariaDB's LIKE misses emojis behind the start."""
        return begins_by_code_points(column, start)

    def insert(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        """Read the ids afterwards: within a transaction they grow from row to row, but there may be gaps."""
        self.insert_many(connection, table, rows)
        run = "run_id" if "run_id" in table.c else "execution_id"
        runs = list(dict.fromkeys(row[run] for row in rows))
        statement = select(table.c.id).where(table.c[run].in_(runs)).order_by(table.c.id)
        set_ids(rows, connection.execute(statement).scalars().all())

    def insert_unless_there(self, table: Table) -> Insert:
        """INSERT IGNORE."""
        return insert(table).prefix_with("IGNORE")

    def time_type(self) -> TypeEngine[Any]:
        """DATETIME with microseconds."""
        return ServerTime(mysql.DATETIME(fsp=6))


def _wrong_server(url: str, reason: str) -> str:
    """The message about a server that cannot be used."""
    return f"the server of {url} cannot be used: {reason}; use MariaDB {'.'.join(map(str, OLDEST))} or newer"


def by_index(statement: Statement, table: Table, index: str) -> Statement:
    """The statement with a hint that makes MariaDB use the index.

    MariaDB locks every row that it reads, so it must read few.
    """
    for name in NAMES:
        if isinstance(statement, Update):
            statement = statement.with_hint(f"FORCE INDEX ({index})", dialect_name=name)
        else:
            statement = statement.with_hint(table, f"FORCE INDEX ({index})", dialect_name=name)
    return statement


def _connect_arguments(url: URL, patience: float | None) -> dict[str, Any]:
    """The arguments for PyMySQL beside the URL; ``patience`` is the most seconds to wait for anything."""
    arguments: dict[str, Any] = {"charset": "utf8mb4", "sql_mode": _SQL_MODE}
    if patience is not None:
        seconds = max(1, round(patience))
        arguments.update(connect_timeout=seconds, read_timeout=seconds + 1, write_timeout=seconds + 1)
        arguments["init_command"] = f"SET innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
    elif "connect_timeout" not in url.query:
        arguments["connect_timeout"] = CONNECT_TIMEOUT
    if url.password is not None and not str(url.password).isascii():
        # PyMySQL would encode the password as Latin-1, which no other client does.
        arguments["password"] = str(url.password).encode()
    return arguments


@contextmanager
def _upgrade_lock(connection: Connection) -> Iterator[None]:
    """Let one process at a time change the database's schema; the lock ends with the session at the latest.

    Raises:
        DatabaseUnavailable: another process has held the lock for :data:`UPGRADE_PATIENCE`.
    """
    # The lock's name is shared by all databases of the server, and has at most 64 characters.
    database = str(connection.exec_driver_sql("SELECT DATABASE()").scalar())
    name = f"otel_storage.{hashlib.sha256(database.encode()).hexdigest()[:32]}"
    if not connection.execute(select(func.get_lock(name, UPGRADE_PATIENCE))).scalar():
        raise DatabaseUnavailable(
            f"another process has been upgrading the schema of {database} for {UPGRADE_PATIENCE:.0f} seconds; "
            "SHOW PROCESSLIST shows what it does; try again when it has ended"
        )
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.execute(select(func.release_lock(name)))


def unless_done(statement: str) -> str:
    """The DDL statement with IF [NOT] EXISTS, so that it passes over what an interrupted upgrade has done already.

    MariaDB commits each DDL statement at once, so an interrupted upgrade leaves its part, and the next one continues.
    """
    return _DROPPING.sub(r"\1 IF EXISTS", _CREATING.sub(r"\1 IF NOT EXISTS", statement))


_DROPPING = re.compile(r"^(\s*DROP (?:INDEX|TABLE))\b")
_CREATING = re.compile(r"^(\s*(?:CREATE TABLE|CREATE (?:UNIQUE )?INDEX|ALTER TABLE \S+ ADD COLUMN))\b")


def _with_context(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its contexts: the server's reason may be in the first error, and the last be the rollback's."""
    while error is not None:
        yield error
        error = error.__context__


def _largest_statement(error: BaseException) -> int:
    """The size in bytes of the statement that failed; of several rows, with the largest one."""
    if not isinstance(error, DBAPIError) or error.statement is None:
        return 0
    rows = error.params if isinstance(error.params, list) else [error.params]
    return len(error.statement) + max((sum(_quoted_size(value) for value in _values(row)) for row in rows), default=0)


def _values(row: Any) -> Sequence[Any]:
    if isinstance(row, Mapping):
        return list(row.values())
    return row if isinstance(row, (list, tuple)) else ()


def _quoted_size(value: object) -> int:
    if not isinstance(value, str):
        return 0
    return len(value.encode(errors="replace")) + sum(value.count(character) for character in "\\'\"\n\r\x1a\0")


MARIADB = MariadbPolicy()
