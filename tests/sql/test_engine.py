"""The database: where it is, what is said when it cannot be used, and how transactions run on it."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from otel_storage.results import host
from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable, OtelStorageError
from otel_storage.results.extras import to_install
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import engine as engine_module
from otel_storage.sql.database import schema
from otel_storage.sql.database import sqlite as sqlite_policy
from otel_storage.sql.database.engine import ATTEMPTS, Database
from otel_storage.sql.database.sqlite import BUSY_TIMEOUT
from otel_storage.sql.database.urls import URL_VARIABLE, display_url
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import START
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests import services
from tests.processes import run_python

PASSWORD = "hunter2-dsn-password"
SECRET = "4111-1111-1111-1111"


def build(storage: SqlPipelineStorage, run_id: str, input_data: Any = None) -> Any:
    """A run of one record of each kind."""
    return storage.build_pipeline_execution(Pipeline(Task()), run_id, Runner(), RecordingReporter(), input_data)


def execution_row(run_id: str) -> dict[str, Any]:
    """The columns of an execution that must be given."""
    return {
        "run_id": run_id,
        "pipeline_id": "shop.Orders",
        "pipeline_result_count": 0,
        "task_result_count": 0,
        "status": PipelineTaskStatus.PENDING,
        "created": START,
    }


def refused(use: Callable[[], object], error: type[OtelStorageError]) -> str:
    """What is said when it is refused: in one line, with no password in anything that can be printed of it."""
    with pytest.raises(OtelStorageError) as caught:
        use()
    assert type(caught.value) is error
    printed = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in printed + str(caught.value) + repr(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unavailable(url: Any) -> str:
    """What is said of a database that cannot be reached, by each way to use it."""
    database = Database(url)

    def read() -> None:
        with database.read():
            raise AssertionError("it was reached")

    ways: list[Callable[[], object]] = [
        database.current,
        database.upgrade,
        lambda: database.write(lambda c: None),
        read,
    ]
    said = {refused(way, DatabaseUnavailable) for way in ways}
    database.dispose()
    assert len(said) == 1
    return said.pop()


class TestUrl:
    """Which database it is."""

    @pytest.fixture(autouse=True)
    def without_django(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Work in an empty folder, though another test of this process may have configured Django."""
        monkeypatch.setattr(host, "django_is_configured", lambda: False)
        monkeypatch.chdir(tmp_path)

    def test_argument_before_variable_before_default(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The argument wins, then ``OTEL_STORAGE_URL``, then a file in the working directory."""
        assert Database().url == f"sqlite:///{tmp_path}/otel_storage.db"
        monkeypatch.setenv(URL_VARIABLE, "")
        assert Database().url == f"sqlite:///{tmp_path}/otel_storage.db"
        monkeypatch.setenv(URL_VARIABLE, "sqlite:////elsewhere/variable.db")
        assert Database().url == "sqlite:////elsewhere/variable.db"
        assert Database("sqlite:////elsewhere/argument.db").url == "sqlite:////elsewhere/argument.db"
        assert Database(make_url("sqlite:////elsewhere/url.db")).url == "sqlite:////elsewhere/url.db"

    def test_relative_file(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A relative file is in the working directory of when the storage was made; where that is, is logged."""
        with caplog.at_level(logging.INFO, "otel_storage"):
            storage = SqlPipelineStorage("sqlite+pysqlite:///sub/runs.db")
        (tmp_path / "sub").mkdir()
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")

        build(storage, "run")

        storage.close()
        assert (tmp_path / "sub" / "runs.db").exists()
        assert [str(tmp_path / "sub" / "runs.db") in record.getMessage() for record in caplog.records] == [True]

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:////tmp/runs.db"])
    def test_not_relative(self, url: str) -> None:
        """Memory and absolute files stay as they are."""
        assert Database(url).engine.url == make_url(url)

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_psycopg_is_the_driver(self, scheme: str) -> None:
        """Any name of PostgreSQL means psycopg 3."""
        pytest.importorskip("psycopg")

        assert Database(f"{scheme}://user@host/name").engine.url.drivername == "postgresql+psycopg"

    @pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"])
    def test_pymysql_is_the_driver(self, scheme: str) -> None:
        """Any name of MariaDB means PyMySQL."""
        pytest.importorskip("pymysql")

        assert Database(f"{scheme}://user@host/name").engine.url.drivername == "mariadb+pymysql"

    @pytest.mark.parametrize(
        "url",
        [
            "no url",
            f"//user:{PASSWORD}@host/name",
            f"postgresql://user:{PASSWORD}@host:port/name",
            " ",
            17,
            b"sqlite://",
        ],
    )
    def test_url_that_is_none(self, url: Any) -> None:
        """What is no URL is said to be none, and is not printed."""
        said = refused(lambda: Database(url), ConfigurationError)

        assert said.startswith("url is not a database URL; use e.g. sqlite:///runs.db")
        assert str(url).strip() not in said or not str(url).strip()

    def test_variable_that_is_no_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the URL came from is told."""
        monkeypatch.setenv(URL_VARIABLE, f"//user:{PASSWORD}@host/name")

        said = refused(Database, ConfigurationError)

        assert said.startswith("the environment variable OTEL_STORAGE_URL is not a database URL")

    @pytest.mark.parametrize(
        "url",
        [
            "sqlite://runs.db",
            f"sqlite://user:{PASSWORD}@host/runs.db",
            "sqlite:////tmp/runs.db?timeout=soon",
            f"postgresql+psycopg://user:{PASSWORD}@host/name?port=x",
            f"postgresql+psycopg://user@host/name?port=x&password={PASSWORD}",
            f"mysql://user@host/name?connect_timeout=soon&password={PASSWORD}",
        ],
    )
    def test_parts_that_cannot_be_used(self, url: str) -> None:
        """A URL that parses and means nothing is refused with examples, one of them with the slashes SQLite wants."""
        said = refused(lambda: Database(url), ConfigurationError)

        assert "cannot be used" in said
        assert "sqlite:///runs.db (three slashes)" in said

    @pytest.mark.parametrize("scheme", ["nosuch", "postgresql+nosuch"])
    def test_unknown_dialect(self, scheme: str) -> None:
        """A dialect that is none is named."""
        said = refused(lambda: Database(f"{scheme}://user:{PASSWORD}@host/name"), ConfigurationError)

        assert said == f"there is no database dialect {scheme!r}; use sqlite, postgresql+psycopg or mariadb+pymysql"

    @pytest.mark.parametrize(
        ("scheme", "module"), [("postgresql+pg8000", "pg8000"), ("mariadb+mariadbconnector", "mariadb")]
    )
    def test_missing_driver(self, scheme: str, module: str) -> None:
        """A driver that is not installed is named."""
        if importlib.util.find_spec(module):
            pytest.skip(f"{module} is installed")

        said = refused(lambda: Database(f"{scheme}://user:{PASSWORD}@host/name"), ConfigurationError)

        assert said == f"the driver of {scheme} is not installed; install the module {module!r}"

    @pytest.mark.parametrize(
        ("scheme", "driver", "module", "extra"),
        [
            ("postgresql", "postgresql+psycopg", "psycopg", "postgresql"),
            ("mysql", "mariadb+pymysql", "pymysql", "mysql"),
        ],
    )
    def test_missing_driver_of_ours(
        self, scheme: str, driver: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Our own drivers are named with the extra that brings them."""
        monkeypatch.setitem(sys.modules, module, None)

        said = refused(lambda: Database(f"{scheme}://user:{PASSWORD}@host/name"), ConfigurationError)

        assert said == f"the driver of {driver} is not installed; {to_install(extra)}"

    def test_url_and_engine(self) -> None:
        """Both at once are refused."""
        engine = create_engine("sqlite://")

        said = refused(lambda: SqlPipelineStorage("sqlite://", engine=engine), ConfigurationError)

        assert said == "give a url or an engine, not both"

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            (f"postgresql://user:{PASSWORD}@host/name", "postgresql://user:***@host/name"),
            (f"postgresql://host/name?user=u&password={PASSWORD}", "postgresql://host/name?password=***&user=u"),
            (f"postgresql://host/name?PassWord={PASSWORD}", "postgresql://host/name?PassWord=***"),
            (f"postgresql://host/name?sslpassword={PASSWORD}", "postgresql://host/name?sslpassword=***"),
            (f"mysql://u:{PASSWORD}@h/n?passwd={PASSWORD}", "mysql://u:***@h/n?passwd=***"),
            (f"mariadb://h/n?ssl_key_password={PASSWORD}", "mariadb://h/n?ssl_key_password=***"),
            (f"postgresql://h/n?password={PASSWORD}&password=b", "postgresql://h/n?password=***"),
            ("postgresql://user:p%40ss%2Fword@host/name", "postgresql://user:***@host/name"),
            ("sqlite:///runs.db", "sqlite:///runs.db"),
        ],
    )
    def test_display_url(self, url: str, shown: str) -> None:
        """A password is hidden wherever it stands, and the rest is not."""
        assert display_url(make_url(url)) == shown

    def test_repr_of_storage(self) -> None:
        """A storage prints where it is, without the password."""
        pytest.importorskip("psycopg")
        storage = SqlPipelineStorage(f"postgresql://user:{PASSWORD}@host/name?sslpassword={PASSWORD}")

        shown = "SqlPipelineStorage('postgresql+psycopg://user:***@host/name?sslpassword=***')"
        assert repr(storage) == shown


