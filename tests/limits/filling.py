"""An outbox with any number of references, made by bulk inserts: as after a long outage, without one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from otel_storage.results import clock
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.outbox.transitions import reference
from otel_storage.sql.records.building import insert_rows
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.spans.run_trace import decide

RESULTS = 99
"""Task results of a run: with the run itself, a hundred references."""

_RUNS = 200
"""How many runs are inserted in one transaction."""

Row = dict[str, Any]


def fill(
    storage: SqlPipelineStorage, references: int, *, attempts: int = 0, age: timedelta = timedelta(hours=1)
) -> int:
    """Add finished runs with their references, none of which was accepted.

    Args:
        storage: The storage.
        references: How many, at least.
        attempts: How often each was sent in vain; then its next attempt is half an hour from now.
        age: How long ago the first was written; each is a millisecond younger than the one before.

    Returns:
        How many spans they stand for.
    """
    runs = -(-references // (RESULTS + 1))
    began = clock.now() - age
    for first in range(0, runs, _RUNS):
        times = [
            began + timedelta(milliseconds=number * (RESULTS + 1)) for number in range(first, min(first + _RUNS, runs))
        ]
        storage.database.write(lambda connection, times=times: _insert(connection, times, attempts))  # type: ignore[misc]  # mypy infers no type of a lambda with a default
    return runs * (RESULTS + 3)


def _insert(connection: Connection, times: Sequence[datetime], attempts: int) -> None:
    executions = [_execution(at) for at in times]
    insert_rows(connection, schema.pipeline_execution, executions)
    results = [
        {**_done(run["created"]), "execution_id": run["id"], "runner": "eager", "reporter": "log"} for run in executions
    ]
    insert_rows(connection, schema.pipeline_result, results)
    tasks = [
        {
            **_done(result["created"]),
            "execution_id": result["execution_id"],
            "pipeline_result_id": result["id"],
            "pipeline_task": "load",
            "task_id": "tests.load",
        }
        for result in results
    ]
    insert_rows(connection, schema.task_execution, tasks)
    task_results = [
        {
            **_done(task["created"] + timedelta(milliseconds=number)),
            "execution_id": task["execution_id"],
            "task_execution_id": task["id"],
        }
        for task in tasks
        for number in range(RESULTS)
    ]
    insert_rows(connection, schema.task_result, task_results)
    references = [reference(TASK_RESULT, row["id"], row["execution_id"], row["completed"]) for row in task_results]
    references += [reference(PIPELINE_EXECUTION, row["id"], row["id"], row["completed"]) for row in executions]
    if attempts:
        due = clock.now() + timedelta(minutes=30)
        for number, row in enumerate(references):
            row.update(attempts=attempts, error="HTTP 503", due=due + timedelta(milliseconds=number))
    connection.execute(insert(schema.outbox).inline(), references)


def _execution(at: datetime) -> Row:
    run_id = str(uuid.uuid4())
    trace = decide(run_id)
    assert trace is not None
    return {
        **_done(at),
        "run_id": run_id,
        "pipeline_id": "tests.Orders",
        "trace": json.dumps(trace.as_json()),
        "pipeline_result_count": 1,
        "task_result_count": RESULTS,
    }


def _done(at: datetime) -> Row:
    return {"status": PipelineTaskStatus.DONE, "created": at, "started": at, "completed": at}
