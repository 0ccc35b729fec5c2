"""What MariaDB alone does otherwise, and must not do here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Connection, create_engine, event, func, insert, make_url, select, update
from sqlalchemy.exc import DataError

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.ports.outbox import Settling
from otel_storage.results.exceptions import ConfigurationError, InvalidInput, RunExists
from otel_storage.sql.database import schema
from otel_storage.sql.database.durations import microseconds_between
from otel_storage.sql.database.engine import Database
from otel_storage.sql.database.mariadb import unless_done
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import START, ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.servers import MariadbServer, mariadb_server

RUNNING, DONE = PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE
LEASE = timedelta(seconds=30)
AT_ONCE = Settling(quiet=timedelta(0), after=timedelta(days=1))

# Fail soon on a lock, so that a test that meets one does not take a minute.
IMPATIENT = {"init_command": "SET innodb_lock_wait_timeout = 1"}


def build(storage: SqlPipelineStorage, run_id: str, objects: int = 1) -> Any:
    """A run of so many task results."""
    pipeline = Pipeline(Task(objects=range(objects)))
    return storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {"run": run_id})


def as_it_is(value: object) -> object:
    """The object, serialized."""
    return value


def upgraded(url: Any) -> SqlPipelineStorage:
    """A storage on the database, with the schema made."""
    storage = SqlPipelineStorage(url)
    storage.upgrade()
    return storage


@pytest.fixture
def storage(mariadb_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage with the schema."""
    with closing(upgraded(mariadb_url)) as storage:
        yield storage


@pytest.fixture(params=["own engine", "given engine"])
def impatient(request: pytest.FixtureRequest, mariadb_url: str) -> Iterator[SqlPipelineStorage]:
    """A storage that waits for a lock no longer than a second, on its own engine and on a user's, with the schema."""
    url = make_url(mariadb_url).update_query_dict(IMPATIENT)
    if request.param == "own engine":
        with closing(upgraded(url)) as storage:
            yield storage
    else:
        engine = create_engine(url.set(drivername="mysql+pymysql"))
        storage = SqlPipelineStorage(engine=engine)
        storage.upgrade()
        yield storage
        engine.dispose()


class TestSession:
    """How a connection is set up, whatever the server's defaults are."""

    def test_settings(self, storage: SqlPipelineStorage) -> None:
        """Isolation, strictness and character set are ours; the server's isolation is another."""
        with storage.database.read() as connection:
            assert connection.get_isolation_level() == "READ COMMITTED"
            assert connection.exec_driver_sql("SELECT @@GLOBAL.tx_isolation").scalar() == "REPEATABLE-READ"
            mode = str(connection.exec_driver_sql("SELECT @@sql_mode").scalar())
            charset = connection.exec_driver_sql("SELECT @@character_set_connection").scalar()

        assert "STRICT_ALL_TABLES" in mode.split(",")
        assert charset == "utf8mb4"

    @pytest.mark.parametrize("option", ["sql_mode=", "charset=latin1"])
    def test_url_does_not_loosen_them(self, mariadb_url: str, option: str) -> None:
        """An option in the URL that would have values cut or changed does not."""
        with closing(upgraded(f"{mariadb_url}?{option}")) as storage:
            build(storage, "\U0001f600")
            assert storage.get_pipeline_executions()[0].run_id == "\U0001f600"
            with pytest.raises(DataError, match="Data too long"):
                storage.database.write(lambda c: c.execute(update(schema.pipeline_execution).values(run_id="x" * 256)))

    def test_given_engine_writes_read_committed(self, mariadb_url: str) -> None:
        """A user's engine, REPEATABLE READ as the server has it, is left so, and is READ COMMITTED for our writes."""
        engine = create_engine(mariadb_url)
        storage = SqlPipelineStorage(engine=engine)
        storage.upgrade()

        assert storage.database.write(lambda connection: connection.get_isolation_level()) == "READ COMMITTED"
        with engine.connect() as connection:
            assert connection.get_isolation_level() == "REPEATABLE READ"
        engine.dispose()

    def test_a_query_sees_what_is_committed(self, storage: SqlPipelineStorage, mariadb_url: str) -> None:
        """Each query of one read sees what was committed before it, not before the first."""
        count = select(func.count()).select_from(schema.pipeline_execution)
        with closing(SqlPipelineStorage(mariadb_url)) as other, storage.database.read() as connection:
            assert connection.execute(count).scalar() == 0
            build(other, "run")
            assert connection.execute(count).scalar() == 1

    def test_rows_that_match_are_counted(self, storage: SqlPipelineStorage) -> None:
        """An UPDATE that finds its row and changes nothing in it has found it: a lease is renewed at once."""
        build(storage, "run")
        statement = update(schema.pipeline_execution).values(pipeline_id=schema.pipeline_execution.c.pipeline_id)
        still = SqlPipelineStorage(storage.database.engine.url, clock=ManualClock())

        assert storage.database.write(lambda connection: connection.execute(statement).rowcount) == 1

        with closing(still), closing(traced_on(still)) as traced:
            run_through(traced, "traced")
            claims = still.outbox.claim_task_results(10, LEASE)
            ids = [claim.reference_id for claim in claims.claims]
            assert ids
            assert set(still.outbox.renew(claims.token, ids, LEASE)) == set(ids)


