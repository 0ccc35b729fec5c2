"""The database: an engine, its policy, and how a transaction is run on it."""

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
"""Set on a connection that was used before, and may have been lost since."""

ATTEMPTS = 4
"""How often a transaction is tried that lost a deadlock or its connection."""

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
        is_owned = engine is None
        if engine is None:
            self._options = resolve(url), durable, patience
            engine = make_engine(*self._options)
        self.engine = engine
        self.policy: Policy = policy_of(engine)
        """What is particular to this kind of database."""
        self.file = file_of(engine.url)
        """The file of a SQLite database; None of one in memory, of a SQLite URI, and of a server."""
        self._use = Use(is_owned, commits_each=is_owned and self.policy.commits_each(engine.url))
        self.autocommits = self.policy.autocommits(self._use)
        """Whether a connection needs no change to be read on."""
        self.is_asked = {
            is_tried: self.policy.must_be_asked(self._use, is_tried=is_tried) for is_tried in (True, False)
        }
        """Whether a connection is asked for before it is used, by whether what is done on it is tried again."""
        self.is_on_disk = is_on_disk(engine.url)
        self._attempts = ATTEMPTS if patience is None else 1
        self.has_connected = False
        self.times_closed = 0
        """How often the connections were closed, be they in use or not."""
        self._inherited: list[Engine | Pool] = []
        self._schema_checked = False
        self._lock = threading.RLock()
        _databases.add(self)

    def with_patience(self, patience: float) -> Database:
        """The same database by connections of its own, on which nothing is waited for longer than these seconds.

        One in memory has no second connection: it is this one.
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
        """Where the database is, without its password."""
        return display_url(self.engine.url)

    def read(self) -> CheckedOut:
        """A connection for queries, as a context manager; each query sees what is committed when it starts.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: its schema is not this version's.
        """
        if not self._schema_checked:
            self._check_schema()
        return CheckedOut(self, is_read=True)

    def look_up(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work``, which only reads, on such a connection; on another if that turns out to be lost.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: its schema is not this version's.
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
        if not self._schema_checked:
            self._check_schema()
        for attempt in range(1, self._attempts):
            try:
                with CheckedOut(self, is_tried=True) as connection:
                    return self.policy.transact(connection, work, self._use, is_one_statement=is_one_statement)
            except DBAPIError as error:
                self._prepare_another(error, attempt)
            except DatabaseUnavailable as error:
                # The file may be writable by now: the connection was an old one, and SQLite takes no new one for better
                # while another thread still uses one as old.
                if attempt > 2 or not self.policy.forbids_writing(error.__cause__):
                    raise
                time.sleep(0.1 * (attempt - 1))
        with CheckedOut(self) as connection:
            return self.policy.transact(connection, work, self._use, is_one_statement=is_one_statement)

    def write_aside(self, statement: Executable) -> int:
        """Execute one of many statements in a transaction of its own; returns how many rows it changed."""
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
        """The version of the database's schema; None if there is none."""
        with CheckedOut(self) as connection:
            self.policy.check_server(connection, self.url)
            return migrate.current(connection)

    def dispose(self) -> None:
        """Close the connections, unless the engine was given: those in use when they are no longer."""
        if self._use.is_owned:
            self._close_all()

    def before_fork(self) -> None:
        """Close SQLite's idle connections: a child that inherits one takes its locks on the file for its own.

        The child would write without any then, to a journal that the next to close the file removes.
        """
        if self.is_on_disk:
            self.engine.dispose()

    def after_fork(self) -> None:
        """Forget the parent's connections in a forked child, leaving them open for the parent."""
        self._lock = threading.RLock()
        if self._use.is_owned:
            # An engine has locks too, which another thread may have held at the fork: for its first connection, say.
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
        # One process migrates, the others wait for its lock and find it done.
        self.policy.migrate(connection, lambda connection: migrate.upgrade(connection, self.url), self._use)

    def _prepare_another(self, error: DBAPIError, attempt: int) -> None:
        """Wait a little before a transaction is run again; raises the error where that would not help."""
        if not (error.connection_invalidated or self.policy.is_conflict(error)):
            raise error
        logger.debug("transaction is run again after: %s", type(error.orig).__name__)
        time.sleep(0.05 * 4**attempt if error.connection_invalidated else 0.01 * attempt)
        if error.connection_invalidated and self.policy.limits_statements:
            with CheckedOut(self) as connection:
                self.policy.refuse_oversized(error, connection)

    def connect(self) -> Connection:
        """A connection that may have to be made first.

        Raises:
            DatabaseUnavailable: it cannot be made, in our own words.
            ConfigurationError: the server is none of those that the URL's dialect is for.
        """
        # The first connection imports: SQLAlchemy does, and the driver, to look the host's name up for one. A child
        # that needs what is half imported hangs, so that a fork waits even for a server that does not answer. Those
        # after it import nothing, and may wait for a server long.
        with no_fork() if self.is_on_disk or not self.has_connected else forks_allowed():
            connection = self.engine.connect()
        self.has_connected = True
        return connection

    def refuse(self, error: DBAPIError) -> None:
        """Raise our own error instead, if the one that a statement ended with says that nothing can be written."""
        if self.policy.forbids_writing(error):
            # SQLite opened the file for reading alone, and its connections would stay so.
            self._close_all()
            raise DatabaseUnavailable(self.policy.unavailable(error.orig, self.url)) from error
        if (mend := self.policy.mend_of_full_disk(error.orig)) is not None:
            raise DatabaseUnavailable(f"cannot write to {self.url}: {one_line(error.orig)}; {mend}") from error

    def _close_all(self) -> None:
        """Have each connection closed that is open now: at once, or when it is no longer in use.

        Of an engine that was given, those in use alone: the others are its owner's.
        """
        self.times_closed += 1
        if self._use.is_owned:
            self.engine.dispose()


@dataclass(slots=True)
class CheckedOut:
    """A connection for as long as it is used; for one to a file of SQLite's a fork waits, see ``before_fork``.

    Every transaction enters one: no generator, which takes twice as long to go through.
    """

    database: Database
    """Whose connection it is."""
    is_read: bool = False
    """Whether each query on it is a transaction by itself."""
    is_tried: bool = False
    """Whether what is done on it is done again if it turns out to be lost, so that the server need not be asked."""
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
            # What is idle is there at once; only what must be made may import, or wait for a server.
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
                        # The connection would go back to a pool that is no longer used, and stay open.
                        connection.invalidate()
            finally:
                if self.turn is not None:
                    self.turn.release()

    def _asked(self, connection: Connection) -> Connection:
        """One that the server still answers on: of those that were open when it was restarted each is closed here."""
        while connection.info.setdefault(_IS_KNOWN, False) and not _is_alive(connection):
            connection = self.database.connect()
        connection.info[_IS_KNOWN] = True
        return connection


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
