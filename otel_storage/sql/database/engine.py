"""The database: an engine, the policy of its kind, and how a transaction runs."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import Pool, QueuePool

from otel_storage.privacy.lines import one_line
from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable
from otel_storage.runtime.forking import before_fork, forks_allowed, no_fork, this_thread
from otel_storage.sql.database import migrate, schema
from otel_storage.sql.database.policies import make_engine, policy_of
from otel_storage.sql.database.policy import Policy, Use
from otel_storage.sql.database.urls import display_url, file_of, is_memory, is_on_disk, resolve

logger = logging.getLogger("otel_storage")

_IS_KNOWN = "otel_storage_is_known"
"""Marks a connection that was used before: the server may have closed it since."""

ATTEMPTS = 4
"""How many times a transaction runs at most, after a deadlock or a lost connection."""

Result = TypeVar("Result")


class Database:
    """An engine with a checked schema; all of our SQL goes through :meth:`read` and :meth:`write`.

    Args:
        url: A SQLAlchemy URL; else the environment variable ``OTEL_STORAGE_URL``, else a SQLite file
            ``otel_storage.db`` in Django's ``BASE_DIR``, or in the working directory.
        engine: An engine to use instead of a URL; its settings stay as they are, and :meth:`dispose` leaves it open.
        durable: SQLite only: sync every commit to the disk, so that it survives a power cut too.
        patience: The most seconds to wait for a connection, a lock or an answer; then nothing is tried twice. None
            waits 30 seconds for SQLite's lock, 10 for a new connection to a server, and without limit for all else.

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
        is_owned = engine is None
        if engine is None:
            self._options = resolve(url), durable, patience
            engine = make_engine(*self._options)
        self.engine = engine
        self.policy: Policy = policy_of(engine)
        """How this kind of database is used."""
        self.file = file_of(engine.url)
        """The path of a SQLite file; None for a database in memory, a SQLite URI or a server."""
        self._use = Use(is_owned, commits_each=is_owned and self.policy.commits_each(engine.url))
        self.autocommits = self.policy.autocommits(self._use)
        """Whether a connection is in autocommit mode already, so that reading needs no change of it."""
        self.is_asked = {
            is_tried: self.policy.must_be_asked(self._use, is_tried=is_tried) for is_tried in (True, False)
        }
        """Whether the server is pinged before a connection is used; the key is whether the work would be tried
        again."""
        self.is_on_disk = is_on_disk(engine.url)
        self._attempts = ATTEMPTS if patience is None else 1
        self.has_connected = False
        self.times_closed = 0
        """How many times all connections were closed, including those that were in use."""
        self._inherited: list[Engine | Pool] = []
        self._schema_checked = False
        self._lock = threading.RLock()
        _databases.add(self)

    def with_patience(self, patience: float) -> Database:
        """A second ``Database`` for the same URL, whose connections wait at most ``patience`` seconds for anything.

        A database in memory has one connection only, and an engine that was given is not ours to copy: both return
        ``self``.
        """
        if not self._use.is_owned or is_memory(self.engine.url):
            return self
        url, durable, _ = self._options
        return Database(url, durable=durable, patience=patience)

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the engine's dialect: sqlite, postgresql, mariadb, ..."""
        return self.engine.dialect.name

    @property
    def url(self) -> str:
        """The database's URL, without its password."""
        return display_url(self.engine.url)

    def read(self) -> CheckedOut:
        """A connection for queries, as a context manager; each query sees what is committed when it starts.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: the schema belongs to another version of the package.
        """
        if not self._schema_checked:
            self._check_schema()
        return CheckedOut(self, is_read=True)

    def look_up(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work``, which only reads, on a connection as of :meth:`read`; if that is lost, once more on another.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: the schema belongs to another version of the package.
        """
        if not self._schema_checked:
            self._check_schema()
        if self._attempts > 1:
            try:
                with CheckedOut(self, is_read=True, is_tried=True) as connection:
                    return work(connection)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
        with CheckedOut(self, is_read=True) as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], Result], *, is_one_statement: bool = False) -> Result:
        """Run ``work`` in one transaction and commit it; after a deadlock or a lost connection, run it again.

        ``work`` may run several times, so its only effects must be those on the connection.

        Args:
            work: Takes the connection; executes the statements.
            is_one_statement: Whether one statement makes all changes of ``work``. Such a statement is a transaction by
                itself, and takes one round trip to a server instead of three.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            InvalidInput: a value is larger than the server takes.
            SchemaMismatch: the schema belongs to another version of the package.
        """
        if not self._schema_checked:
            self._check_schema()
        for attempt in range(1, self._attempts):
            try:
                with CheckedOut(self, is_tried=True) as connection:
                    return self.policy.transact(connection, work, self._use, is_one_statement=is_one_statement)
            except DBAPIError as error:
                self._prepare_another(error, attempt)
            except DatabaseUnavailable as error:
                # The file may be writable again, but SQLite opened this connection read-only, and gives no writable one
                # while another thread still uses a read-only one: wait for that thread, then try again.
                if attempt > 2 or not self.policy.forbids_writing(error.__cause__):
                    raise
                time.sleep(0.1 * (attempt - 1))
        with CheckedOut(self) as connection:
            return self.policy.transact(connection, work, self._use, is_one_statement=is_one_statement)

    def write_aside(self, statement: Executable) -> int:
        """Execute one of many statements in its own transaction, then let other writers in; returns its row count."""
        began = time.monotonic()
        changed = self.write(lambda connection: connection.execute(statement).rowcount)
        self.policy.rest(time.monotonic() - began)
        return changed

    def upgrade(self) -> None:
        """Create the schema, or bring it up to this version.

        Raises:
            SchemaMismatch: the schema is newer than this version of the package.
        """
        with CheckedOut(self) as connection:
            self._upgrade(connection)
        self._schema_checked = True

    def current(self) -> str | None:
        """The version of the database's schema; None if the database has none."""
        with CheckedOut(self) as connection:
            self.policy.check_server(connection, self.url)
            return migrate.current(connection)

    def dispose(self) -> None:
        """Close our own engine's connections; one in use is closed when it is returned. A given engine stays open."""
        if self._use.is_owned:
            self._close_all()

    def before_fork(self) -> None:
        """Close SQLite's idle connections before a fork, because a child takes inherited locks on the file for its own.

        The child would then write without a lock, to a journal that the next process to close the file removes.
        """
        if self.is_on_disk:
            self.engine.dispose()

    def after_fork(self) -> None:
        """Forget the parent's connections in a forked child, leaving them open for the parent."""
        self._lock = threading.RLock()
        if self._use.is_owned:
            # An engine has locks of its own, which another thread may have held at the time of the fork.
            self._inherited.append(self.engine)
            self.engine = make_engine(*self._options)
        else:
            self._inherited.append(self.engine.pool)
            self.engine.dispose(close=False)
        if is_memory(self.engine.url):
            self._schema_checked = False

    def _check_schema(self) -> None:
        with self._lock:
            if self._schema_checked:
                return
            with CheckedOut(self) as connection:
                self.policy.check_server(connection, self.url)
                version = migrate.current(connection)
                if version != schema.SCHEMA_VERSION and self.policy.upgrades_itself:
                    self._upgrade(connection)
                else:
                    migrate.check(version, self.url)
            self._schema_checked = True

    def _upgrade(self, connection: Connection) -> None:
        self.policy.check_server(connection, self.url)
        connection.rollback()
        # One process migrates; the others wait for its lock, and then find the schema up to date.
        self.policy.migrate(connection, lambda connection: migrate.upgrade(connection, self.url), self._use)

    def _prepare_another(self, error: DBAPIError, attempt: int) -> None:
        """Wait a little before a transaction runs again; raises the error if another attempt would not help."""
        if not (error.connection_invalidated or self.policy.is_conflict(error)):
            raise error
        logger.debug("transaction is run again after: %s", type(error.orig).__name__)
        time.sleep(0.05 * 4**attempt if error.connection_invalidated else 0.01 * attempt)
        if error.connection_invalidated and self.policy.limits_statements:
            with CheckedOut(self) as connection:
                self.policy.refuse_oversized(error, connection)

    def connect(self) -> Connection:
        """A connection, which may have to be opened first.

        Raises:
            DatabaseUnavailable: the database cannot be reached; the message says what to check.
            ConfigurationError: the server is another product than the URL's dialect.
        """
        # The first connection imports modules of SQLAlchemy and of the driver. A child that is forked meanwhile would
        # wait for ever for a half-imported module, so a fork waits for the first connection, even if the server does
        # not answer. Later connections import nothing, and may wait for a server while the process forks.
        with no_fork() if self.is_on_disk or not self.has_connected else forks_allowed():
            connection = self.engine.connect()
        self.has_connected = True
        return connection

    def refuse(self, error: DBAPIError) -> None:
        """Raise ``DatabaseUnavailable`` instead, if the error says that the database cannot be written."""
        if self.policy.forbids_writing(error):
            # SQLite opened the file read-only. Its open connections would stay read-only even when the file is writable
            # again.
            self._close_all()
            raise DatabaseUnavailable(self.policy.unavailable(error.orig, self.url)) from error
        if (mend := self.policy.mend_of_full_disk(error.orig)) is not None:
            raise DatabaseUnavailable(f"cannot write to {self.url}: {one_line(error.orig)}; {mend}") from error

    def _close_all(self) -> None:
        """Close each open connection: an idle one at once, one in use when its work is done.

        Idle connections of a given engine stay open, as they belong to the engine's owner.
        """
        self.times_closed += 1
        if self._use.is_owned:
            self.engine.dispose()


@dataclass(slots=True)
class CheckedOut:
    """A connection, checked out of the pool while the block runs.

    A fork waits until the connection to a SQLite file is returned, see ``Database.before_fork``. Every transaction
    enters one, so this is a class: a generator-based context manager takes twice as long.
    """

    database: Database
    """The database that the connection belongs to."""
    is_read: bool = False
    """Whether each query on the connection is a transaction by itself."""
    is_tried: bool = False
    """Whether the work runs again if the connection is lost, so that the server need not be pinged before."""
    connection: Connection = field(init=False)
    turn: threading.RLock | None = field(init=False)
    times_closed: int = field(init=False)

    def __enter__(self) -> Connection:
        database = self.database
        self.turn = this_thread.turn if database.is_on_disk else None
        if self.turn is not None:
            self.turn.acquire()
        try:
            self.times_closed = database.times_closed
            # An idle connection is available at once; only a new one may import modules or wait for a server.
            pool = database.engine.pool
            is_there = database.is_on_disk or (isinstance(pool, QueuePool) and pool.checkedin() > 0)
            connection = database.engine.connect() if is_there and database.has_connected else database.connect()
            if database.is_asked[self.is_tried]:
                connection = self._asked(connection)
            elif database.policy.is_server:
                connection.info[_IS_KNOWN] = True
            self.connection = connection
        except BaseException as error:
            if self.turn is not None:
                self.turn.release()
            if (
                isinstance(error, Exception)
                and (why := database.policy.why_unconnected(error, database.url)) is not error
            ):
                raise why from error
            raise
        if self.is_read and not database.autocommits:
            return connection.execution_options(isolation_level="AUTOCOMMIT")
        return connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if isinstance(error, DBAPIError):
                self.database.refuse(error)
        finally:
            try:
                with self.connection as connection:
                    if self.database.times_closed != self.times_closed and not connection.invalidated:
                        # The pool that the connection came from was replaced: returned to it, the connection would stay
                        # open.
                        connection.invalidate()
            finally:
                if self.turn is not None:
                    self.turn.release()

    def _asked(self, connection: Connection) -> Connection:
        """A connection that the server answers on; connections that a restart broke are closed on the way."""
        while connection.info.setdefault(_IS_KNOWN, False) and not _is_alive(connection):
            connection = self.database.connect()
        connection.info[_IS_KNOWN] = True
        return connection


def _is_alive(connection: Connection) -> bool:
    """Whether the server still answers on the connection; if not, the connection is closed."""
    dialect = connection.dialect
    answered = False
    try:
        answered = dialect.do_ping(connection.connection.dbapi_connection)  # type: ignore[arg-type]  # it is open
    except dialect.loaded_dbapi.Error as error:
        logger.debug("a connection is replaced after: %s", type(error).__name__)
    finally:
        # Also if a signal handler raised during the ping: its answer may still arrive on the connection.
        if not answered:
            connection.invalidate()
            connection.close()
    return answered


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _before_fork() -> None:
    for database in list(_databases):
        try:
            database.before_fork()
        except Exception:
            logger.exception("connections to %s could not be closed before a fork", database.url)


def _after_fork_in_child() -> None:
    for database in list(_databases):
        database.after_fork()


before_fork(_before_fork)
os.register_at_fork(after_in_child=_after_fork_in_child)
