"""Status changes a second, reported as the host's runners report them, beside the host's ORM storage and the floor.

``python -m tests.benchmarks.transitions [--url URL]``, in a checkout. The floor is the same statements in as many
transactions: by SQLAlchemy Core, with statements that are made once and a pool as we have it, and by the bare driver on
one connection. Where a thread of the process sends, it sends to a receiver in a process of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Literal

import click
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, event, insert, update

from otel_storage import OtelPipelineStorage, PipelineTaskStatus, SqlPipelineStorage
from otel_storage.sql.database import schema
from otel_storage.testing.pipelines import Runner
from tests.benchmarks.delivery import Keeper
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import Databases, Host, NullReporter, Prepared, databases, medians_of, print_ratios
from tests.benchmarks.receiving import receiver

RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE

EAGER = "status changes, eager"
CELERY = "status changes, the Celery way"

ORM = "the host's ORM storage"
SQL = "SqlPipelineStorage"
ELSEWHERE = "OtelPipelineStorage, sent by another process"
THREAD = "OtelPipelineStorage, sent by its thread"
UNREACHED = "OtelPipelineStorage, no collector"
CORE = "SQLAlchemy Core, the same statements"
DRIVER = "the bare driver, the same statements"
DRIVER_ALONE = "the bare driver, without the references"
ENCODING = "the SDK's encoding of the spans"
WRAPPED = "the host's, wrapped; sent by another process"

AT_LEAST: dict[str, dict[str, float]] = {
    "sqlite": {ELSEWHERE: 8, THREAD: 5, CELERY: 5},
    "postgresql": {ELSEWHERE: 1.3, THREAD: 1.2, CELERY: 2},
}
"""How many times as fast as the host's ORM storage each is to be."""

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter"

COLUMNS = {"storage": "storage", "changes": "status changes a second", "ratio": "x the host's"}


@click.command()
@click.option("--url", help="A PostgreSQL or MariaDB; a SQLite file if left out.")
@click.option("--repeat", default=3, show_default=True, help="How often each is run; the median counts.")
@click.option("--tasks", default=1000, show_default=True, help="Task results, each reported RUNNING and DONE.")
@click.option("--json", "as_json", is_flag=True)
def main(url: str | None, repeat: int, tasks: int, as_json: bool) -> None:
    """Measure the changes of state."""
    with databases(url) as made, receiver() as endpoint:
        host = Host(made.fresh())
        pipeline = host.pipeline("Changes", 1, tasks, 1)
        seconds = medians_of(
            {
                **_eager(host, made, pipeline, endpoint),
                WRAPPED: lambda: _changes(_wrapped(host, made), pipeline),
                UNREACHED: lambda: _changes(_otel(made, "thread"), pipeline),
            },
            repeat,
        )
        rows = [{"storage": k, "changes": 2 * tasks / v, "ratio": seconds[ORM] / v} for k, v in seconds.items()]
        print_ratios(f"{tasks} tasks, eager, on {made.engine}", rows, COLUMNS, as_json)


