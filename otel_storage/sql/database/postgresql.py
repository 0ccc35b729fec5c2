"""PostgreSQL: statements that are transactions by themselves, ids and many rows at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    DateTime,
    Insert,
    Table,
    any_,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from otel_storage.sql.database import bulk
from otel_storage.sql.database.among import IDS
from otel_storage.sql.database.policy import (
    CONNECT_TIMEOUT,
    Policy,
    Result,
    ServerTime,
    Use,
    Work,
    set_ids,
)

_CONFLICTS = frozenset({"40P01", "40001"})
_MENDS = {
    "53100": "make room on the server's disk",
    "25006": "the server takes no writes: name the primary in the URL, or unset default_transaction_read_only",
}
"""What to do, by SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""

_UPGRADE_LOCK = 0x6F74656C5F73746F
"""All users of a database share the numbers of advisory locks: this one is "otel_sto" in ASCII."""


class PostgresqlPolicy(Policy):
    """How a PostgreSQL database is used."""

    names = ("postgresql",)
    refers_at_once = True

    def engine_options(self, url: URL, patience: float | None) -> dict[str, Any]:
        """The timeouts, and autocommit: a single statement is a transaction by itself, and we begin longer ones."""
        options: dict[str, Any] = {"connect_args": _connect_arguments(url, patience)}
        if self.commits_each(url):
            options["isolation_level"] = "AUTOCOMMIT"
        return options

    def commits_each(self, url: URL) -> bool:
        """True for psycopg 3 only: other drivers commit no transaction that they have not begun."""
        return url.get_driver_name() == "psycopg"

    def transact(self, connection: Connection, work: Work[Result], use: Use, *, is_one_statement: bool) -> Result:
        """Execute a single statement as a transaction by itself, in one round trip instead of three."""
        if is_one_statement:
            return work(connection if use.commits_each else connection.execution_options(isolation_level="AUTOCOMMIT"))
        with connection.begin():
            if use.commits_each or not _begins(connection):
                connection.exec_driver_sql("BEGIN")
            return work(connection)

    def migrate(self, connection: Connection, work: Work[Result], use: Use) -> Result:
        """Migrate under an advisory lock, which ends with the transaction."""

        def locked(connection: Connection) -> Result:
            connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            return work(connection)

        return self.transact(connection, locked, use, is_one_statement=False)

    def is_conflict(self, error: DBAPIError) -> bool:
        """A deadlock, or a serialization failure."""
        return getattr(error.orig, "sqlstate", None) in _CONFLICTS

    def mend_of_full_disk(self, error: BaseException | None) -> str | None:
        """Decides by the SQLSTATE."""
        return _MENDS.get(getattr(error, "sqlstate", None) or "")

    def among(self, column: ColumnElement[int]) -> ColumnElement[bool]:
        """Pass all ids as one array: with a parameter for each, every length would be another statement."""
        return column == any_(bindparam(IDS, type_=ARRAY(BigInteger)))

    def insert(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        """Take the ids from the sequence before the INSERT, which is quicker than RETURNING."""
        sequence = func.pg_get_serial_sequence(table.name, "id")
        numbers = func.generate_series(1, len(rows)).table_valued("n")
        set_ids(rows, connection.execute(select(func.nextval(sequence)).select_from(numbers)).scalars().all())
        if len(rows) >= bulk.FEWEST:
            bulk.insert_arrays(connection, table, rows)
        else:
            self.insert_many(connection, table, rows)

    def insert_unless_there(self, table: Table) -> Insert:
        """ON CONFLICT DO NOTHING."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def time_type(self) -> TypeEngine[Any]:
        """TIMESTAMP WITH TIME ZONE."""
        return ServerTime(DateTime(timezone=True))


def _connect_arguments(url: URL, patience: float | None) -> dict[str, Any]:
    """Arguments of libpq beside the URL: https://www.postgresql.org/docs/current/libpq-connect.html."""
    if patience is None:
        return {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_TIMEOUT}
    milliseconds = int(patience * 1000)
    limits = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    return {
        "connect_timeout": max(1, round(patience)),
        # Give up a server that does not acknowledge what it is sent.
        "tcp_user_timeout": milliseconds,
        "options": f"{url.query.get('options', '')} {limits}".strip(),
    }


def _begins(connection: Connection) -> bool:
    """Whether the driver of a given engine begins transactions; other drivers than psycopg 3 always do."""
    driver: Any = connection.connection.dbapi_connection
    return connection.dialect.driver != "psycopg" or not driver.autocommit


POSTGRESQL = PostgresqlPolicy()
