"""Building a run, beside SQLAlchemy Core's bulk insert of the same rows and the host's ORM storage.

``python -m tests.benchmarks.building [--url URL]``, in a checkout; ``--url`` names a PostgreSQL or MariaDB whose user
may create databases.
"""

from __future__ import annotations

import gc
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import click
from sqlalchemy import Connection, insert, select

from otel_storage import OtelPipelineStorage, SqlPipelineStorage
from otel_storage.sql.database import schema
from otel_storage.testing.pipelines import Runner
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import (
    Databases,
    Host,
    NullReporter,
    Prepared,
    best_of,
    databases,
    medians_of,
    print_ratios,
)

Timed = tuple[Callable[[], object], Callable[[], object]]

CORE = "SQLAlchemy Core, bulk insert"
OTEL = "OtelPipelineStorage"
ORM = "the host's ORM storage"

SHAPES = {"1 x 1 x 10 000": (1, 1, 10_000), "100 x 10 x 10": (100, 10, 10)}
SMALL = {"1 x 1 x 10": (1, 1, 10)}
COLUMNS = {
    "run": "pipeline results x tasks x results",
    "storage": "storage",
    "seconds": "seconds",
    "ratio": "x Core",
}


@click.command()
@click.option("--url", help="A PostgreSQL or MariaDB; a SQLite file if left out.")
@click.option("--repeat", default=3, show_default=True, help="How often the host's is run; the others 3 x that.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--small", is_flag=True, help="A tiny run, to see that it works.")
def main(url: str | None, repeat: int, as_json: bool, small: bool) -> None:
    """Measure the building of runs."""
    rows = []
    with databases(url) as made:
        host = Host(made.fresh())
        for run, (per_pipeline, tasks, per_task) in (SMALL if small else SHAPES).items():
            pipeline = host.pipeline(f"Run{per_pipeline}By{tasks}", tasks, per_task, per_pipeline)
            seconds = best_of(_quick(made, pipeline), 3 * repeat) | best_of(_slow(host, pipeline), repeat)
            core = seconds[CORE]
            rows += [{"run": run, "storage": k, "seconds": v, "ratio": v / core} for k, v in seconds.items()]
        print_ratios(f"Building a run on {made.engine}", rows, COLUMNS, as_json)


def measure(made: Databases, scale: Scale) -> Iterator[Figure]:
    """Build runs of 10 000 task results, with telemetry."""
    host = Host(made.fresh())
    for run, (per_pipeline, tasks, per_task) in SHAPES.items():
        # The largest number is what is scaled: the shape stays.
        sizes = [per_pipeline, tasks, per_task]
        largest = sizes.index(max(sizes))
        sizes[largest] = scale.of(sizes[largest])
        per_pipeline, tasks, per_task = sizes
        pipeline = host.pipeline(f"Run{per_pipeline}By{tasks}", tasks, per_task, per_pipeline)
        seconds = medians_of(_quick(made, pipeline), scale.repeat)
        # Tens of seconds each time, and far apart: fewer of them tell as much.
        seconds |= medians_of(_slow(host, pipeline), min(scale.repeat, 2))
        work, engine = f"build {run}", made.engine
        yield Figure(work, engine, "x the host's ORM storage", seconds[ORM] / seconds[OTEL], at_least=50)
        yield Figure(
            work, engine, "times of the Core floor", seconds[OTEL] / seconds[CORE], at_most=1.5, is_guarded=True
        )
        yield Figure(work, engine, "s", seconds[OTEL])
        records = 1 + per_pipeline * (1 + tasks * (1 + per_task))
        most, left = _memory(made, pipeline)
        yield Figure(work, engine, "KB a record, at most", most / records / 1024, at_most=3, is_guarded=True)
        yield Figure(work, engine, "KB a record, left behind", left / records / 1024)


def _memory(made: Databases, pipeline: Any) -> tuple[int, int]:
    """The bytes that a build takes at most, and those that it leaves behind while its execution is held."""
    with closing(_otel(made)) as storage:
        # Build once before measuring, so that caches are not counted.
        storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {"day": 1})
        gc.collect()
        tracemalloc.start()
        try:
            execution = storage.build_pipeline_execution(
                pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {"day": 1}
            )
            _, most = tracemalloc.get_traced_memory()
            gc.collect()
            left, _ = tracemalloc.get_traced_memory()
            del execution
        finally:
            tracemalloc.stop()
    return most, left


def _quick(made: Databases, pipeline: Any) -> dict[str, Prepared]:
    """Builds whose times differ by tenths: they run more often, and by turns."""
    return {
        CORE: lambda: _core(made, pipeline),
        "SqlPipelineStorage": lambda: _builder(_sql(made), pipeline),
        OTEL: lambda: _builder(_otel(made), pipeline),
    }


def _slow(host: Host, pipeline: Any) -> dict[str, Prepared]:
    return {ORM: lambda: _builder(host.storage, pipeline)}


def _builder(storage: Any, pipeline: Any) -> Timed:
    def build() -> None:
        storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {"day": 1})

    return build, getattr(storage, "close", lambda: None)


def _core(made: Databases, pipeline: Any) -> Timed:
    """Insert the rows that our storage made of the pipeline, in one transaction."""
    with closing(_sql(made)) as storage:
        storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), NullReporter(), {"day": 1})
        with storage.database.read() as connection:
            rows = {
                table: [
                    {name: value for name, value in row._mapping.items() if value is not None}
                    for row in connection.execute(select(table))
                ]
                for table in schema.LEVELS.values()
            }
    empty = _sql(made)

    def insert_rows(connection: Connection) -> None:
        for table, of_table in rows.items():
            connection.execute(insert(table), of_table)

    return lambda: empty.database.write(insert_rows), empty.close


def _sql(made: Databases) -> SqlPipelineStorage:
    storage = SqlPipelineStorage(made.fresh())
    storage.upgrade()
    return storage


def _otel(made: Databases) -> OtelPipelineStorage:
    storage = OtelPipelineStorage(url=made.fresh(), delivery="external")
    storage.records.upgrade()
    return storage


if __name__ == "__main__":
    main()