def measure(made: Databases, scale: Scale) -> Iterator[Figure]:
    """Report 1 000 task results RUNNING and DONE, as the eager runner does and as Celery's tasks do."""
    engine = made.engine
    tasks = scale.of(1000)
    at_least = AT_LEAST.get(engine, {})
    with receiver() as endpoint:
        host = Host(made.fresh())
        pipeline = host.pipeline("Changes", 1, tasks, 1)
        contenders = {**_eager(host, made, pipeline, endpoint), ENCODING: lambda: _encoding(made, pipeline)}
        seconds = medians_of(contenders, scale.repeat)
        longer = host.pipeline("Longer", 1, scale.of(5000), 1)
        whole = medians_of(
            {
                SQL: lambda: _changes(_sql(made), longer),
                THREAD: lambda: _changes_and_sending(_otel(made, "thread", endpoint), longer),
            },
            min(scale.repeat, 3),
        )
    for name, where in ((ELSEWHERE, "sender elsewhere"), (THREAD, "sender thread")):
        ratio = seconds[ORM] / seconds[name]
        # Not guarded: how long a commit of the host's takes is the disk's affair, and another machine's another.
        yield Figure(EAGER, engine, f"x the host's ORM storage, {where}", ratio, at_least.get(name))
    ours = seconds[ELSEWHERE]
    yield Figure(EAGER, engine, "times of the Core floor", ours / seconds[CORE], at_most=1.3, is_guarded=True)
    yield Figure(EAGER, engine, "times of the bare driver", ours / seconds[DRIVER])
    yield Figure(EAGER, engine, "the Core floor, x the host's ORM storage", seconds[ORM] / seconds[CORE])
    yield Figure(EAGER, engine, "changes a second, sender elsewhere", 2 * tasks / ours)
    for name, where, most in ((ELSEWHERE, "sender elsewhere", 1.15), (THREAD, "sender thread", 1.5)):
        share = seconds[name] / seconds[SQL]
        is_guarded = name == ELSEWHERE
        yield Figure("telemetry's share", engine, f"x without, {where}", share, at_most=most, is_guarded=is_guarded)
    share = whole[THREAD] / whole[SQL]
    yield Figure("telemetry's share", engine, "x without, until all of 5 000 spans is acknowledged", share)
    # The least that it can be: the references cost no more than the bare driver takes for them, and all else nothing.
    least = 1 + (seconds[DRIVER] - seconds[DRIVER_ALONE]) / seconds[SQL]
    yield Figure("telemetry's share", engine, "x without, references by the bare driver", least)
    least += seconds[ENCODING] / seconds[SQL]
    yield Figure("telemetry's share", engine, "the same, and the SDK's encoding", least)
    yield from _celery(host, made, scale, at_least.get(CELERY))


def _celery(host: Host, made: Databases, scale: Scale, at_least: float | None) -> Iterator[Figure]:
    engine = made.engine
    pipeline = host.pipeline("Celery", 1, scale.of(1000), 1)
    seconds = medians_of(
        {
            ORM: lambda: _looked_up_changes(host.storage, pipeline),
            ELSEWHERE: lambda: _looked_up_changes(_otel(made, "external"), pipeline),
        },
        scale.repeat,
    )
    ratio = seconds[ORM] / seconds[ELSEWHERE]
    yield Figure(CELERY, engine, "x the host's ORM storage", ratio, at_least)
    yield Figure(CELERY, engine, "changes a second", 2 * scale.of(1000) / seconds[ELSEWHERE])
    look_up, change = _statements(made, pipeline)
    yield Figure(CELERY, engine, "statements a look-up", look_up, is_guarded=True)
    yield Figure(CELERY, engine, "most statements a change after it", change, at_most=3, is_guarded=True)


def _eager(host: Host, made: Databases, pipeline: Any, endpoint: str) -> dict[str, Prepared]:
    return {
        ORM: lambda: _changes(host.storage, pipeline),
        SQL: lambda: _changes(_sql(made), pipeline),
        ELSEWHERE: lambda: _changes(_otel(made, "external"), pipeline),
        THREAD: lambda: _changes(_otel(made, "thread", endpoint), pipeline),
        CORE: lambda: _core(made, pipeline),
        DRIVER: lambda: _driver(made, pipeline, refers=True),
        DRIVER_ALONE: lambda: _driver(made, pipeline, refers=False),
    }