class TestValues:
    """What is kept of what is given."""

    RUN_IDS = ("run", "Run", "RUN", "run ", "run  ", " run", "r\u00fcn", "rue\u0308n", "run\u00df", "runss")
    BEYOND_16_BITS = ("run\U0001f600", "run\U0001f601", "run\ufffd")

    def test_ids_that_look_alike(self, storage: SqlPipelineStorage) -> None:
        """Run ids that differ in case, accents, blanks at the end or characters of four bytes are different runs."""
        run_ids = [*self.RUN_IDS, *self.BEYOND_16_BITS]
        for run_id in run_ids:
            build(storage, run_id)

        for run_id in run_ids:
            execution = storage.get_pipeline_execution(run_id)
            assert execution is not None
            assert (execution.run_id, execution.get_input_data()) == (run_id, {"run": run_id})
            assert len(storage.get_task_results(run_id)) == 1
            with pytest.raises(RunExists):
                build(storage, run_id)
        assert storage.get_pipeline_execution("RuN") is None
        assert storage.get_pipeline_execution("run   ") is None

    def test_pipelines_that_look_alike(self, storage: SqlPipelineStorage) -> None:
        """The digest tells pipelines apart that differ in the same way."""
        ids = [*self.RUN_IDS, *self.BEYOND_16_BITS]
        for number, pipeline_id in enumerate(ids):
            pipeline = Pipeline(Task(), id=pipeline_id)
            storage.build_pipeline_execution(pipeline, str(number), Runner(), RecordingReporter(), {})

        assert {id_: item.total_runs for id_, item in storage.get_pipeline_digest().items()} == dict.fromkeys(ids, 1)

    def test_microseconds(self, storage: SqlPipelineStorage) -> None:
        """Times keep their microseconds, and so do the seconds between them and their average."""
        table = schema.pipeline_execution
        rows = [
            {
                "run_id": str(micros),
                "pipeline_id": "shop.Orders",
                "pipeline_result_count": 0,
                "task_result_count": 0,
                "status": DONE,
                "created": START,
                "started": START + timedelta(microseconds=1),
                "completed": START + timedelta(days=40, microseconds=1 + micros),
            }
            for micros in (3, 5)
        ]
        storage.database.write(lambda connection: connection.execute(insert(table), rows))

        with storage.database.read() as connection:
            between = microseconds_between(table.c.started, table.c.completed)
            found = connection.execute(select(between).order_by(table.c.id)).scalars().all()

        assert [execution.started for execution in storage.get_pipeline_executions()] == [rows[0]["started"]] * 2
        assert found == [40 * 86_400_000_000 + 3, 40 * 86_400_000_000 + 5]
        average = storage.get_pipeline_digest()["shop.Orders"].average_runtime
        assert average == timedelta(days=40, microseconds=4)

    def test_quoting(self, storage: SqlPipelineStorage) -> None:
        """What the driver has to quote in a statement comes back as it was."""
        message = "100 % of 'it' \\ \"that\" \\' %s %(at)s \r\n\t\x1a \\0 \\Z -- /* */ ;"
        build(storage, "run")
        [result] = storage.get_task_results("run")
        result.report_status_change(RecordingReporter(), DONE, message)

        assert storage.get_task_results("run")[0].get_status_message() == message


