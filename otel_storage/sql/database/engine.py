"""The database: where it is, how it is reached, and how a transaction is run on it."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    Executable,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import Pool, QueuePool

from otel_storage.results import host
from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable
from otel_storage.runtime.forking import before_fork, forks_allowed, no_fork
from otel_storage.sql.database import mariadb, migrate, schema

logger = logging.getLogger("otel_storage")

URL_VARIABLE = "OTEL_STORAGE_URL"
DEFAULT_URL = "sqlite:///otel_storage.db"

BUSY_TIMEOUT = 30.0
"""Seconds that a SQLite connection waits for another's write transaction."""

CONNECT_TIMEOUT = 10
"""Seconds to wait for a server's answer to a new connection."""

ATTEMPTS = 4
"""How often a transaction is tried that lost a deadlock or its connection."""

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mariadb+pymysql",
    "mariadb": "mariadb+pymysql",
    "mysql+pymysql": "mariadb+pymysql",
}
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
_EXAMPLES = (
    "sqlite:///runs.db, postgresql+psycopg://user:password@host/name or mariadb+pymysql://user:password@host/name"
)
_CONFLICT_STATES = {"40P01", "40001"}
_SECRET_PARAMETERS = ("password", "passwd", "pwd", "secret", "token", "sslpassword", "ssl_key_password")

Result = TypeVar("Result")


