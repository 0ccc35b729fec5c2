"""The schema in a database: made by migrations, checked before use."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect, text

from otel_storage.results.exceptions import SchemaMismatch
from otel_storage.sql.database import migrate, schema
from otel_storage.sql.database.migrate import MIGRATIONS, known_versions
from otel_storage.sql.database.schema import SCHEMA_VERSION, VERSION_TABLE
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

PROCESSES = 8

PARTS = 4
"""An upgrade cut short at each of its statements is thousands that a server writes to its disk: so many tests of it."""


def build(storage: SqlPipelineStorage, run_id: str) -> object:
    """A run of one record of each kind."""
    return storage.build_pipeline_execution(Pipeline(Task()), run_id, Runner(), RecordingReporter(), {})


@pytest.fixture
def storage(empty_database_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage on an empty database of each engine."""
    with closing(SqlPipelineStorage(empty_database_url)) as storage:
        yield storage


@pytest.fixture
def on_server(empty_server_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage on an empty database of each server."""
    with closing(SqlPipelineStorage(empty_server_url)) as storage:
        yield storage


def tables(storage: SqlPipelineStorage) -> set[str]:
    """The names of the database's tables."""
    with storage.database.engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def set_version(storage: SqlPipelineStorage, version: str) -> None:
    """Write another version into the database."""
    with storage.database.engine.begin() as connection:
        statement = text(f"UPDATE {VERSION_TABLE} SET version_num = :version")  # noqa: S608 - a constant
        connection.execute(statement, {"version": version})


def test_version_is_the_last_migrations() -> None:
    """The version that the code works with is Alembic's only head, and every migration is known."""
    migrations = ScriptDirectory(str(MIGRATIONS))

    assert migrations.get_heads() == [SCHEMA_VERSION]
    assert known_versions() == {script.revision for script in migrations.walk_revisions()}
    assert len(list((MIGRATIONS / "versions").glob("v*.py"))) == len(known_versions())


def test_migrations_make_the_tables_of_the_code(storage: SqlPipelineStorage) -> None:
    """The migrated schema has what the metadata has, and nothing else, on each engine."""
    storage.upgrade()

    with storage.database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True},
        )
        differences = compare_metadata(context, schema.metadata)

    assert differences == []
    assert tables(storage) == {*schema.metadata.tables, VERSION_TABLE}


def test_comparison_can_find_a_difference(storage: SqlPipelineStorage) -> None:
    """The comparison above sees a column, an index and a type that are not the metadata's."""
    storage.upgrade()
    with storage.database.engine.begin() as connection:
        index = next(i for i in schema.outbox.indexes if i.name == "ix_otel_storage_outbox_execution_id_record_id")
        index.drop(connection)
        connection.execute(text("ALTER TABLE otel_storage_outbox ADD COLUMN extra INTEGER"))

    with storage.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        kinds = {difference[0] for difference in compare_metadata(context, schema.metadata)}

    assert kinds == {"add_index", "remove_column"}


def _constraints(connection: Connection) -> dict[str, Any]:
    found = inspect(connection)
    return {
        name: (
            found.get_pk_constraint(name)["constrained_columns"],
            sorted(
                (key["constrained_columns"], key["referred_table"], key["options"].get("ondelete"))
                for key in found.get_foreign_keys(name)
            ),
            sorted(unique["column_names"] for unique in found.get_unique_constraints(name)),
            sorted((str(column["name"]), column["nullable"]) for column in found.get_columns(name)),
        )
        for name in schema.metadata.tables
    }


def test_constraints(storage: SqlPipelineStorage) -> None:
    """Keys, what deleting a parent does, and what may be null are the same too, which the comparison passes over."""
    storage.upgrade()
    with storage.database.engine.begin() as connection:
        migrated = _constraints(connection)
        schema.metadata.drop_all(connection)
        schema.metadata.create_all(connection)
        created = _constraints(connection)

    assert migrated == created


def test_ids_are_never_used_again(storage: SqlPipelineStorage) -> None:
    """The migrated tables give a removed record's id to no other."""
    storage.upgrade()
    first = storage.build_pipeline_execution(Pipeline(Task()), "first", Runner(), RecordingReporter(), {})
    storage.cleanup()

    second = storage.build_pipeline_execution(Pipeline(Task()), "second", Runner(), RecordingReporter(), {})

    assert second.id > first.id


def test_sqlite_makes_its_schema(empty_sqlite_url: str) -> None:
    """A new file has the schema after the first use, whatever that is, and nothing before it."""
    uses: list[Callable[[SqlPipelineStorage], object]] = [
        lambda storage: storage.get_pipeline_execution("run"),
        lambda storage: build(storage, "run"),
        lambda storage: storage.cleanup(),
        lambda storage: len(storage.get_task_results()),
    ]
    for number, use in enumerate(uses):
        with closing(SqlPipelineStorage(f"{empty_sqlite_url}.{number}")) as storage:
            assert storage.current() is None
            use(storage)
            assert storage.current() == SCHEMA_VERSION


