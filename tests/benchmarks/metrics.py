"""What metrics and the digest cost at a million runs: ``python -m tests.benchmarks.metrics``.

On SQLite, or on PostgreSQL with ``--url`` of a database whose user may create databases.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import click
from sqlalchemy import Connection, Select, case, func, select, text

from otel_storage.metrics.exposition import render
from otel_storage.metrics.reading import Reader
from otel_storage.results.status import FAILED, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.database.durations import microseconds_between
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.sql.totals.counting import SqlTotals
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import Databases, databases, print_ratios

RUNS = 1_000_000
PIPELINES = 20
TASKS = 5
"""Tasks of each pipeline."""

_DAYS = 30
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)",
    "postgresql": "(SELECT i FROM generate_series(1, {count}) AS i)",
}
_TIMES = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', "
    "julianday('now') - {days} + {days} * 1.0 * i / {count} + ({s}) / 86400.0)",
    "postgresql": "now() + ({days} * 86400.0 * i / {count} - {days} * 86400 + ({s})) * interval '1 second'",
}
"""Each run was built a little after the one before; ``s`` is how many seconds after that this is."""


def fill(connection: Connection, runs: int, *, references: bool = False) -> None:
    """Store so many finished runs of one task result each, in a few statements; every fiftieth failed."""
    engine = connection.dialect.name

    def insert(table: str, columns: str, values: str, count: int) -> None:
        numbers = _NUMBERS[engine].format(count=count)
        statement = f"INSERT INTO {table} ({columns}) SELECT {values} FROM {numbers} AS n"  # noqa: S608 - all of it ours
        connection.execute(text(statement))

    def at(seconds: str) -> str:
        return _TIMES[engine].format(days=_DAYS, count=runs, s=seconds)

    state = "status, created, started, completed"
    status = "CASE WHEN i % 50 = 0 THEN 'RUNTIME_ERROR' ELSE 'DONE' END"
    states = f"{status}, {at('0')}, {at('i % 7')}, {at('i % 7 + i % 300')}"
    insert(
        "otel_storage_pipeline_execution",
        f"id, run_id, pipeline_id, pipeline_result_count, task_result_count, trace, {state}",
        f"i, 'run-' || i, 'benchmarks.Pipeline' || (i % {PIPELINES}), 1, 1, '{{\"sampled\": true}}', {states}",
        runs,
    )
    # A few above all of them: what is counted is the task results.
    insert(
        "otel_storage_pipeline_result",
        "id, execution_id, runner, reporter, status, created",
        f"i, i, 'runner', 'reporter', 'DONE', {at('0')}",
        1,
    )
    insert(
        "otel_storage_task_execution",
        "id, execution_id, pipeline_result_id, pipeline_task, task_id, status, created",
        f"i, 1, 1, 'task_' || i, 'task', 'DONE', {at('0')}",
        TASKS,
    )
    insert(
        "otel_storage_task_result",
        f"id, execution_id, task_execution_id, {state}",
        f"i, i, i % {TASKS} + 1, {states}",
        runs,
    )
    if references:
        insert(
            "otel_storage_outbox",
            "kind, record_id, execution_id, state, created, due, attempts",
            f"'TaskResult', i, i, 'waiting', {at('0')}, {at('0')}, 0",
            runs,
        )


def _whole() -> Select[tuple[object, ...]]:
    """The digest as a look at every run gives it: what ours is compared with."""
    table = schema.pipeline_execution
    return select(
        table.c.pipeline_id,
        func.count(),
        func.sum(case((table.c.status == PipelineTaskStatus.DONE, 1), else_=0)),
        func.sum(case((table.c.status.in_(FAILED), 1), else_=0)),
        func.max(table.c.started),
        func.avg(microseconds_between(table.c.started, table.c.completed)),
    ).group_by(table.c.pipeline_id)


def _analyze(storage: SqlPipelineStorage) -> None:
    """What autovacuum does a minute after such an insert; SQLite has nothing alike."""
    if storage.database.dialect == "postgresql":
        with storage.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _milliseconds(work: Callable[[], object], repeat: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    return statistics.median(once() for _ in range(repeat))


def measure(made: Databases, scale: Scale) -> Iterator[Figure]:
    """First counting, a scrape and the digest, at a million runs; and a scrape while as many references wait."""
    runs = scale.of(RUNS)
    with closing(SqlPipelineStorage(made.fresh())) as storage:
        storage.upgrade()
        storage.database.write(lambda connection: fill(connection, runs, references=True))
        _analyze(storage)
        began = time.perf_counter()
        while not storage.totals.count():
            continue
        seconds = time.perf_counter() - began
        counting = f"first counting of {runs:,} runs"
        yield Figure(counting, made.engine, "s", seconds)
        yield Figure(counting, made.engine, "records a second", 2 * runs / seconds)
        _analyze(storage)
        yield Figure(f"scrape, {runs:,} references wait", made.engine, "ms", _scrape(storage, scale))
        storage.database.write(lambda connection: connection.execute(schema.outbox.delete()))
        _analyze(storage)
        yield Figure(f"scrape, {runs:,} runs", made.engine, "ms", _scrape(storage, scale), at_most=50)
        digest = _milliseconds(storage.get_pipeline_digest, scale.repeat)
        with storage.database.read() as connection:
            whole = _milliseconds(lambda: connection.execute(_whole()).all(), scale.repeat)
        yield Figure(f"digest, {runs:,} runs", made.engine, "ms", digest, at_most=50)
        yield Figure(f"digest, {runs:,} runs", made.engine, "x a look at every run", digest / whole)


def _scrape(storage: SqlPipelineStorage, scale: Scale) -> float:
    """Milliseconds of a scrape that is the first in a second."""

    def scrape() -> None:
        render(reader.read())

    samples = []
    for _ in range(scale.repeat):
        # Totals of their own: they keep what a long look at the outbox found.
        totals = SqlTotals(storage.database, storage.clock, storage.outbox)
        totals.know()
        reader = Reader(totals, pipelines=dict)
        samples.append(_milliseconds(scrape, 1))
    return statistics.median(samples)


@click.command()
@click.option("--url", help="A server's database, as a SQLAlchemy URL; SQLite without.")
@click.option("--repeat", default=5, show_default=True, help="How often each is measured; the median counts.")
@click.option("--factor", default=1.0, show_default=True, help="What the numbers of runs are multiplied by.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(url: str | None, repeat: int, factor: float, as_json: bool) -> None:
    """Measure, and print a table."""
    with databases(url) as made:
        figures = list(measure(made, Scale(repeat, factor)))
    rows = [{"work": f.work, "engine": f.engine, "name": f.name, "value": f.value, "met": f.verdict} for f in figures]
    headings = {"work": "work", "engine": "engine", "value": "value", "name": "", "met": "target"}
    print_ratios("Metrics and digest", rows, headings, as_json)


if __name__ == "__main__":
    main()