class TestIds:
    """The ids of rows that are inserted in bulk, which MariaDB gives afterwards."""

    @pytest.mark.parametrize("step", [1, 3])
    def test_belong_to_their_rows(self, mariadb_url: str, step: int) -> None:
        """Each record has the id of its own row, with builders side by side and where ids go in steps (Galera)."""
        url = make_url(mariadb_url).update_query_dict({"init_command": f"SET auto_increment_increment = {step}"})
        pipeline = Pipeline(Task("load", objects=range(1500), serialize=as_it_is), Task("check"), objects=["n", "s"])
        wrong: list[Any] = []
        with closing(upgraded(url)) as storage:

            def work(number: int) -> None:
                for turn in range(3):
                    run_id = f"{number}-{turn}"
                    reporter = RecordingReporter()
                    storage.build_pipeline_execution(pipeline, run_id, Runner(), reporter, {})
                    reported = [report.id for report in reporter.reports if report.kind == "TaskResult"]
                    stored = list(storage.get_task_results(run_id))
                    if [result.id for result in stored] != reported:
                        wrong.append((run_id, "reported"))
                    by_task: dict[int, list[Any]] = {}
                    for result in stored:
                        by_task.setdefault(result.get_task_execution().id, []).append(result.serializable_task_object)
                    if list(by_task.values()) != [list(range(1500)), [None]] * 2:
                        wrong.append((run_id, "objects"))

            in_threads(work, 3)

            assert wrong == []
            assert len(storage.get_task_results()) == 9 * 2 * 1501


