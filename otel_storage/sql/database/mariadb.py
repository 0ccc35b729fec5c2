"""What MariaDB alone needs: how a connection is set up, what its errors mean, and the lock of an upgrade."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, func, select
from sqlalchemy.exc import DBAPIError

from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable, InvalidInput

NAMES = ("mysql", "mariadb")
"""SQLAlchemy's names of the dialect: a URL of ours says mariadb, an engine of the user's may say either."""

OLDEST = (10, 6)
"""The first version with SKIP LOCKED, and with DDL statements that each take effect whole or not at all."""

CONFLICTS = {1020, 1205, 1213}
"""Record changed, lock wait timeout, deadlock: the transaction can be run again."""

UPGRADE_PATIENCE = 600.0
"""Seconds that an upgrade waits for another."""

# Nothing is cut or changed to fit a column, whatever the server is set to.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


def connect_arguments(url: URL, timeout: int, patience: float | None = None) -> dict[str, Any]:
    """What PyMySQL is told beyond the URL; with ``patience``, in seconds, that it waits for nothing longer."""
    arguments: dict[str, Any] = {"charset": "utf8mb4", "sql_mode": _SQL_MODE}
    if patience is not None:
        seconds = max(1, round(patience))
        arguments.update(connect_timeout=seconds, read_timeout=seconds + 1, write_timeout=seconds + 1)
        arguments["init_command"] = f"SET innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
    elif "connect_timeout" not in url.query:
        arguments["connect_timeout"] = timeout
    if url.password is not None and not str(url.password).isascii():
        # Otherwise it is sent as Latin-1, which no other client does.
        arguments["password"] = str(url.password).encode()
    return arguments


def check_server(connection: Connection, url: str) -> None:
    """Refuse a server that cannot do what is needed, and a connection to no database of it.

    Raises:
        ConfigurationError: naming what the server is.
    """
    if connection.exec_driver_sql("SELECT DATABASE()").scalar() is None:
        raise ConfigurationError(f"{url} names no database; put its name behind the host: .../name")
    dialect: Any = connection.dialect
    version = tuple(part for part in dialect.server_version_info or () if isinstance(part, int))
    if dialect.is_mariadb and version >= OLDEST:
        return
    name = "MariaDB" if dialect.is_mariadb else "MySQL"
    raise ConfigurationError(wrong_server(url, f"it is {name} {'.'.join(map(str, version))}"))


def wrong_server(url: str, reason: str) -> str:
    """What is said of a server that cannot be used."""
    return f"the server of {url} cannot be used: {reason}; use MariaDB {'.'.join(map(str, OLDEST))} or newer"


def is_conflict(error: DBAPIError) -> bool:
    """Whether the transaction lost against another, and may be run again."""
    return getattr(error.orig, "args", (None,))[0] in CONFLICTS


def refuse_oversized(error: DBAPIError, connection: Connection) -> None:
    """Say so if the connection was lost because a statement was larger than the server takes.

    The server hangs up, often before it was told all: then what it says of it does not arrive.

    Raises:
        InvalidInput: naming the setting.
    """
    size = max(_largest_statement(one) for one in _with_context(error))
    limit = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
    if size < limit:
        return
    raise InvalidInput(
        f"storing it takes a statement of {size:,} bytes, and MariaDB takes none of more than {limit:,}; "
        "raise its setting max_allowed_packet, or store less"
    ) from None


@contextmanager
def upgrade_lock(connection: Connection) -> Iterator[None]:
    """Let one process at a time change the database's schema; the lock ends with the session at the latest.

    Raises:
        DatabaseUnavailable: another process has held it for very long.
    """
    # A name of the whole server, 64 characters at most.
    database = str(connection.exec_driver_sql("SELECT DATABASE()").scalar())
    name = f"otel_storage.{hashlib.sha256(database.encode()).hexdigest()[:32]}"
    if not connection.execute(select(func.get_lock(name, UPGRADE_PATIENCE))).scalar():
        raise DatabaseUnavailable(
            f"another process has been upgrading the schema of {database} for {UPGRADE_PATIENCE:.0f} seconds; "
            "see what it does with SHOW PROCESSLIST, and try again when it has ended"
        )
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.execute(select(func.release_lock(name)))


def unless_done(statement: str) -> str:
    """The DDL statement, passing over what is there, or gone, already.

    MariaDB commits each of them at once: an upgrade that was cut short leaves what it made, and the next goes on.
    """
    return _DROPPING.sub(r"\1 IF EXISTS", _CREATING.sub(r"\1 IF NOT EXISTS", statement))


_DROPPING = re.compile(r"^(\s*DROP (?:INDEX|TABLE))\b")
_CREATING = re.compile(r"^(\s*(?:CREATE TABLE|CREATE (?:UNIQUE )?INDEX|ALTER TABLE \S+ ADD COLUMN))\b")


def _with_context(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those before it: where the server did say why, it was the rollback that found it gone."""
    while error is not None:
        yield error
        error = error.__context__


def _largest_statement(error: BaseException) -> int:
    """The bytes of what failed as it was sent: that of the largest row, of many."""
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
