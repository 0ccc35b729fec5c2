"""Removing runs: beside the host's ORM storage, what memory it takes, and how long it keeps a writer waiting."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import time
import tracemalloc
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from otel_storage import OtelPipelineStorage
from otel_storage.sql.database import schema
from otel_storage.sql.upkeep.cleanup import CHUNK
from otel_storage.testing.pipelines import Pipeline, Runner, Task
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.history import NUMBERS, RUN_ID
from tests.benchmarks.measuring import Databases, Host, NullReporter, Prepared, medians_of
from tests.benchmarks.results import finished

ORM_TABLES = (
    "pipelines_ormpipelineexecution",
    "pipelines_ormpipelineresult",
    "pipelines_ormtaskexecution",
    "pipelines_ormtaskresult",
)
WORK = "cleanup of 20 000 runs"


def measure(databases: Databases, scale: Scale) -> Iterator[Figure]:
    """Remove 20 000 runs of 1 x 2 x 2."""
    runs = scale.of(20_000)
    engine = databases.engine
    host_url = databases.fresh()
    host = Host(host_url)
    pipeline = host.pipeline("Removed", 2, 2, 1)
    contenders: dict[str, Prepared] = {
        "ours": lambda: _ours(databases, pipeline, runs),
        "bare": lambda: _bare(databases, pipeline, runs),
        "the host's": lambda: _theirs(host, host_url, pipeline, runs),
    }
    # Half a minute each time, and tens of times apart: fewer of them tell as much.
    seconds = medians_of(contenders, min(scale.repeat, 3))
    yield Figure(
        WORK, engine, "x the host's ORM storage", seconds["the host's"] / seconds["ours"], at_least=10, is_guarded=True
    )
    yield Figure(WORK, engine, "bare DELETEs at once, x the host's", seconds["the host's"] / seconds["bare"])
    yield Figure(WORK, engine, "s", seconds["ours"])

    most = [_most_memory(databases, pipeline, number) for number in (max(runs // 10, 2 * CHUNK), max(runs, 4 * CHUNK))]
    yield Figure(WORK, engine, "memory at once, MB", most[-1] / 1e6)
    yield Figure(WORK, engine, "memory, x that of 2 000", most[-1] / most[0], at_most=1.5, is_guarded=True)

    with _filled(databases, pipeline, max(runs, 4 * CHUNK)) as storage, _counted_commits(storage) as commits:
        removed = storage.cleanup()
        yield Figure(WORK, engine, "runs a transaction", -(-len(removed) // len(commits)), at_most=CHUNK)
    with _filled(databases, pipeline, runs) as storage:
        for name, value in _waits(storage).items():
            yield Figure(WORK, engine, name, value)


def _ours(databases: Databases, pipeline: Any, runs: int) -> tuple[Any, Any]:
    filled = _filled(databases, pipeline, runs)
    storage = filled.__enter__()
    return storage.cleanup, lambda: filled.__exit__(None, None, None)


def _bare(databases: Databases, pipeline: Any, runs: int) -> tuple[Any, Any]:
    """What the database itself needs: all rows of a table by one statement, and all in one transaction."""
    filled = _filled(databases, pipeline, runs)
    storage = filled.__enter__()

    def delete(connection: Connection) -> None:
        for table in reversed(schema.LEVELS.values()):
            connection.execute(table.delete().where(table.c.id > 0))

    return lambda: storage.records.database.write(delete), lambda: filled.__exit__(None, None, None)


def _theirs(host: Host, url: URL, pipeline: Any, runs: int) -> tuple[Any, Any]:
    finished(host.storage, pipeline)
    engine = create_engine(url)
    metadata = MetaData()
    metadata.reflect(engine, only=ORM_TABLES)
    engine.dispose()
    multiply(url, [metadata.tables[name] for name in ORM_TABLES], runs)
    return host.storage.cleanup, lambda: None


@contextmanager
def _filled(databases: Databases, pipeline: Any, runs: int) -> Iterator[OtelPipelineStorage]:
    """A storage with so many runs, whose spans have been sent, and which are counted, as they are by who sends."""
    url = databases.fresh()
    with closing(OtelPipelineStorage(url=url, delivery="external")) as storage:
        storage.records.upgrade()
        finished(storage, pipeline)
        storage.records.totals.count()
        totals = schema.total.c
        times = update(schema.total).values({name: totals[name] * runs for name in ("counted", "timed", "runtime")})
        for statement in (schema.outbox.delete(), times):
            storage.records.database.write_aside(statement)
        multiply(url, [*schema.LEVELS.values()], runs)
        yield storage
    databases.remove(url)


def multiply(url: URL, tables: Sequence[Table], runs: int) -> None:
    """Copy the rows of the one run that there is, until there are so many of it."""
    engine = create_engine(url)
    backend = url.get_backend_name()
    with engine.begin() as connection:
        numbers = text(NUMBERS[backend].format(runs - 1))
        for table in tables:
            copied: dict[str, Any] = {
                column.name: literal_column(f"n * 100 + {table.name}.{column.name}") if _is_id(column) else column
                for column in table.c
            }
            if "run_id" in copied:
                copied["run_id"] = literal_column(RUN_ID[backend])
            connection.execute(
                insert(table).from_select([*copied], select(*copied.values()).select_from(table, numbers))
            )
            if backend == "postgresql":
                sequence = func.pg_get_serial_sequence(table.name, "id")
                connection.execute(select(func.setval(sequence, select(func.max(table.c.id)).scalar_subquery())))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE" if backend == "postgresql" else "PRAGMA optimize")
    engine.dispose()


def _is_id(column: Any) -> bool:
    return isinstance(column.type, Integer) and (column.name == "id" or column.name.endswith("_id"))


def _most_memory(databases: Databases, pipeline: Any, runs: int) -> int:
    """The bytes that a cleanup takes at most, without the run ids that it returns."""
    with _filled(databases, pipeline, runs) as storage:
        gc.collect()
        tracemalloc.start()
        removed = storage.cleanup()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(removed) == runs
    return peak - sys.getsizeof(removed) - sum(map(sys.getsizeof, removed))


@contextmanager
def _counted_commits(storage: OtelPipelineStorage) -> Iterator[list[object]]:
    commits: list[object] = []
    engine = storage.records.database.engine

    def commit(connection: object) -> None:
        commits.append(connection)

    event.listen(engine, "commit", commit)
    yield commits
    event.remove(engine, "commit", commit)


def _waits(storage: OtelPipelineStorage) -> dict[str, float]:
    """How long a run takes to be built at most, in another process, while runs are removed and while none is."""
    url = storage.records.database.engine.url
    here, there = multiprocessing.Pipe()
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(url, there))
    writer.start()
    here.recv()
    time.sleep(1)
    here.send("first part")
    calm = here.recv()
    began = time.perf_counter()
    storage.cleanup()
    taken = time.perf_counter() - began
    here.send("second part")
    busy = here.recv()
    writer.join()
    return {
        "longest wait of a writer, ms": 1000 * max(busy),
        "its longest without a cleanup, ms": 1000 * max(calm),
        "runs it builds a second meanwhile": len(busy) / taken,
    }


def _write(url: URL, orders: Pipe) -> None:
    """Build runs, one after the other, and tell how long each took whenever asked."""
    with closing(OtelPipelineStorage(url=url, delivery="external")) as storage:
        pipeline = Pipeline(Task("load"))
        storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {})
        orders.send("ready")
        for _ in range(2):
            seconds = []
            while not orders.poll():
                began = time.perf_counter()
                storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {})
                seconds.append(time.perf_counter() - began)
            orders.recv()
            orders.send(seconds)