@pytest.mark.slow
@pytest.mark.skipif(not host.is_installed(), reason="django-pipelines is not installed")
@pytest.mark.parametrize("base", ["str", "Path"])
def test_relative_file_under_django(base: str, tmp_path: Path) -> None:
    """Under Django a relative file is in ``BASE_DIR``, wherever the process was started; without one, there."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    script = """
import json
from pathlib import Path
from django.conf import settings
settings.configure({})
from otel_storage.sql.database.engine import Database
print(json.dumps([Database().url, Database("sqlite:///runs.db").url, Database("sqlite:////tmp/runs.db").url]))
"""
    setting = f"BASE_DIR={base}({str(tmp_path / 'project')!r})"

    under = run_python(script.format(setting), cwd=tmp_path / "elsewhere")
    without = run_python(script.format(""), cwd=tmp_path / "elsewhere")

    project, elsewhere = f"sqlite:///{tmp_path}/project", f"sqlite:///{tmp_path}/elsewhere"
    assert under == [f"{project}/otel_storage.db", f"{project}/runs.db", "sqlite:////tmp/runs.db"]
    assert without == [f"{elsewhere}/otel_storage.db", f"{elsewhere}/runs.db", "sqlite:////tmp/runs.db"]


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> URL:
    """URL of each server, as its admin has it."""
    return services.postgresql_server() if request.param == "postgresql" else services.mariadb_server()


class TestUnreachableServer:
    """A server that cannot be reached: one clear line, and no password."""

    MEND = "check that the server runs, and the URL's host, port, user, password and database name"

    @pytest.mark.parametrize("driver", ["postgresql+psycopg", "mariadb+pymysql"])
    def test_closed_port(self, driver: str) -> None:
        """Nothing listens."""
        pytest.importorskip(driver.partition("+")[2])
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # and not listening
            port = unused.getsockname()[1]
            said = unavailable(f"{driver}://user:{PASSWORD}@127.0.0.1:{port}/name")

        assert said.startswith(f"cannot open {driver}://user:***@127.0.0.1:{port}/name: ")
        assert "refused" in said
        assert said.endswith(self.MEND)

    @pytest.mark.parametrize("name", ["a..b", "no-such-host.invalid"])
    @pytest.mark.parametrize("driver", ["postgresql+psycopg", "mariadb+pymysql"])
    def test_host_that_is_none(self, driver: str, name: str) -> None:
        """No such host; and a name that cannot be one, which drivers refuse with an error of another kind."""
        pytest.importorskip(driver.partition("+")[2])

        said = unavailable(f"{driver}://user:{PASSWORD}@{name}/name?connect_timeout=2")

        assert said.startswith(f"cannot open {driver}://user:***@{name}/name")
        assert said.endswith(self.MEND)

    @pytest.mark.parametrize("in_query", [False, True], ids=["userinfo", "query"])
    def test_wrong_password(self, server: URL, in_query: bool) -> None:
        """The server refuses the password, which is not repeated."""
        url = server.set(password=PASSWORD)
        if in_query:
            url = server._replace(password=None).update_query_dict({"password": PASSWORD})

        said = unavailable(url)

        assert f'password authentication failed for user "{server.username}"' in said or (
            f"Access denied for user '{server.username}'" in said
        )
        assert said.endswith(self.MEND)

    def test_unknown_database(self, server: URL) -> None:
        """The server has no such database."""
        said = unavailable(server.set(database="no_such_database"))

        assert 'database "no_such_database" does not exist' in said or "Unknown database 'no_such_database'" in said
        assert str(server.password) not in said

    def test_option_that_is_none(self, server: URL) -> None:
        """The driver refuses what is in the query."""
        said = unavailable(server.update_query_dict({"nosuch": "1", "sslpassword": PASSWORD}))

        assert 'invalid connection option "nosuch"' in said or "unexpected keyword argument 'nosuch'" in said


class TestSqliteFile:
    """A SQLite file that cannot be used: one clear line."""

    def test_missing_folder(self, tmp_path: Path) -> None:
        """The folder does not exist, and is not made."""
        said = unavailable(f"sqlite:///{tmp_path}/no/runs.db")

        assert said == (
            f"cannot open sqlite:///{tmp_path}/no/runs.db: unable to open database file; "
            "check that the folder exists and that the file may be written and is a SQLite database"
        )
        assert not (tmp_path / "no").exists()

    def test_directory(self, tmp_path: Path) -> None:
        """The path is a folder."""
        assert "unable to open database file" in unavailable(f"sqlite:///{tmp_path}")

    def test_not_a_database(self, tmp_path: Path) -> None:
        """The path is a file of another kind, which is not changed."""
        file = tmp_path / "notes.txt"
        file.write_text("not a database " * 100)

        assert "file is not a database" in unavailable(f"sqlite:///{file}")
        assert file.read_text() == "not a database " * 100

    def test_name_that_is_none(self, tmp_path: Path) -> None:
        """A NUL in its name, which SQLite's driver refuses with an error of another kind."""
        assert "null" in unavailable(make_url("sqlite://").set(database=f"{tmp_path}/a\0b"))

    def test_read_only(self, tmp_path: Path) -> None:
        """What is there can be read; writing is refused with the same words, and without the data."""
        with closing(SqlPipelineStorage(f"sqlite:///{tmp_path}/runs.db")) as storage:
            build(storage, "first")
        data = {"card": "-".join(["4111", "1111"] * 2)}  # in no source line of the traceback
        with closing(SqlPipelineStorage(f"sqlite:///file:{tmp_path}/runs.db?mode=ro&uri=true")) as storage:
            assert [execution.run_id for execution in storage.get_pipeline_executions()] == ["first"]
            with pytest.raises(DatabaseUnavailable, match="attempt to write a readonly database") as caught:
                build(storage, "second", data)

        assert data["card"] not in "".join(traceback.format_exception(caught.value))
        assert "check that the folder exists and that the file may be written" in str(caught.value)

    def test_read_only_without_a_schema(self, tmp_path: Path) -> None:
        """A file that may not be written cannot be given its schema."""
        with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
            connection.execute("CREATE TABLE other (id)")

        said = unavailable(f"sqlite:///file:{tmp_path}/other.db?mode=ro&uri=true")

        assert "attempt to write a readonly database" in said

    def test_no_permission(self, tmp_path: Path) -> None:
        """The file may not be opened."""
        if os.geteuid() == 0:
            pytest.skip("root may open any file")
        (tmp_path / "runs.db").touch(mode=0)

        assert "unable to open database file" in unavailable(f"sqlite:///{tmp_path}/runs.db")

    def test_memory_that_is_busy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A database in memory has one connection; who waits for it in vain is told so."""
        database = Database("sqlite://")
        monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)

        with database.read():
            failures: list[str] = []

            def ask() -> None:
                failures.append(refused(lambda: database.write(lambda c: None), DatabaseUnavailable))

            thread = threading.Thread(target=ask)
            thread.start()
            thread.join(10)

        database.dispose()
        assert len(failures) == 1
        assert failures[0].startswith("no connection to sqlite:// came free")


@pytest.mark.parametrize(("durable", "synchronous"), [(False, 1), (True, 2)], ids=["normal", "full"])
@pytest.mark.parametrize("place", ["file", "memory"])
def test_pragmas(place: str, durable: bool, synchronous: int, empty_sqlite_url: str) -> None:
    """Every connection has our settings; ``durable`` syncs every commit to the disk."""
    database = Database(empty_sqlite_url if place == "file" else "sqlite://", durable=durable)
    found = []
    for _ in range(2):
        with database.read() as connection:
            found.append(
                {
                    name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                    for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
                }
            )
            if place == "file":
                connection.invalidate()
    database.dispose()

    expected = {
        "journal_mode": "wal" if place == "file" else "memory",
        "foreign_keys": 1,
        "busy_timeout": int(BUSY_TIMEOUT * 1000),
        "synchronous": synchronous,
    }
    assert found == [expected, expected]


class TestSwitchToWal:
    """SQLite does not wait for another connection's lock when a file is switched to WAL; we do."""

    @pytest.fixture
    def writer(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        """Another program's write transaction on the file, which is not in WAL yet."""
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("CREATE TABLE other (id)")
            yield writer

    def test_waits(self, writer: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The switch is tried again until the lock is gone."""
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                writer.execute("COMMIT")

        monkeypatch.setattr(sqlite_policy, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
        with closing(SqlPipelineStorage(f"sqlite:///{tmp_path}/runs.db")) as storage:
            build(storage, "run")
            with storage.database.read() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

        assert len(pauses) == 3

    def test_not_for_ever(self, writer: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lock that stays is an error in the end."""
        monkeypatch.setattr(sqlite_policy, "BUSY_TIMEOUT", 0.0)

        assert "database is locked" in unavailable(f"sqlite:///{tmp_path}/runs.db")


class TestGivenEngine:
    """An engine of the user's."""

    @pytest.fixture(params=["file", "memory", "postgresql", "mariadb"])
    def engine(self, request: pytest.FixtureRequest) -> Iterator[Engine]:
        """A file, memory shared by all threads, and a server."""
        if request.param == "memory":
            engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        else:
            name = "empty_sqlite_url" if request.param == "file" else f"empty_{request.param}_url"
            engine = create_engine(request.getfixturevalue(name))
        yield engine
        engine.dispose()

    def test_works(self, engine: Engine) -> None:
        """A run is built, advanced and read; another thread sees it too."""
        storage = SqlPipelineStorage(engine=engine)
        storage.upgrade()
        reporter = RecordingReporter()
        execution = storage.build_pipeline_execution(Pipeline(Task()), "run", Runner(), reporter, {"day": 1})
        (result,) = storage.get_task_results()
        result.report_status_change(reporter, PipelineTaskStatus.RUNNING)
        result.report_status_change(reporter, PipelineTaskStatus.DONE)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(storage.get_pipeline_execution("run")))
        thread.start()
        thread.join(10)

        assert found == [execution]
        assert found[0].get_status().value == "DONE"
        assert storage.cleanup() == ["run"]

    def test_is_not_disposed(self, engine: Engine) -> None:
        """Closing the storage leaves the engine's connections open, and its settings as they were."""
        with engine.connect() as connection:
            before = connection.connection.driver_connection
        storage = SqlPipelineStorage(engine=engine)
        storage.upgrade()
        pool = engine.pool

        storage.close()

        assert engine.pool is pool
        with engine.connect() as connection:
            assert connection.connection.driver_connection is before
            if engine.dialect.name == "sqlite":
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2

    def test_that_commits_each_statement(self, engine: Engine) -> None:
        """Of an engine that is set to AUTOCOMMIT too, a write that fails leaves nothing behind."""
        storage = SqlPipelineStorage(engine=engine.execution_options(isolation_level="AUTOCOMMIT"))
        storage.upgrade()

        def work(connection: Connection) -> None:
            connection.execute(insert(schema.pipeline_execution), execution_row("run"))
            raise LookupError("the work's own")

        with pytest.raises(LookupError, match="the work's own"):
            storage.database.write(work)
        build(storage, "other")

        assert [execution.run_id for execution in storage.get_pipeline_executions()] == ["other"]

    def test_own_engine_is_disposed(self, empty_sqlite_url: str) -> None:
        """The engine that a storage made for itself is, and the storage can be used again."""
        storage = SqlPipelineStorage(empty_sqlite_url)
        build(storage, "first")
        pool = storage.database.engine.pool

        storage.close()

        assert storage.database.engine.pool is not pool
        build(storage, "second")
        assert len(storage.get_pipeline_executions()) == 2
        storage.close()


@pytest.fixture
def storage(database_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage on each engine."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        yield storage


@pytest.mark.parametrize("is_given", [False, True], ids=["ours", "given"])
def test_a_file_that_can_be_written_again(is_given: bool, sqlite_url: str) -> None:
    """A connection that was opened when it could not be, and was kept, does not keep it so."""
    with closing(SqlPipelineStorage(sqlite_url)) as storage:
        storage.upgrade()
    given = create_engine(sqlite_url)
    with closing(SqlPipelineStorage(engine=given) if is_given else SqlPipelineStorage(sqlite_url)) as storage:
        with storage.database.engine.connect() as connection:
            # As SQLite treats one that was opened without the right to write.
            connection.exec_driver_sql("PRAGMA query_only = ON")
            before = connection.connection.driver_connection
        build(storage, "run")
        with storage.database.engine.connect() as connection:
            assert connection.connection.driver_connection is not before
    given.dispose()


def test_no_connection_outlives_its_storage(storage: SqlPipelineStorage) -> None:
    """A connection in use while the storage is closed is closed afterwards; later connections are pooled again."""
    used: list[Any] = []

    def work(connection: Connection) -> None:
        used.append(connection.connection.driver_connection)
        connection.execute(select(1))
        storage.close()

    def fail(connection: Connection) -> None:
        work(connection)
        raise LookupError("the work's own")

    storage.database.write(work)
    with pytest.raises(LookupError, match="the work's own"):
        storage.database.write(fail)

    assert len({id(connection) for connection in used}) == 2
    for connection in used:
        with pytest.raises(storage.database.engine.dialect.loaded_dbapi.Error):
            connection.cursor().execute("SELECT 1")
    build(storage, "first")
    with storage.database.read() as kept:
        kept_connection = kept.connection.driver_connection
    build(storage, "second")
    with storage.database.read() as kept:
        assert kept.connection.driver_connection is kept_connection


def test_errors_hold_no_input_data(storage: SqlPipelineStorage) -> None:
    """What SQLAlchemy says of a statement that failed does not repeat what was to be stored."""
    row = {**execution_row("run"), "input_data": SECRET}

    def twice(connection: Connection) -> None:
        connection.execute(insert(schema.pipeline_execution), row)
        connection.execute(insert(schema.pipeline_execution), row)

    with pytest.raises(IntegrityError) as caught:
        storage.database.write(twice)

    assert "hide_parameters" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert len(storage.get_pipeline_executions()) == 0


def test_a_transaction_passes_through_four_functions(storage: SqlPipelineStorage) -> None:
    """Every change of state pays for each of them, on each engine: nothing else of ours is called around the work."""
    storage.database.write(lambda connection: connection.execute(select(1)))
    package = str(Path(engine_module.__file__).parents[2])
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        storage.database.write(lambda connection: None)
    finally:
        sys.setprofile(None)

    assert called == ["write", "__enter__", "transact", "__exit__"]


def test_writes_are_one_transaction(storage: SqlPipelineStorage) -> None:
    """What is raised in the work comes out as it is, and leaves nothing behind."""

    def work(connection: Connection) -> None:
        connection.execute(insert(schema.pipeline_execution), execution_row("run"))
        raise LookupError("the work's own")

    with pytest.raises(LookupError, match="the work's own"):
        storage.database.write(work)

    assert storage.get_pipeline_execution("run") is None


def test_another_driver_of_postgresql(empty_postgresql_url: str) -> None:
    """What is built and reported through a driver that begins transactions by itself is committed: others see it."""
    url = make_url(empty_postgresql_url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    with closing(SqlPipelineStorage(url)) as storage, closing(SqlPipelineStorage(empty_postgresql_url)) as other:
        storage.upgrade()
        build(storage, "run")
        [result] = storage.get_task_results("run")
        for status in (PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE):
            result.report_status_change(RecordingReporter(), status)
            [seen] = other.get_task_results("run")
            assert seen.get_status() is status
        assert [*storage.cleanup()] == ["run"]
        assert list(other.get_pipeline_executions()) == []


def session(connection: Connection) -> int:
    """The server's number of the connection."""
    statement = "SELECT pg_backend_pid()" if connection.dialect.name == "postgresql" else "SELECT CONNECTION_ID()"
    return int(connection.execute(text(statement)).scalar_one())


def end_postgresql_sessions(connection: Connection) -> int:
    """End every session of the database but this; returns how many."""
    # Autovacuum comes to any database, and is no session of anybody's.
    statement = (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return int(connection.execute(text(statement)).scalar_one())


def end_mariadb_sessions(connection: Connection) -> int:
    """End every session of the database but this; returns how many."""
    statement = text("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
    sessions = connection.execute(statement).scalars().all()
    for id_ in sessions:
        connection.execute(text(f"KILL {id_}"))
    while connection.execute(statement).first() is not None:
        time.sleep(0.01)
    return len(sessions)


class TestLostConnection:
    """The server ends a connection."""

    @pytest.fixture
    def storage(self, server_url: str) -> Iterator[SqlPipelineStorage]:
        """A storage with a connection in its pool."""
        with closing(SqlPipelineStorage(server_url)) as storage:
            build(storage, "first")
            yield storage

    @pytest.fixture
    def terminate(self, server_url: str) -> Iterator[Callable[[], int]]:
        """Ends every connection to the database but its own; returns how many."""
        admin = create_engine(make_url(server_url))
        end_sessions = end_postgresql_sessions if admin.dialect.name == "postgresql" else end_mariadb_sessions

        def run() -> int:
            with admin.connect() as connection:
                return end_sessions(connection)

        yield run
        admin.dispose()

    def test_while_idle(self, storage: SqlPipelineStorage, terminate: Callable[[], int]) -> None:
        """A read and a write after it work, as if nothing had been."""
        assert terminate() == 1
        assert storage.get_pipeline_execution("first") is not None
        assert terminate() == 1
        build(storage, "second")

        assert {execution.run_id for execution in storage.get_pipeline_executions()} == {"first", "second"}

    def test_a_read_after_a_write_that_connected(
        self, storage: SqlPipelineStorage, terminate: Callable[[], int]
    ) -> None:
        """A connection that a write made anew is lost too: the read after it works."""
        assert terminate() == 1
        build(storage, "second")
        assert terminate() == 1

        assert {execution.run_id for execution in storage.get_pipeline_executions()} == {"first", "second"}

    def test_in_a_transaction(self, storage: SqlPipelineStorage, terminate: Callable[[], int]) -> None:
        """The transaction is run again, and once alone takes effect."""
        attempts = []

        def work(connection: Connection) -> str:
            attempts.append(session(connection))
            connection.execute(insert(schema.pipeline_execution), execution_row("second"))
            if len(attempts) == 1:
                assert terminate() == 1
            connection.execute(select(1))
            return "the result"

        assert storage.database.write(work) == "the result"
        assert len(set(attempts)) == 2
        assert {execution.run_id for execution in storage.get_pipeline_executions()} == {"first", "second"}

    def test_not_for_ever(
        self, storage: SqlPipelineStorage, terminate: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A transaction that never gets through is given up, after pauses that grow."""
        attempts: list[int] = []
        pauses: list[float] = []
        monkeypatch.setattr(engine_module, "time", SimpleNamespace(sleep=pauses.append))

        def work(connection: Connection) -> None:
            attempts.append(terminate())
            connection.execute(select(1))

        with pytest.raises(DBAPIError):
            storage.database.write(work)
        assert attempts == [1] * ATTEMPTS
        assert len(pauses) == ATTEMPTS - 1
        assert pauses == sorted(set(pauses))


class _TimeIsUp(Exception):
    """An exception of a signal handler, raised anywhere in the main thread, such as Celery's soft time limit."""


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_signal_that_raises_in_the_middle_of_a_statement(server_url: str, how: str) -> None:
    """The exception is raised as it is, and its connection, with an answer under way, is not used again."""
    statement = text("SELECT SLEEP(60)" if "mariadb" in server_url else "SELECT pg_sleep(60)")

    def raise_it(*_: object) -> None:
        raise _TimeIsUp

    def run(storage: SqlPipelineStorage) -> None:
        if how == "write":
            storage.database.write(lambda connection: connection.execute(statement))
        with storage.database.read() as connection:
            connection.execute(statement)

    with closing(SqlPipelineStorage(server_url)) as storage:
        before = signal.signal(signal.SIGALRM, raise_it)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(_TimeIsUp):
                run(storage)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        with storage.database.read() as connection:
            assert connection.execute(text("SELECT 42")).scalar() == 42
        assert storage.database.write(lambda connection: connection.execute(text("SELECT 43")).scalar()) == 43


def test_deadlock(server_url: str) -> None:
    """Of two transactions that wait for each other the server ends one; it is run again, and both take effect."""
    table = schema.pipeline_execution
    with closing(SqlPipelineStorage(server_url)) as storage:
        first, second = build(storage, "first").id, build(storage, "second").id
        both_hold_one = threading.Barrier(2)
        attempts: list[str] = []
        results: list[str] = []

        def change(name: str, ids: tuple[int, int]) -> None:
            is_first_attempt = True

            def work(connection: Connection) -> str:
                nonlocal is_first_attempt
                attempts.append(name)
                for id_ in ids:
                    # Append to the other transaction's message, so that a lost update would be visible.
                    message = table.c.started_message.concat(name)
                    connection.execute(update(table).where(table.c.id == id_).values(started_message=message))
                    if is_first_attempt:
                        is_first_attempt = False
                        both_hold_one.wait(10)
                return name

            results.append(storage.database.write(work))

        storage.database.write(lambda connection: connection.execute(update(table).values(started_message="")))
        threads = [
            threading.Thread(target=change, args=("a", (first, second))),
            threading.Thread(target=change, args=("b", (second, first))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        with storage.database.read() as connection:
            stored = connection.execute(select(table.c.started_message)).scalars().all()
    assert sorted(results) == ["a", "b"]
    assert len(attempts) == 3
    assert [sorted(value) for value in stored] == [["a", "b"], ["a", "b"]]


def in_child(work: Callable[[], object]) -> None:
    """Run it in a forked child, which leaves as Celery's do; the test fails if it raised."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - nothing of the test run may go on in the child
            traceback.print_exc()
        finally:
            os._exit(status)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class TestFork:
    """A storage that was used before a fork."""

    def test_both_use_it(self, storage: SqlPipelineStorage) -> None:
        """Parent and child both write and read, in turn and after each other's death."""
        build(storage, "parent 1")

        def child() -> None:
            build(storage, "child")
            assert len(storage.get_pipeline_executions()) == 2
            # As Celery's children end theirs when they are told to.
            storage.close()

        in_child(child)
        build(storage, "parent 2")
        in_child(lambda: build(storage, "second child"))

        assert [execution.run_id for execution in storage.get_pipeline_executions()] == [
            "second child",
            "parent 2",
            "child",
            "parent 1",
        ]
        if storage.database.dialect == "sqlite":
            with storage.database.read() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"

    def test_parents_session_survives(self, server_url: str) -> None:
        """The child opens a session of its own, and its end does not end the parent's, in a transaction or idle."""
        with closing(SqlPipelineStorage(server_url)) as storage:
            build(storage, "parent")

            def session_now() -> int:
                with storage.database.read() as connection:
                    return session(connection)

            parents = session_now()

            def child() -> None:
                assert session_now() != parents
                storage.close()

            in_child(child)
            assert session_now() == parents

            def work(connection: Connection) -> int:
                connection.execute(insert(schema.pipeline_execution), execution_row("in transaction"))
                in_child(child)
                return session(connection)

            assert storage.database.write(work) == parents
            assert len(storage.get_pipeline_executions()) == 2

    @pytest.mark.slow
    def test_fork_beside_a_transaction(self, storage: SqlPipelineStorage) -> None:
        """A child forked while another thread writes is not held up by the locks that thread had."""
        build(storage, "parent")
        in_work, go_on = threading.Event(), threading.Event()

        def work(connection: Connection) -> None:
            in_work.set()
            assert go_on.wait(30)

        thread = threading.Thread(target=storage.database.write, args=(work,))
        thread.start()
        assert in_work.wait(30)
        try:
            in_child(lambda: storage.get_pipeline_execution("parent").get_status())  # type: ignore[union-attr]
        finally:
            go_on.set()
            thread.join(30)

    def test_memory_is_the_childs_own(self) -> None:
        """A database in memory is empty in the child, which makes its schema again; the parent's stays."""
        storage = SqlPipelineStorage("sqlite://")
        build(storage, "parent")

        def child() -> None:
            assert len(storage.get_pipeline_executions()) == 0
            build(storage, "child")

        in_child(child)

        assert [execution.run_id for execution in storage.get_pipeline_executions()] == ["parent"]
        storage.close()

    def test_given_engine(self, empty_server_url: str) -> None:
        """A user's engine is not shared with the child either."""
        engine = create_engine(make_url(empty_server_url))
        storage = SqlPipelineStorage(engine=engine)
        storage.upgrade()

        in_child(lambda: build(storage, "child"))

        build(storage, "parent")
        assert len(storage.get_pipeline_executions()) == 2
        engine.dispose()