class Database:
    """An engine with a checked schema; all of our SQL goes through :meth:`read` and :meth:`write`.

    Args:
        url: A SQLAlchemy URL; else the environment variable ``OTEL_STORAGE_URL``, else a SQLite file
            ``otel_storage.db`` in Django's ``BASE_DIR``, or in the working directory.
        engine: An engine to use instead; it keeps its own settings, and is not disposed.
        durable: SQLite only: sync every commit to the disk, so that it survives a power cut too.
        patience: Seconds that anything is waited for at most, a connection, a lock, or an answer, and nothing is tried
            twice; None: 30 for SQLite's lock, 10 for a new connection to a server, and as long as it takes for all
            else.

    Raises:
        ConfigurationError: the URL cannot be parsed, its driver is missing, or both arguments are given.
    """

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        engine: Engine | None = None,
        durable: bool = False,
        patience: float | None = None,
    ) -> None:
        if engine is not None and url is not None:
            raise ConfigurationError("give a url or an engine, not both")
        self._owned = engine is None
        if engine is None:
            self._options = _resolve(url), durable, patience
            engine = _create_engine(*self._options)
        self.engine = engine
        self._commits_each = self._owned and _commits_each(engine.url)
        """Whether a statement on a connection is a transaction by itself, unless we begin one."""
        self._attempts = ATTEMPTS if patience is None else 1
        self._has_connected = False
        self._times_closed = 0
        """How often the connections were closed, be they in use or not."""
        self._is_file = _is_file(engine.url)
        self._inherited: list[Engine | Pool] = []
        self._schema_checked = False
        self._lock = threading.RLock()
        _databases.add(self)

    def with_patience(self, patience: float) -> Database:
        """The same database by connections of its own, on which nothing is waited for longer than these seconds.

        One in memory has no second connection: it is this one.
        """
        if not self._owned or _is_memory(self.engine.url):
            return self
        url, durable, _ = self._options
        return Database(url, durable=durable, patience=patience)

    @property
    def dialect(self) -> str:
        """The engine's dialect: sqlite, postgresql, ..."""
        return self.engine.dialect.name

    @property
    def is_mariadb(self) -> bool:
        """Whether it is MariaDB, by either of its dialect's names."""
        return self.dialect in mariadb.NAMES

    @property
    def url(self) -> str:
        """Where the database is, without its password."""
        return display_url(self.engine.url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for queries; each sees what is committed when it starts.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: its schema is not this version's.
        """
        self._check_schema()
        with self._connect() as connection:
            yield self._autocommitting(connection)

    def look_up(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work``, which only reads, on such a connection; on another if that turns out to be lost.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: its schema is not this version's.
        """
        self._check_schema()
        if self._attempts > 1:
            try:
                with self._connect(is_tried=True) as connection:
                    return work(self._autocommitting(connection))
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
        with self._connect() as connection:
            return work(self._autocommitting(connection))

    def write(self, work: Callable[[Connection], Result], *, is_one_statement: bool = False) -> Result:
        """Run ``work`` in one transaction and commit it; after a deadlock or a lost connection, run it again.

        ``work`` must have no effects but those on the connection.

        Args:
            work: What is to be done.
            is_one_statement: Whether all that ``work`` changes is changed by one statement. That is a transaction by
                itself, and one round trip to a server instead of three.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            InvalidInput: a value is larger than the server takes.
            SchemaMismatch: its schema is not this version's.
        """
        self._check_schema()
        for attempt in range(1, self._attempts):
            try:
                return self._transaction(work, is_one_statement, is_tried=True)
            except DBAPIError as error:
                if not (error.connection_invalidated or self._is_conflict(error)):
                    raise
                logger.debug("transaction is run again after: %s", type(error.orig).__name__)
                time.sleep(0.05 * 4**attempt if error.connection_invalidated else 0.01 * attempt)
                if error.connection_invalidated and self.is_mariadb:
                    with self._connect() as connection:
                        mariadb.refuse_oversized(error, connection)
            except DatabaseUnavailable as error:
                # It may be writable by now: the connection was an old one, and SQLite takes no new one for better while
                # another thread still uses one as old.
                if attempt > 2 or not _is_not_writable(error.__cause__):
                    raise
                time.sleep(0.1 * (attempt - 1))
        return self._transaction(work, is_one_statement)

    def write_aside(self, statement: Executable) -> int:
        """Execute one of many statements in a transaction of its own; returns how many rows it changed.

        Who waits for SQLite's write lock looks for it now and then: for as long again as it was held, it is free.
        """
        began = time.monotonic()
        changed = self.write(lambda connection: connection.execute(statement).rowcount)
        if self.dialect == "sqlite":
            time.sleep(time.monotonic() - began)
        return changed

    def upgrade(self) -> None:
        """Create the schema, or bring it up to this version.

        Raises:
            SchemaMismatch: the schema is newer than this version of the package.
        """
        with self._connect() as connection:
            self._upgrade(connection)
        self._schema_checked = True

    def current(self) -> str | None:
        """The version of the database's schema; None if there is none."""
        with self._connect() as connection:
            self._check_server(connection)
            return migrate.current(connection)

    def dispose(self) -> None:
        """Close the connections, unless the engine was given: those in use when they are no longer."""
        if self._owned:
            self._close_all()

    def before_fork(self) -> None:
        """Close SQLite's idle connections: a child that inherits one takes its locks on the file for its own.

        It would write without any then, to a journal that the next to close the file removes.
        """
        if self._is_file:
            self.engine.dispose()

    def after_fork(self) -> None:
        """Forget the parent's connections in a forked child, leaving them open for the parent."""
        self._lock = threading.RLock()
        if self._owned:
            # An engine has locks too, which another thread may have held at the fork: for its first connection, say.
            self._inherited.append(self.engine)
            self.engine = _create_engine(*self._options)
        else:
            self._inherited.append(self.engine.pool)
            self.engine.dispose(close=False)
        if _is_memory(self.engine.url):
            self._schema_checked = False

    def _check_schema(self) -> None:
        if self._schema_checked:
            return
        with self._lock:
            if self._schema_checked:
                return
            with self._connect() as connection:
                self._check_server(connection)
                version = migrate.current(connection)
                if version != schema.SCHEMA_VERSION and self.dialect == "sqlite":
                    self._upgrade(connection)
                else:
                    migrate.check(version, self.url)
            self._schema_checked = True

    def _check_server(self, connection: Connection) -> None:
        if self.is_mariadb:
            mariadb.check_server(connection, self.url)

    def _upgrade(self, connection: Connection) -> None:
        self._check_server(connection)
        connection.rollback()

        def work(connection: Connection) -> None:
            # One process migrates, the others wait for its lock and find it done.
            if self.dialect == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            with mariadb.upgrade_lock(connection) if self.is_mariadb else _NOTHING:
                migrate.upgrade(connection, self.url)

        self._in_transaction(connection, work)

    def _transaction(
        self, work: Callable[[Connection], Result], is_one_statement: bool, *, is_tried: bool = False
    ) -> Result:
        with self._connect(is_tried=is_tried) as connection:
            if is_one_statement and (self.dialect == "postgresql" or self._commits_each):
                return work(self._autocommitting(connection))
            return self._in_transaction(connection, work)

    def _in_transaction(self, connection: Connection, work: Callable[[Connection], Result]) -> Result:
        if self.is_mariadb and not self._owned:
            # As our own engines are: REPEATABLE READ, the usual default, locks the gaps between rows too.
            connection = connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            self._begin(connection)
            return work(connection)

    def _begin(self, connection: Connection) -> None:
        """Begin the transaction on the database too, right after SQLAlchemy's own ``begin()``, if nobody else does."""
        # Not by an event, which every statement of the engine would pay for.
        if self.dialect in _BEGIN and (self._commits_each or not _begins(connection)):
            connection.exec_driver_sql(_BEGIN[self.dialect])
        elif self.dialect == "sqlite" and self._schema_checked:
            # Takes the write lock first, as our own engines do: a read lock cannot always be raised to one.
            connection.exec_driver_sql("DELETE FROM otel_storage_outbox WHERE 1 = 0")

    def _autocommitting(self, connection: Connection) -> Connection:
        """The connection, on which a statement is a transaction by itself, as far as that saves round trips.

        Ours to SQLite and PostgreSQL are so. On MariaDB's a transaction costs none but its end, and as they are READ
        COMMITTED, a query sees what is committed.
        """
        if self._commits_each or (self.is_mariadb and self._owned):
            return connection
        return connection.execution_options(isolation_level="AUTOCOMMIT")

    def _connect(self, *, is_tried: bool = False) -> _CheckedOut:
        return _CheckedOut(self, is_tried)

    def _open(self, is_tried: bool) -> Connection:
        connection = self.engine.connect()
        if self.dialect == "sqlite":
            return connection
        is_new = _is_new(connection)
        # What a given engine does is its own; but the isolation of a transaction is set outside of what is tried again.
        is_asked = not is_tried if self._owned else self.is_mariadb
        # What is not run again must not be the one to find that the server was restarted: of those that were open then
        # each is closed here.
        while is_asked and not (is_new or _is_alive(connection)):
            connection = self.engine.connect()
            is_new = _is_new(connection)
        return connection

    def _check_out(self, is_tried: bool) -> Connection:
        """A connection, see :class:`_CheckedOut`; what keeps it from being had is said in our own errors."""
        try:
            with self._gate_of_connecting():
                connection = self._open(is_tried)
            self._has_connected = True
        except PoolTimeoutError as error:
            raise DatabaseUnavailable(f"no connection to {self.url} came free: {error}") from error
        except (OperationalError, InterfaceError, DatabaseError) as error:
            raise DatabaseUnavailable(self._unavailable(error.orig)) from error
        except InvalidRequestError as error:
            # Our URLs of MariaDB are for no other server.
            raise ConfigurationError(mariadb.wrong_server(self.url, str(error).rstrip("."))) from error
        except (TypeError, ValueError) as error:
            # A host name that is none, a file name with a NUL in it, an option that PyMySQL does not have: no driver
            # turns these into errors of its own.
            raise DatabaseUnavailable(self._unavailable(error)) from error
        return connection

    def _gate_of_connecting(self) -> AbstractContextManager[None]:
        if not self._has_connected:
            # The first connection imports: SQLAlchemy does, and the driver, to look the host's name up for one. A child
            # that needs what is half imported hangs, so that a fork waits even for a server that does not answer.
            return no_fork()
        # Those after it import nothing, and may wait for a server long.
        return _NOTHING if self._is_file else forks_allowed()

    def _refuse(self, error: DBAPIError) -> None:
        """Raise our own error instead, if the one that a statement ended with says that nothing can be written."""
        if _is_not_writable(error):
            # SQLite opened the file for reading alone, and its connections would stay so.
            self._close_all()
            raise DatabaseUnavailable(self._unavailable(error.orig)) from error
        if (mend := _mend_of_full_disk(error.orig)) is not None:
            raise DatabaseUnavailable(f"cannot write to {self.url}: {_one_line(error.orig)}; {mend}") from error

    def _close_all(self) -> None:
        """Have each connection closed that is open now: at once, or when it is no longer in use.

        Of an engine that was given, those in use alone: the others are its owner's.
        """
        self._times_closed += 1
        if self._owned:
            self.engine.dispose()

    def _is_conflict(self, error: DBAPIError) -> bool:
        if self.is_mariadb:
            return mariadb.is_conflict(error)
        return getattr(error.orig, "sqlstate", None) in _CONFLICT_STATES

    def _unavailable(self, error: BaseException | None) -> str:
        cause = _one_line(error)
        if (full := _mend_of_full_disk(error)) is not None:
            mend = full
        elif self.dialect == "sqlite":
            mend = "check that the folder exists and that the file may be written and is a SQLite database"
        else:
            mend = "check that the server runs, and the URL's host, port, user, password and database name"
        return f"cannot open {self.url}: {cause}; {mend}"


class _CheckedOut:
    """A connection for as long as it is used; for one to a file of SQLite's a fork waits, see ``before_fork``.

    Every transaction enters one: no generator, which takes twice as long to go through.

    Args:
        database: Whose connection it is.
        is_tried: Whether what is done on it is done again if the connection turns out to be lost, so that the server
            need not be asked beforehand.
    """

    __slots__ = ("_connection", "_database", "_gate", "_is_tried", "_times_closed")

    def __init__(self, database: Database, is_tried: bool) -> None:
        self._database = database
        self._is_tried = is_tried
        self._gate: AbstractContextManager[None] = no_fork() if database._is_file else _NOTHING

    def __enter__(self) -> Connection:
        self._gate.__enter__()
        try:
            self._times_closed = self._database._times_closed
            self._connection = self._database._check_out(self._is_tried)
        except BaseException:
            self._gate.__exit__(None, None, None)
            raise
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if isinstance(error, DBAPIError):
                self._database._refuse(error)
        finally:
            try:
                self._give_back()
            finally:
                self._gate.__exit__(None, None, None)

    def _give_back(self) -> None:
        with self._connection as connection:
            if self._database._times_closed != self._times_closed and not connection.invalidated:
                # It would go back to a pool that is no longer used, and stay open.
                connection.invalidate()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _before_fork() -> None:
    for database in list(_databases):
        try:
            database.before_fork()
        except Exception:
            logger.exception("connections to %s stay open in a process that forks", database.url)


def _after_fork_in_child() -> None:
    for database in list(_databases):
        database.after_fork()


before_fork(_before_fork)
os.register_at_fork(after_in_child=_after_fork_in_child)

_BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
"""How a transaction is begun where our connections begin none by themselves."""

_NOTHING = nullcontext()

_UPGRADE_LOCK = 0x6F74656C5F73746F
"""Advisory locks of a PostgreSQL database have numbers that all its users share: this is "otel_sto" in ASCII."""


def display_url(url: URL) -> str:
    """The URL without its password, wherever in it that stands."""
    hidden = {key: "***" if key.lower() in _SECRET_PARAMETERS else value for key, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def _resolve(url: str | URL | None) -> URL:
    """The URL to use: a relative SQLite file is made absolute."""
    source = "url"
    if url is None:
        url = os.environ.get(URL_VARIABLE) or None
        source = f"the environment variable {URL_VARIABLE}"
    parsed = _parse(url or DEFAULT_URL, source)
    if parsed.get_backend_name() != "sqlite" or _is_memory(parsed) or parsed.query.get("uri"):
        return parsed
    path = Path(parsed.database or "")
    if path.is_absolute():
        return parsed
    absolute = _base_folder() / path
    logger.info("the records of pipeline runs are stored in %s", absolute)
    return parsed.set(database=str(absolute))


def _parse(url: str | URL, source: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, TypeError):
        # The original error may print the URL, and so its password.
        raise ConfigurationError(f"{source} is not a database URL; use e.g. {_EXAMPLES}") from None
    if "@" in (parsed.host or ""):
        # What follows the first @ of a password is taken for part of the host, and would be shown.
        raise ConfigurationError(f"{source} has more than one @; in a user name or password write it as %40")
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


def _base_folder() -> Path:
    """Celery and the web server often start in different folders; under Django both know BASE_DIR."""
    if host.django_is_configured():
        base = getattr(host.django_settings(), "BASE_DIR", None)
        if base:
            return Path(base)
    return Path.cwd()


def _is_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def _is_file(url: URL) -> bool:
    """Whether the database is a file of SQLite's: one in memory is gone with its last connection."""
    in_memory = ":memory:" in (url.database or ":memory:") or url.query.get("mode") == "memory"
    return url.get_backend_name() == "sqlite" and not in_memory


def _commits_each(url: URL) -> bool:
    """Whether our connections to it are such that each statement is a transaction by itself."""
    # Other drivers of PostgreSQL do not commit what they have not begun.
    return url.get_backend_name() == "sqlite" or url.get_driver_name() == "psycopg"


def _create_engine(url: URL, durable: bool, patience: float | None) -> Engine:
    # Statements' parameters hold input data, which does not belong in an error or a log.
    options: dict[str, Any] = {"hide_parameters": True}
    backend = url.get_backend_name()
    if backend == "sqlite":
        options["connect_args"] = {"timeout": patience or BUSY_TIMEOUT, "check_same_thread": False}
        if _is_memory(url):
            # The database lives in its one connection, which threads take turns to use.
            options.update(poolclass=QueuePool, pool_size=1, max_overflow=0)
    else:
        if backend in mariadb.NAMES:
            options["connect_args"] = mariadb.connect_arguments(url, CONNECT_TIMEOUT, patience)
            options["isolation_level"] = "READ COMMITTED"
        elif backend == "postgresql":
            options["connect_args"] = _postgresql_arguments(url, patience)
            if _commits_each(url):
                # A statement is a transaction by itself, at no round trip more; one of several is begun by us.
                options["isolation_level"] = "AUTOCOMMIT"
    try:
        engine = create_engine(url, **options)
    except NoSuchModuleError:
        raise ConfigurationError(
            f"there is no database dialect {url.drivername!r}; use sqlite, postgresql+psycopg or mariadb+pymysql"
        ) from None
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        mend = f"pip install 'otel-storage[{extra}]'" if extra else f"install the module {error.name!r}"
        raise ConfigurationError(f"the driver of {url.drivername} is not installed: {mend}") from error
    except (ArgumentError, ValueError, TypeError):
        # The original error prints the URL, and so what is secret in its query.
        raise ConfigurationError(
            f"the database URL {display_url(url)} cannot be used; check its parts against "
            "sqlite:///runs.db (three slashes), postgresql+psycopg://user:password@host:5432/name or "
            "mariadb+pymysql://user:password@host:3306/name"
        ) from None
    if backend == "sqlite":
        _configure_sqlite(engine, durable, patience or BUSY_TIMEOUT)
    else:
        _give_up_when_interrupted(engine)
    return engine


def _begins(connection: Connection) -> bool:
    """Whether the driver of a given engine, or its owner's event, begins transactions; on ours none does."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        return driver.isolation_level is not None or bool(driver.in_transaction)
    # Other drivers of PostgreSQL do not commit what they have not begun.
    return connection.dialect.driver != "psycopg" or not driver.autocommit


def _is_new(connection: Connection) -> bool:
    """Whether this is asked of the connection for the first time."""
    is_known = connection.info.get("otel_storage_is_known", False)
    connection.info["otel_storage_is_known"] = True
    return not is_known


def _is_alive(connection: Connection) -> bool:
    """Whether the server still answers on the connection; else it is closed."""
    dialect = connection.dialect
    answered = False
    try:
        answered = dialect.do_ping(connection.connection.dbapi_connection)  # type: ignore[arg-type]  # it is open
    except dialect.loaded_dbapi.Error as error:
        logger.debug("a connection is replaced after: %s", type(error).__name__)
    finally:
        # Also where a signal's handler raised: an answer may still come.
        if not answered:
            connection.invalidate()
            connection.close()
    return answered


def _postgresql_arguments(url: URL, patience: float | None) -> dict[str, Any]:
    """What libpq is told beyond the URL: https://www.postgresql.org/docs/current/libpq-connect.html."""
    if patience is None:
        return {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_TIMEOUT}
    milliseconds = int(patience * 1000)
    limits = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    return {
        "connect_timeout": max(1, round(patience)),
        # A server that does not even acknowledge what it is sent.
        "tcp_user_timeout": milliseconds,
        "options": f"{url.query.get('options', '')} {limits}".strip(),
    }


def _give_up_when_interrupted(engine: Engine) -> None:
    """Give a connection up that an exception interrupted which is not its driver's.

    A signal's handler raised it while an answer was waited for, as Celery's soft time limit does. A rollback would run
    into that answer, and fail: its error would hide the exception, and might have the transaction run again.
    """

    @event.listens_for(engine, "handle_error")
    def give_up(context: ExceptionContext) -> None:
        is_the_drivers = isinstance(context.original_exception, engine.dialect.loaded_dbapi.Error)
        # A value that cannot be sent is found before anything is.
        is_on_its_way = context.execution_context is not None or context.statement is None
        if not is_the_drivers and is_on_its_way:
            context.is_disconnect = True
            # The others are as good as before.
            context.invalidate_pool_on_disconnect = False


def _configure_sqlite(engine: Engine, durable: bool, timeout: float) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # The driver begins no transaction by itself: it would take the write lock too late.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
        _switch_to_wal(cursor, timeout)
        cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()


def _switch_to_wal(cursor: Any, timeout: float) -> None:
    """Switch the file to WAL, waiting for others: SQLite says at once that it is busy, whatever ``busy_timeout`` is."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _is_not_writable(error: BaseException | None) -> bool:
    """Whether SQLite says, only when it comes to a statement, that the file or its folder may not be written."""
    return isinstance(error, DBAPIError) and _sqlite_code(error.orig) in {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }


def _mend_of_full_disk(error: BaseException | None) -> str | None:
    """What to do where the database could not be written although it was reached; None for any other error."""
    key = _sqlite_code(error) or getattr(error, "sqlstate", None)
    return None if key is None else _MENDS.get(key)


_MENDS: dict[int | str, str] = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    # A quota and a limit on the size of files are such errors too.
    sqlite3.SQLITE_IOERR: "check its disk, and the room, the quota and the limit on the size of files there",
    "53100": "make room on the server's disk",
    "25006": "the server takes no writes: name the primary in the URL, or unset default_transaction_read_only",
}
"""By SQLite's primary result codes, and the SQLSTATEs of PostgreSQL."""


def _sqlite_code(error: BaseException | None) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    # The lower byte is the primary code, https://www.sqlite.org/rescode.html.
    return None if code is None else code & 0xFF


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