def test_server_is_left_alone(on_server: SqlPipelineStorage) -> None:
    """A server's database is given no schema by using it: the error names the command that does."""
    uses: list[Callable[[], object]] = [
        lambda: on_server.get_pipeline_execution("run"),
        lambda: build(on_server, "run"),
        on_server.cleanup,
        lambda: len(on_server.get_task_results()),
    ]
    for use in uses:
        with pytest.raises(SchemaMismatch) as caught:
            use()
        shown = on_server.url
        assert str(caught.value) == f"{shown} has no schema yet; run: otel-storage db upgrade --url {shown}"
        assert "***" in shown

    assert tables(on_server) == set()
    assert on_server.current() is None
    on_server.upgrade()
    build(on_server, "run")


def test_upgrade_twice(storage: SqlPipelineStorage) -> None:
    """A second upgrade changes nothing, by the same storage or by another."""
    storage.upgrade()
    build(storage, "run")
    storage.upgrade()
    with closing(SqlPipelineStorage(storage.database.engine.url)) as other:
        other.upgrade()
        assert other.current() == SCHEMA_VERSION

    assert [execution.run_id for execution in storage.get_pipeline_executions()] == ["run"]


def test_newer_schema(storage: SqlPipelineStorage, empty_database_url: str) -> None:
    """A schema of a later version of the package is neither used nor touched; the error says what to upgrade."""
    storage.upgrade()
    set_version(storage, "9999")
    with closing(SqlPipelineStorage(empty_database_url)) as later:
        uses: list[Callable[[], object]] = [later.upgrade, later.get_pipeline_digest, lambda: build(later, "run")]
        for use in uses:
            with pytest.raises(SchemaMismatch) as caught:
                use()
            assert "is version 9999, newer than this package's" in str(caught.value)
            assert str(caught.value).endswith("upgrade otel-storage in this environment")
        assert later.current() == "9999"


def test_older_schema(on_server: SqlPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's schema of an earlier version is not used; the error names the command that upgrades it."""
    on_server.upgrade()
    # As if the code were ahead of its last migration.
    monkeypatch.setattr(schema, "SCHEMA_VERSION", "9998")
    monkeypatch.setattr(migrate, "SCHEMA_VERSION", "9998")
    with closing(SqlPipelineStorage(on_server.database.engine.url)) as later, pytest.raises(SchemaMismatch) as caught:
        later.get_pipeline_digest()

    assert f"is version {SCHEMA_VERSION}, older than this package's 9998" in str(caught.value)
    assert str(caught.value).endswith(f"run: otel-storage db upgrade --url {on_server.url}")


def test_first_schema_is_brought_up_with_its_rows(storage: SqlPipelineStorage) -> None:
    """The schema of the first version is upgraded, and what is in it stays: a run, and the reference to its spans."""
    with storage.database.engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        now = "2026-11-24 08:00:00"
        connection.execute(
            text(
                "INSERT INTO otel_storage_pipeline_execution (run_id, pipeline_id, pipeline_result_count,"
                " task_result_count, status, created, started, completed)"
                " VALUES ('run', 'shop.Orders', 0, 0, 'DONE', :now, :now, :now)"
            ),
            {"now": now},
        )
        connection.execute(
            text(
                "INSERT INTO otel_storage_outbox (kind, record_id, execution_id, state, created, due, attempts)"
                " VALUES ('PipelineExecution', 1, 1, 'waiting', :now, :now, 0)"
            ),
            {"now": now},
        )
    assert storage.current() == "0001"

    storage.upgrade()

    assert storage.current() == SCHEMA_VERSION
    assert [execution.run_id for execution in storage.get_pipeline_executions()] == ["run"]
    assert storage.outbox.status().waiting == 1
    digest = storage.get_pipeline_digest()
    assert digest["shop.Orders"].total_success == 1
    assert storage.totals.count()
    assert [total.count for total in storage.totals.read(as_shown=False).totals if total.count] == [1]
    assert storage.get_pipeline_digest() == digest
    build(storage, "another")


def test_version_table_without_a_version(storage: SqlPipelineStorage) -> None:
    """A version table that is empty, as an upgrade that was cut short could leave it, is no schema."""
    with storage.database.engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)"))

    assert storage.current() is None
    storage.upgrade()
    assert storage.current() == SCHEMA_VERSION


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_upgrade_is_all_or_nothing(engine: str, request: pytest.FixtureRequest) -> None:
    """An upgrade that fails leaves the database as it was; MariaDB commits as it goes, see below."""
    storage = SqlPipelineStorage(request.getfixturevalue(f"empty_{engine}_url"))
    with storage.database.engine.begin() as connection:
        # The last table that the first migration makes.
        connection.execute(text("CREATE TABLE otel_storage_failure (id INTEGER)"))

    with pytest.raises(Exception, match="otel_storage_failure"):
        storage.upgrade()

    assert tables(storage) == {"otel_storage_failure"}
    storage.close()


