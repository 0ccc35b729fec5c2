"""A database with a long history of runs, made by the database itself: nobody waits for a million runs."""

from __future__ import annotations

import uuid
from contextlib import closing

from sqlalchemy import URL, Update, func, insert, literal_column, select, text, update

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.database.durations import microseconds_between
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

PIPELINE = "history.Nightly"
"""The pipeline of the runs; they end in DONE, but for some in RUNTIME_ERROR."""
OTHER_PIPELINE = "history.Other"
"""The pipeline of a hundredth more; they end in DONE or VALIDATION_ERROR, and some are RUNNING."""

NUMBERS = {
    "sqlite": "(WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < {}) "
    "SELECT n FROM numbers) AS numbers",
    "postgresql": "generate_series(1, {}) AS numbers(n)",
}
_MOMENT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', '2020-01-01', ({}) || ' seconds')",
    "postgresql": "timestamptz '2020-01-01 00:00:00+00' + ({}) * interval '1 second'",
}
RUN_ID = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()::text"}
_TIDY = {"sqlite": "PRAGMA wal_checkpoint(TRUNCATE)", "postgresql": "VACUUM ANALYZE"}


def fill(url: URL, runs: int) -> None:
    """Fill an empty database with so many runs of :data:`PIPELINE`, one each half minute, and those of the other.

    Each is a copy of the execution of a run that the storage has made, without what is below it. They are in the
    totals, as those are whose spans are sent.
    """
    with closing(OtelPipelineStorage(url=url, delivery="external")) as storage:
        storage.records.upgrade()
        _run(storage)
        database = storage.records.database
        is_other = "n % 101 = 0"
        is_running = f"{is_other} AND n % 7 = 0"
        moment = _MOMENT[database.dialect]
        values = {
            "run_id": RUN_ID[database.dialect],
            "pipeline_id": f"CASE WHEN {is_other} THEN '{OTHER_PIPELINE}' ELSE '{PIPELINE}' END",
            "status": f"CASE WHEN {is_running} THEN 'RUNNING' WHEN {is_other} AND n % 2 = 0 "
            "THEN 'VALIDATION_ERROR' WHEN n % 50 = 0 THEN 'RUNTIME_ERROR' ELSE 'DONE' END",
            "created": moment.format("n * 30"),
            "started": moment.format("n * 30 + 1"),
            "counted": f"CASE WHEN {is_running} THEN NULL ELSE true END",
            "completed": f"CASE WHEN {is_running} THEN NULL ELSE {moment.format('n * 30 + 1 + n % 600')} END",
        }
        table = schema.pipeline_execution
        copied = {
            column.name: literal_column(values[column.name]) if column.name in values else column
            for column in table.c
            if column.name != "id"
        }
        numbers = text(NUMBERS[database.dialect].format(runs + runs // 100))
        copy = insert(table).from_select([*copied], select(*copied.values()).select_from(table, numbers))
        first = select(table.c.id)
        with database.read() as connection:
            id_ = connection.execute(first).scalar_one()
        database.write(lambda connection: connection.execute(copy).rowcount)
        database.write(lambda connection: connection.execute(table.delete().where(table.c.id == id_)).rowcount)
        database.write(lambda connection: connection.execute(schema.outbox.delete()).rowcount)
        storage.records.totals.know([(PIPELINE, ()), (OTHER_PIPELINE, ())])
        database.write(lambda connection: connection.execute(_COUNT).rowcount)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(_TIDY[database.dialect])


def _counting() -> Update:
    """Counts all as the storage would one by one, as far as the digest and the number of runs tell."""
    runs, total = schema.pipeline_execution, schema.total
    number = select(func.count()).select_from(runs)
    runtime = select(func.coalesce(func.sum(microseconds_between(runs.c.started, runs.c.completed)), 0))
    of_total = (runs.c.pipeline_id == total.c.pipeline_id, runs.c.status == total.c.status)
    values = {"counted": number, "timed": number, "runtime": runtime}
    return update(total).values({name: value.where(*of_total).scalar_subquery() for name, value in values.items()})


_COUNT = _counting()


def _run(storage: OtelPipelineStorage) -> None:
    pipeline = Pipeline(Task("load"), id=PIPELINE)
    storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), RecordingReporter(), {"day": "2024-02-29"})
    for status in (PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE):
        for result in storage.get_task_results():
            result.report_status_change(RecordingReporter(), status)