def _changes(storage: Any, pipeline: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    execution = _built(storage, pipeline)
    reporter = NullReporter()

    def change() -> None:
        for pipeline_result in execution.get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    task_result.report_status_change(reporter, RUNNING)
                    task_result.report_status_change(reporter, DONE, propagate=False)

    return change, getattr(storage, "close", lambda: None)


def _changes_and_sending(
    storage: OtelPipelineStorage, pipeline: Any
) -> tuple[Callable[[], object], Callable[[], object]]:
    """What a process takes in all: nothing is put off until it has been measured."""
    change, close = _changes(storage, pipeline)

    def change_and_send() -> None:
        change()
        assert storage.flush(60)

    return change_and_send, close


def _looked_up_changes(storage: Any, pipeline: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """As the host's Celery tasks do it, which are given ids."""
    run_id = _built(storage, pipeline).get_run_id()
    ids = [task_result.get_id() for task_result in storage.get_task_results(run_id)]
    reporter = NullReporter()

    def change() -> None:
        for id_ in ids:
            storage.get_task_result(id_).report_status_change(reporter, RUNNING)
            storage.get_task_result(id_).report_status_change(reporter, DONE, propagate=False)

    return change, getattr(storage, "close", lambda: None)


def _statements(made: Databases, pipeline: Any) -> tuple[int, int]:
    """The most statements that a look-up takes, and a change after it; the first, which starts the run, not counted."""
    statements: list[str] = []

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    def taken(work: Callable[[], Any]) -> tuple[Any, int]:
        statements.clear()
        return work(), len(statements)

    look_ups, changes = [], []
    with closing(_otel(made, "external")) as storage:
        run_id = _built(storage, pipeline).get_run_id()
        ids = [task_result.get_id() for task_result in storage.get_task_results(run_id)]
        event.listen(storage.records.database.engine, "before_cursor_execute", execute)
        for id_ in ids:
            for status in (RUNNING, DONE):
                record, count = taken(lambda id_=id_: storage.get_task_result(id_))  # type: ignore[misc]  # mypy infers no type of a lambda with a default
                look_ups.append(count)
                report = record.report_status_change
                _, count = taken(
                    lambda report=report, status=status: report(NullReporter(), status, propagate=status is RUNNING)  # type: ignore[misc]  # the same
                )
                changes.append(count)
    return max(look_ups), max(changes[1:])


def _built(storage: Any, pipeline: Any) -> Any:
    return storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {})


# The floor

_TABLE = schema.task_result
_STATUS = _TABLE.c.status
_PENDING = _STATUS == PipelineTaskStatus.PENDING
_START = (
    update(_TABLE)
    .where(_TABLE.c.id == bindparam("record_id"), _PENDING)
    .values(
        status=RUNNING,
        started=bindparam("at"),
        started_message=None,
        worker_host=bindparam("host"),
        worker_pid=bindparam("pid"),
        worker_started=bindparam("at"),
    )
)
_END = (
    update(_TABLE)
    .where(_TABLE.c.id == bindparam("record_id"), _PENDING | (_STATUS == RUNNING))
    .values(status=DONE, completed=bindparam("at"), completed_message=None)
)
_REFER = insert(schema.outbox).inline()


def _reference(record_id: int, execution_id: int, at: Any) -> dict[str, Any]:
    return {
        "kind": "TaskResult",
        "record_id": record_id,
        "execution_id": execution_id,
        "state": "waiting",
        "created": at,
        "due": at,
        "attempts": 0,
    }


def _prepared_run(made: Databases, pipeline: Any) -> tuple[URL, int, list[int]]:
    """A run in a database of its own: the URL, the id of the execution, and those of the task results."""
    url = made.fresh()
    with closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
        execution = _built(storage, pipeline)
        ids = [task_result.get_id() for task_result in storage.get_task_results(execution.get_run_id())]
    return url, execution.get_id(), ids


def _core(made: Databases, pipeline: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    url, execution_id, ids = _prepared_run(made, pipeline)
    engine = create_engine(url)
    if made.engine == "sqlite":
        _begin_immediately(engine)
    engine.connect().close()

    def change() -> None:
        for id_ in ids:
            at = datetime.now(UTC)
            with engine.begin() as connection:
                values = {"record_id": id_, "at": at, "host": "localhost", "pid": 1}
                assert connection.execute(_START, values).rowcount == 1
            at = datetime.now(UTC)
            with engine.begin() as connection:
                assert connection.execute(_END, {"record_id": id_, "at": at}).rowcount == 1
                connection.execute(_REFER, _reference(id_, execution_id, at))

    return change, engine.dispose


def _begin_immediately(engine: Engine) -> None:
    """As SQLAlchemy's documentation says how to, and with our settings."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        _set_up_sqlite(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_up_sqlite(connection: Any) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _driver(made: Databases, pipeline: Any, *, refers: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """The statements as SQLAlchemy compiles them, executed by the driver on one connection."""
    url, execution_id, ids = _prepared_run(made, pipeline)
    dialect = create_engine(url).dialect
    raw = _raw(url, dialect)
    cursor = raw.cursor()
    sqlite = made.engine == "sqlite"

    def prepared(statement: Any, values: dict[str, Any]) -> Callable[[dict[str, Any]], tuple[str, Any]]:
        compiled = statement.compile(dialect=dialect, column_keys=list(values))
        constants = {bind_name: bind.value for bind, bind_name in compiled.bind_names.items() if not bind.required}
        constants = {k: v.value if isinstance(v, PipelineTaskStatus) else v for k, v in constants.items()}
        order = compiled.positiontup

        def parameters(given: dict[str, Any]) -> tuple[str, Any]:
            bound = {**constants, **given}
            return compiled.string, bound if order is None else [bound[name] for name in order]

        return parameters

    start = prepared(_START, {})
    end = prepared(_END, {})
    refer = prepared(_REFER, _reference(0, 0, None))

    def now() -> Any:
        at = datetime.now(UTC)
        return at.replace(tzinfo=None).isoformat(" ") if sqlite else at

    def change() -> None:
        for id_ in ids:
            cursor.execute(*start({"record_id": id_, "at": now(), "host": "localhost", "pid": 1}))
            at = now()
            if refers:
                cursor.execute("BEGIN IMMEDIATE" if sqlite else "BEGIN")
            cursor.execute(*end({"record_id": id_, "at": at}))
            if refers:
                cursor.execute(*refer(_reference(id_, execution_id, at)))
                cursor.execute("COMMIT")

    return change, raw.close


def _encoding(made: Databases, pipeline: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """What the SDK does with the spans of the changes, before it sends them: a thread needs the interpreter for it."""
    keeper = Keeper()
    with closing(OtelPipelineStorage(url=made.fresh(), delivery="external", exporter=keeper)) as storage:
        storage.records.upgrade()
        change, _ = _changes(storage, pipeline)
        change()
        storage.delivery.deliver_due()

    def encode() -> None:
        for batch in keeper.batches:
            encode_spans(batch).SerializeToString()

    return encode, keeper.batches.clear


def _raw(url: URL, dialect: Any) -> Any:
    """A connection of the driver's own, on which nothing is begun but by us."""
    arguments, keywords = dialect.create_connect_args(url)
    connection = dialect.import_dbapi().connect(*arguments, **keywords)
    if url.get_backend_name() == "sqlite":
        connection.isolation_level = None
        _set_up_sqlite(connection)
    else:
        connection.autocommit = True
    return connection


# Our storages


def _sql(made: Databases) -> SqlPipelineStorage:
    storage = SqlPipelineStorage(made.fresh())
    storage.upgrade()
    return storage


def _otel(made: Databases, delivery: Literal["thread", "external"], endpoint: str | None = None) -> OtelPipelineStorage:
    url = made.fresh()
    with closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
    exporter = None if endpoint is None else (_EXPORTER, {"endpoint": endpoint})
    return OtelPipelineStorage(url=url, delivery=delivery, exporter=exporter)


def _wrapped(host: Host, made: Databases) -> OtelPipelineStorage:
    """The host's storage, with the copies of its runs in a SQLite file: what it costs to wrap it."""
    return OtelPipelineStorage(host.storage, outbox_url=made.fresh_file(), delivery="external")


if __name__ == "__main__":
    main()
