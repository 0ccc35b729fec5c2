"""Status changes a second, reported as the host's eager runner reports them, beside the host's ORM storage.

``python -m tests.benchmarks.transitions [--url URL]``, in a checkout.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any, Literal

import click

from otel_storage import OtelPipelineStorage, PipelineTaskStatus, SqlPipelineStorage
from otel_storage.testing.pipelines import Runner
from tests.benchmarks.measuring import Databases, Host, NullReporter, best_of, databases, print_ratios

COLUMNS = {"storage": "storage", "changes": "status changes a second", "ratio": "x the host's"}


@click.command()
@click.option("--url", help="A PostgreSQL or MariaDB; a SQLite file if left out.")
@click.option("--repeat", default=3, show_default=True, help="How often each is run; the best counts.")
@click.option("--tasks", default=1000, show_default=True, help="Task results, each reported RUNNING and DONE.")
@click.option("--json", "as_json", is_flag=True)
def main(url: str | None, repeat: int, tasks: int, as_json: bool) -> None:
    """Measure the changes of state."""
    with databases(url) as made:
        host = Host(made.fresh())
        pipeline = host.pipeline("Changes", 1, tasks, 1)
        seconds = best_of(
            {
                "the host's ORM storage": lambda: _changes(host.storage, pipeline),
                "SqlPipelineStorage": lambda: _changes(_sql(made), pipeline),
                "OtelPipelineStorage, sent by another process": lambda: _changes(_otel(made, "external"), pipeline),
                "the host's, wrapped; sent by another process": lambda: _changes(_wrapped(host, made), pipeline),
                "OtelPipelineStorage, no collector": lambda: _changes(_otel(made, "thread"), pipeline),
            },
            repeat,
        )
        hosts = seconds["the host's ORM storage"]
        rows = [{"storage": k, "changes": 2 * tasks / v, "ratio": hosts / v} for k, v in seconds.items()]
        print_ratios(f"{tasks} tasks, eager, on {made.engine}", rows, COLUMNS, as_json)


def _changes(storage: Any, pipeline: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    run_id = str(uuid.uuid4())
    execution = storage.build_pipeline_execution(pipeline, run_id, Runner(), NullReporter(), {})
    reporter = NullReporter()

    def change() -> None:
        for pipeline_result in execution.get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    task_result.report_status_change(reporter, PipelineTaskStatus.RUNNING)
                    task_result.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)

    return change, getattr(storage, "close", lambda: None)


def _sql(made: Databases) -> SqlPipelineStorage:
    storage = SqlPipelineStorage(made.fresh())
    storage.upgrade()
    return storage


def _otel(made: Databases, delivery: Literal["thread", "external"]) -> OtelPipelineStorage:
    url = made.fresh()
    with closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
    return OtelPipelineStorage(url=url, delivery=delivery)


def _wrapped(host: Host, made: Databases) -> OtelPipelineStorage:
    """The host's storage, with the copies of its runs in a SQLite file: what it costs to wrap it."""
    return OtelPipelineStorage(host.storage, outbox_url=made.fresh_file(), delivery="external")


if __name__ == "__main__":
    main()