class TestUpgradeCutShort:
    """MariaDB commits every change of a schema at once, so an upgrade can be left half done: the next one goes on."""

    @pytest.fixture
    def storage(self, empty_mariadb_url: str) -> Iterator[SqlPipelineStorage]:
        """A storage on an empty database."""
        with closing(SqlPipelineStorage(empty_mariadb_url)) as storage:
            yield storage

    @pytest.mark.slow
    @pytest.mark.parametrize("first", range(1, PARTS + 1))
    def test_at_any_statement(self, storage: SqlPipelineStorage, first: int) -> None:
        """Whichever statement is the last of it, the schema is not taken for done, and the next upgrade finishes it."""
        for number in itertools.count(first, PARTS):
            with storage.database.engine.begin() as connection:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {VERSION_TABLE}")
                schema.metadata.drop_all(connection)
            with cut_after(storage, number) as done:
                try:
                    storage.upgrade()
                except LookupError:
                    # No longer than that: what is not there is not looked for.
                    assert storage.current() != SCHEMA_VERSION
                else:
                    assert len(done) > 20
                    return
            with closing(SqlPipelineStorage(storage.database.engine.url)) as other:
                with pytest.raises(SchemaMismatch, match="run: otel-storage db upgrade"):
                    build(other, "run")
                other.upgrade()
                with other.database.engine.connect() as connection:
                    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
                    assert compare_metadata(context, schema.metadata) == []
                build(other, "run")

    def test_foreign_table(self, storage: SqlPipelineStorage) -> None:
        """A table that is no work of an upgrade is not passed over; when it is out of the way the next one goes on."""
        with storage.database.engine.begin() as connection:
            connection.execute(text("CREATE TABLE otel_storage_sender (id INTEGER, name VARCHAR(10))"))

        with pytest.raises(SchemaMismatch) as caught:
            storage.upgrade()

        assert str(caught.value) == (
            f"the table otel_storage_sender of {storage.url} is not one of this package: its columns are id, name; "
            "remove it or rename it, and upgrade again"
        )
        assert storage.current() != SCHEMA_VERSION
        with storage.database.engine.begin() as connection:
            connection.execute(text("RENAME TABLE otel_storage_sender TO another"))
        storage.upgrade()
        assert storage.current() == SCHEMA_VERSION
        build(storage, "run")


@contextmanager
def cut_after(storage: SqlPipelineStorage, number: int) -> Iterator[list[str]]:
    """Have the statement after so many that change the schema or its version fail; those are listed."""
    done: list[str] = []

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.split(maxsplit=1)[0] in ("CREATE", "ALTER", "INSERT", "UPDATE"):
            if len(done) == number:
                raise LookupError("cut short")
            done.append(statement)

    event.listen(storage.database.engine, "before_cursor_execute", execute)
    yield done
    event.remove(storage.database.engine, "before_cursor_execute", execute)


def test_folder_with_a_percent_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations are found wherever the package is installed: Alembic's options would take ``%`` for a variable."""
    folder = tmp_path / "100% %(here)s"
    folder.symlink_to(MIGRATIONS.parent)
    monkeypatch.setattr(migrate, "MIGRATIONS", folder / MIGRATIONS.name)

    assert known_versions() >= {SCHEMA_VERSION}
    with closing(SqlPipelineStorage("sqlite://")) as storage:
        build(storage, "run")


def _open_at_once(barrier: Barrier, urls: list[str], number: int, upgrade: bool) -> None:
    """In a process of its own: open each database when all others do."""
    for url in urls:
        with closing(SqlPipelineStorage(url)) as storage:
            barrier.wait(20)
            if upgrade:
                storage.upgrade()
            build(storage, f"run {number}")


def open_at_once(urls: list[str], *, upgrade: bool) -> None:
    """Open the databases one after the other, each in eight fresh processes at once; all must succeed."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(PROCESSES)
    processes = [spawn.Process(target=_open_at_once, args=(barrier, urls, n, upgrade)) for n in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        if process.exitcode != 0:
            barrier.abort()

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    for url in urls:
        with closing(SqlPipelineStorage(url)) as storage:
            assert storage.current() == SCHEMA_VERSION
            assert {e.run_id for e in storage.get_pipeline_executions()} == {f"run {n}" for n in range(PROCESSES)}


@pytest.mark.slow
def test_threads_make_their_schemas_at_once() -> None:
    """Storages of one process that make their schemas at the same time do not come into each other's."""
    barrier = threading.Barrier(4)

    def make(_: int) -> str | None:
        with closing(SqlPipelineStorage("sqlite://")) as storage:
            barrier.wait(20)
            build(storage, "run")
            return storage.current()

    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            assert list(threads.map(make, range(4))) == [SCHEMA_VERSION] * 4


@pytest.mark.slow
def test_processes_open_a_new_file_at_once(empty_sqlite_url: str) -> None:
    """Of the processes that open a new file one makes the schema; the others wait for it, and all can write."""
    open_at_once([f"{empty_sqlite_url}.{number}" for number in range(30)], upgrade=False)


def test_processes_upgrade_a_server_at_once(empty_server_url: str) -> None:
    """Of the processes that upgrade a server's database one does; the others wait for it and find it done."""
    open_at_once([empty_server_url], upgrade=True)