class TestLocks:
    """Which transactions wait for each other: none for rows that do not exist, and no sender for another."""

    def test_building_beside_a_cleanup(self, impatient: SqlPipelineStorage) -> None:
        """A run is built and run while a cleanup holds all there are, and the gap behind them."""
        build(impatient, "old")
        with while_executing(impatient, "DELETE FROM otel_storage_pipeline_execution") as told:
            told(lambda: run_through(impatient, "new"))
            assert impatient.cleanup() == ["old"]

        assert [execution.run_id for execution in impatient.get_pipeline_executions()] == ["new"]

    def test_building_beside_a_claim(self, impatient: SqlPipelineStorage) -> None:
        """References are written while a sender holds all that it has just claimed."""
        with closing(traced_on(impatient)) as traced:
            run_through(traced, "old")
            with while_executing(impatient, "UPDATE otel_storage_outbox") as told:
                told(lambda: run_through(traced, "new"))
                assert len(impatient.outbox.claim_task_results(100, LEASE).claims) == 1
            assert len(impatient.outbox.claim_task_results(100, LEASE).claims) == 1

    def test_claims_side_by_side(self, impatient: SqlPipelineStorage) -> None:
        """A sender takes no more of what is due than it asked for from another that claims in the same moment."""
        with closing(traced_on(impatient)) as traced:
            for number in range(60):
                run_through(traced, f"run {number}")
        outbox = schema.outbox
        # Runs of both states that wait: half of them were looked at before.
        impatient.database.write(
            lambda c: c.execute(
                update(outbox).where(outbox.c.kind == "PipelineExecution", outbox.c.id % 4 == 1).values(state="held")
            )
        )
        impatient.database.write(lambda c: c.execute(outbox.delete().where(outbox.c.kind == "TaskResult")))
        others: list[Any] = []
        with while_executing(impatient, "UPDATE otel_storage_outbox") as told:
            told(lambda: others.append(impatient.outbox.claim_runs(10, LEASE, AT_ONCE)))
            mine = impatient.outbox.claim_runs(10, LEASE, AT_ONCE)

        claimed = [claim.reference_id for claims in (mine, *others) for claim in claims.claims]
        assert len(others) == 1
        assert len(mine.claims) == len(others[0].claims) == 10
        assert len(set(claimed)) == 20

    def test_a_run_ends_while_its_spans_are_removed(self, impatient: SqlPipelineStorage) -> None:
        """The report that ends a run touches no reference but the run's: the others are being removed by a sender."""
        with closing(traced_on(impatient)) as traced:
            run_through(traced, "run", final=False)
            claims = impatient.outbox.claim_task_results(10, LEASE)
            execution = traced.get_pipeline_execution("run")
            assert execution is not None
            with while_executing(impatient, "DELETE FROM otel_storage_outbox", after=True) as told:
                told(lambda: execution.report_status_change(RecordingReporter(), DONE))
                ids = [claim.reference_id for claim in claims.claims]
                assert impatient.outbox.settle(claims.token, ids) == 1
            assert len(impatient.outbox.claim_runs(10, LEASE, AT_ONCE).claims) == 1

    def test_a_row_is_locked_by_its_id(self, storage: SqlPipelineStorage) -> None:
        """A change of status looks a record up by its id, not by an index on the status that it is to leave.

        Rows that are locked by both, one first here and the other there, make deadlocks.
        """
        build(storage, "run")
        [result] = storage.get_task_results("run")
        explained: list[tuple[str, str]] = []

        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if statement.startswith("UPDATE"):
                cursor.execute(f"EXPLAIN {statement}", parameters)
                _id, _kind, table, _type, _possible, key, *_ = cursor.fetchone()
                explained.append((table, key))

        event.listen(storage.database.engine, "before_cursor_execute", explain)
        result.report_status_change(RecordingReporter(), RUNNING)

        assert explained == [(table.name, "PRIMARY") for table in schema.LEVELS.values()]

    def test_lock_that_is_held_too_long(self, impatient: SqlPipelineStorage) -> None:
        """A transaction that has waited for a lock in vain (1205) is run again, whole."""
        table = schema.pipeline_execution
        row = build(impatient, "run").id
        attempts: list[int] = []
        held, let_go = threading.Event(), threading.Event()

        def hold(connection: Connection) -> None:
            connection.execute(update(table).values(started_message="first"))
            held.set()
            assert let_go.wait(60)

        def work(connection: Connection) -> None:
            attempts.append(len(attempts))
            if len(attempts) == 2:
                let_go.set()
            message = table.c.started_message.concat(" and second")
            connection.execute(update(table).where(table.c.id == row).values(started_message=message))

        holder = threading.Thread(target=impatient.database.write, args=(hold,))
        holder.start()
        assert held.wait(60)
        try:
            impatient.database.write(work)
        finally:
            let_go.set()
            holder.join(60)

        assert attempts == [0, 1]
        with impatient.database.read() as connection:
            assert connection.execute(select(table.c.started_message)).scalar() == "first and second"


@pytest.fixture(scope="module")
def shared() -> Iterator[MariadbServer]:
    """A server that is not started."""
    with mariadb_server() as server:
        yield server


