"""Servers that tests need: where they are, and what happens to a test when one is absent.

Nothing is started here. A server exists when its variable names it:

- ``OTEL_STORAGE_TEST_POSTGRESQL_URL``: SQLAlchemy URL, password included, of a database whose user may create
  databases.
- ``OTEL_STORAGE_TEST_MARIADB_URL``: the same of a MariaDB, whose user may see and end the sessions of others too, and
  which takes 12 MB at once (``max_allowed_packet``).
- ``OTEL_STORAGE_TEST_REDIS_URL``: ``redis://HOST:PORT/DATABASE`` of a server on which keys may be written and removed.
- ``OTEL_STORAGE_REQUIRE_SERVICES``: ``1`` says that every server exists: a test that misses one fails then,
  and does not skip.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import NoReturn

import pytest
from sqlalchemy import URL, Connection, create_engine, make_url
from sqlalchemy.exc import OperationalError

# Read once, at import: tests run with most OTEL_* variables removed.
POSTGRESQL_URL = os.environ.get("OTEL_STORAGE_TEST_POSTGRESQL_URL", "")
MARIADB_URL = os.environ.get("OTEL_STORAGE_TEST_MARIADB_URL", "")
REDIS_URL = os.environ.get("OTEL_STORAGE_TEST_REDIS_URL", "")
REQUIRE_SERVICES = os.environ.get("OTEL_STORAGE_REQUIRE_SERVICES", "") not in ("", "0")


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where the environment says that the server exists."""
    __tracebackhide__ = True
    if REQUIRE_SERVICES:
        pytest.fail(f"OTEL_STORAGE_REQUIRE_SERVICES is set, but: {reason}", pytrace=False)
    pytest.skip(reason)


def postgresql_server() -> URL:
    """Give the URL of the test server's admin database; skip or fail where there is none."""
    __tracebackhide__ = True
    if not POSTGRESQL_URL:
        missing(
            "no PostgreSQL: set OTEL_STORAGE_TEST_POSTGRESQL_URL to"
            " postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE, whose user may create databases"
        )
    return make_url(POSTGRESQL_URL)


def redis_server() -> str:
    """Give the URL of the test server; skip or fail where there is none."""
    __tracebackhide__ = True
    if not REDIS_URL:
        missing("no Redis: set OTEL_STORAGE_TEST_REDIS_URL to redis://HOST:PORT/DATABASE")
    return REDIS_URL


@contextmanager
def redis_prefix() -> Iterator[str]:
    """Give a prefix that no other key on the test server has, and remove every key with it afterwards."""
    __tracebackhide__ = True
    url = redis_server()
    import redis

    prefix = f"test_{uuid.uuid4().hex}_"
    with closing(redis.Redis.from_url(url)) as server:
        # A server that is named and cannot be reached is an error, not a reason to skip.
        server.ping()
        yield prefix
        for key in server.scan_iter(f"{prefix}*"):
            server.delete(key)


@contextmanager
def postgresql_database(template: str = "template1") -> Iterator[URL]:
    """Create a database on the test server and drop it afterwards, whoever is still connected.

    The database is empty, or else a copy of the database ``template``.
    """
    __tracebackhide__ = True
    server = postgresql_server()
    # Imported here: on a machine without a server the driver may be absent too.
    import psycopg
    from psycopg import sql

    name = f"test_{uuid.uuid4().hex}"
    conninfo = server.set(drivername="postgresql").render_as_string(hide_password=False)
    # A server that is named and cannot be reached is an error, not a reason to skip.
    with closing(psycopg.connect(conninfo, autocommit=True, connect_timeout=10)) as admin:
        names = sql.Identifier(name), sql.Identifier(template)
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    try:
        yield server.set(database=name)
    finally:
        # A connection of its own: the test may have restarted the server.
        with closing(psycopg.connect(conninfo, autocommit=True, connect_timeout=10)) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def mariadb_server() -> URL:
    """Give the URL of the test server's admin database; skip or fail where there is none."""
    __tracebackhide__ = True
    if not MARIADB_URL:
        missing(
            "no MariaDB: set OTEL_STORAGE_TEST_MARIADB_URL to mariadb+pymysql://USER:PASSWORD@HOST:PORT/DATABASE,"
            " whose user may create databases"
        )
    # For TLS, which loopback needs not, PyMySQL loads all authorities at each connection: as long as a test takes.
    return make_url(MARIADB_URL).update_query_dict({"ssl_disabled": "true"})


@contextmanager
def mariadb_database() -> Iterator[URL]:
    """Create an empty database on the test server and drop it afterwards, whoever is still connected."""
    __tracebackhide__ = True
    server = mariadb_server()
    name = f"test_{uuid.uuid4().hex}"
    # A server that is named and cannot be reached is an error, not a reason to skip.
    with mariadb_connection(server) as admin:
        admin.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name)
    finally:
        with mariadb_connection(server) as admin:
            # End other sessions: one with an open transaction would lock the tables.
            sessions = admin.exec_driver_sql("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
            for session in sessions.scalars().all():
                with suppress(OperationalError):  # it may have ended just now
                    admin.exec_driver_sql(f"KILL {session}")
            admin.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")


@contextmanager
def mariadb_connection(url: URL) -> Iterator[Connection]:
    """Connect to a database by an engine of its own, on which each statement is committed at once."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()