class TestServer:
    """A server of its own, as it is without any configuration."""

    @pytest.fixture
    def server(self, shared: MariadbServer) -> Iterator[MariadbServer]:
        """The server, with an empty database."""
        shared.start()
        engine = create_engine(shared.url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP DATABASE test")
            connection.exec_driver_sql("CREATE DATABASE test")
        engine.dispose()
        yield shared
        shared.stop()

    @pytest.mark.slow
    @pytest.mark.parametrize("end", [MariadbServer.stop, MariadbServer.kill], ids=["stopped", "killed"])
    def test_ids_after_a_restart(self, server: MariadbServer, end: Callable[[MariadbServer], None]) -> None:
        """The id of a removed record is used by no other, though the server was restarted since; nor is one lost."""
        with closing(upgraded(server.url)) as storage:
            first = build(storage, "first", objects=5)
            last = [result.id for result in storage.get_task_results()][-1]
            storage.cleanup()

            end(server)
            server.start()

            second = build(storage, "second")
            assert second.id > first.id
            assert storage.get_task_results()[0].id > last

    @pytest.mark.slow
    def test_restart_between_calls(self, server: MariadbServer) -> None:
        """After a restart reads, writes and the sending of spans go on with the connections that there are."""
        exporter = InMemorySpanExporter()
        with closing(upgraded(server.url)) as storage, closing(traced_on(storage, exporter=exporter)) as traced:
            run_through(traced, "before")
            result = storage.get_task_results("before")[0]
            for _ in range(2):
                server.stop()
                server.start()
                assert storage.get_task_result(result.id) == result
            server.kill()
            server.start()
            run_through(traced, "after")

            assert traced.delivery.deliver_due().error == ""
            assert len(exporter.get_finished_spans()) == 2 * 4

    @pytest.mark.slow
    def test_largest_values(self, server: MariadbServer) -> None:
        """A value that the server does not take is refused with the setting to raise; of a message a part is stored."""
        with closing(upgraded(server.url)):
            pass
        with closing(SqlPipelineStorage(server.url, message_limit=2**26)) as storage:
            build(storage, "run", objects=4)
            result, *others = storage.get_task_results("run")
            message = "\u20ac" * (16 * 2**20 // 3 - 1000)
            result.report_status_change(RecordingReporter(), RUNNING, message)
            assert storage.get_task_results("run")[0].get_status_message() == message

            # The second is so large only when it is quoted; of the last the server is told before it hangs up.
            for other, too_large in zip(others, ("x" * 30_000_000, "'" * 8_400_000, "x" * 16 * 2**20), strict=True):
                other.report_status_change(RecordingReporter(), RUNNING, too_large)
                with pytest.raises(InvalidInput) as caught:
                    storage.build_pipeline_execution(Pipeline(Task()), "x", Runner(), RecordingReporter(), too_large)
                said = "MariaDB's max_allowed_packet is 16,777,216; raise max_allowed_packet, or store less"
                assert str(caught.value).endswith(said)
            assert {record.get_status() for record in storage.get_task_results("run")} == {RUNNING}
            assert max(len(record.get_status_message()) for record in storage.get_task_results("run")[1:]) < 1000
            assert len(storage.get_pipeline_executions()) == 1

    @pytest.mark.slow
    def test_many_large_rows(self, server: MariadbServer) -> None:
        """A run whose rows together are larger than what the server takes at once is built: they go in parts."""
        pipeline = Pipeline(Task(objects=["x" * 100_000] * 300, serialize=as_it_is))
        with closing(upgraded(server.url)) as storage:
            storage.build_pipeline_execution(pipeline, "run", Runner(), RecordingReporter(), {})

            assert [len(result.serializable_task_object) for result in storage.get_task_results()] == [100_000] * 300

    @pytest.mark.slow
    def test_password_beyond_ascii(self, server: MariadbServer) -> None:
        """A password with other letters is sent as every client sends it."""
        engine = create_engine(server.url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE OR REPLACE USER u@'127.0.0.1' IDENTIFIED BY 'p\u00e4ss\u20acword'")
            connection.exec_driver_sql("GRANT ALL ON test.* TO u@'127.0.0.1'")
        engine.dispose()

        with closing(upgraded(server.url.set(username="u", password="p\u00e4ss\u20acword"))) as storage:
            build(storage, "run")
            assert storage.url.startswith("mariadb+pymysql://u:***@")

    @pytest.mark.parametrize(
        ("version", "reason"),
        [
            ("10.5.29-MariaDB", "it is MariaDB 10.5.29"),
            ("8.0.36", "MySQL version 8.0.36 is not a MariaDB variant"),
        ],
    )
    def test_server_that_will_not_do(self, shared: MariadbServer, version: str, reason: str) -> None:
        """A server that is too old, or MySQL, is refused by each way to use it; the error says what is needed."""
        shared.start(f"--version={version}")
        try:
            for use in (Database.upgrade, Database.current, read):
                database = Database(shared.url)
                with pytest.raises(ConfigurationError) as caught:
                    use(database)
                database.dispose()
                assert str(caught.value) == (
                    f"the server of {database.url} cannot be used: {reason}; use MariaDB 10.6 or newer"
                )
        finally:
            shared.stop()


def read(database: Database) -> None:
    """Reach the database by a query."""
    with database.read():
        raise AssertionError("it was reached")


def test_url_without_a_database(empty_mariadb_url: str) -> None:
    """A URL that names a server alone is refused."""
    database = Database(make_url(empty_mariadb_url).set(database=""))

    for use in (database.upgrade, database.current, lambda: database.write(lambda _: None)):
        with pytest.raises(ConfigurationError, match="names no database; put its name behind the host"):
            use()
    database.dispose()


@pytest.mark.parametrize(
    ("statement", "passing_over"),
    [
        ("\nCREATE TABLE t (id INTEGER)", "\nCREATE TABLE IF NOT EXISTS t (id INTEGER)"),
        ("CREATE INDEX i ON t (id)", "CREATE INDEX IF NOT EXISTS i ON t (id)"),
        ("CREATE UNIQUE INDEX i ON t (id)", "CREATE UNIQUE INDEX IF NOT EXISTS i ON t (id)"),
        ("ALTER TABLE t ADD COLUMN c TEXT", "ALTER TABLE t ADD COLUMN IF NOT EXISTS c TEXT"),
        ("\nDROP INDEX i ON t", "\nDROP INDEX IF EXISTS i ON t"),
        ("SELECT 'CREATE TABLE t'", "SELECT 'CREATE TABLE t'"),
        ("INSERT INTO t VALUES ('ADD COLUMN c')", "INSERT INTO t VALUES ('ADD COLUMN c')"),
    ],
)
def test_unless_done(statement: str, passing_over: str) -> None:
    """What makes something passes over what is there, and what removes it over what is not; all else stays."""
    assert unless_done(statement) == passing_over


def traced_on(storage: SqlPipelineStorage, **options: Any) -> OtelPipelineStorage:
    """A storage with telemetry on the same database, by the same engine."""
    other = SqlPipelineStorage(engine=storage.database.engine, clock=storage.clock)
    options.setdefault("exporter", InMemorySpanExporter())
    return OtelPipelineStorage(storage=other, delivery="external", settle_quiet=0, **options)


def run_through(storage: SqlPipelineStorage | OtelPipelineStorage, run_id: str, *, final: bool = True) -> None:
    """Build a run of one record of each kind, and run it to its end, or but for its own."""
    reporter = RecordingReporter()
    execution = storage.build_pipeline_execution(Pipeline(Task()), run_id, Runner(), reporter, {})
    [result] = storage.get_task_results(run_id)
    result.report_status_change(reporter, RUNNING)
    result.report_status_change(reporter, DONE, propagate=False)
    if final:
        for pipeline_result in execution.get_pipeline_results():
            pipeline_result.report_status_change(reporter, DONE, propagate=False)
        execution.report_status_change(reporter, DONE)


def in_threads(work: Callable[[int], object], count: int) -> None:
    """Do the work in so many threads at once; what one of them raised is raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for error in errors:
        raise error


@contextmanager
def while_executing(
    storage: SqlPipelineStorage, words: str, *, after: bool = False
) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have something done in another thread just before, or ``after``, this thread's first statement that begins so."""
    mine = threading.get_ident()
    todo: list[Callable[[], object]] = []

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == mine and todo and statement.startswith(words):
            work = todo.pop()
            in_threads(lambda _: work(), 1)

    name = "after_cursor_execute" if after else "before_cursor_execute"
    event.listen(storage.database.engine, name, execute)
    yield todo.append
    event.remove(storage.database.engine, name, execute)
    assert todo == []
