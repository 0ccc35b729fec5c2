"""Turns rows into snapshots, in bulk: one query per level for any number of references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from otel_storage.ports.snapshots import (
    ExecutionSnapshot,
    Failure,
    PipelineResultSnapshot,
    RunSnapshot,
    TaskExecutionSnapshot,
    TaskResultSnapshot,
)
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus
from otel_storage.runtime.worker import Worker
from otel_storage.sql.database import schema
from otel_storage.sql.database.among import in_chunks
from otel_storage.sql.database.policies import policy_of
from otel_storage.sql.database.policy import Policy
from otel_storage.sql.database.values import load_json

# The columns to read: those that all kinds have, those of the parents, and each kind's own. Rows can be large.
_STATE = (
    *("id", "source_id", "status", "created", "started", "completed"),
    *("started_message", "completed_message", "worker_host", "worker_pid", "worker_started"),
)
_SPAN = ("span_start", "span_end", "span_status", "span_outcome")
_EXECUTION = (*_STATE, *_SPAN, "run_id", "pipeline_id", "trace")
_PIPELINE_RESULT = (*_STATE, *_SPAN, "execution_id", "pipeline_object", "runner")
_TASK_EXECUTION = (*_STATE, *_SPAN, "pipeline_result_id", "pipeline_task", "task_id")
_TASK_RESULT = (*_STATE, "task_execution_id", "task_object")
_FAILURE = ("task_result_id", "type", "message", "stacktrace")


def task_results(connection: Connection, ids: Sequence[int]) -> dict[int, TaskResultSnapshot]:
    """The final task results with these ids, and their parents."""
    rows = _rows(connection, schema.task_result, _TASK_RESULT, ids)
    failed = [row.id for row in rows if row.status in FAILED]
    failures = {
        id_: Failure(type=type_, message=message, stacktrace=stacktrace)
        for id_, type_, message, stacktrace in _rows(connection, schema.failure, _FAILURE, failed, by="task_result_id")
    }
    parents = _rows(connection, schema.task_execution, _TASK_EXECUTION, {row.task_execution_id for row in rows})
    task_executions = _task_executions(connection, parents)
    found = {}
    for row in rows:
        *state, task_execution_id, task_object = row
        if (parent := task_executions.get(task_execution_id)) is not None:
            found[state[0]] = TaskResultSnapshot(
                **_state(*state),
                task_execution=parent,
                task_object=load_json(task_object),
                failure=failures.get(state[0]),
            )
    return found


def runs(connection: Connection, ids: Sequence[int]) -> dict[int, RunSnapshot]:
    """The records of the parent levels that have a span, of the settled runs with these ids."""
    # Read these columns, which can be large, only for the records whose spans carry them.
    rows = _rows(connection, schema.pipeline_execution, (*_EXECUTION, "input_data"), ids)
    executions = _executions(rows, with_input=True)
    ids = list(executions)
    rows = _rows(connection, schema.pipeline_result, _PIPELINE_RESULT, ids, by="execution_id")
    pipeline_results = _pipeline_results(connection, rows, executions)
    rows = _rows(connection, schema.task_execution, (*_TASK_EXECUTION, "config"), ids, by="execution_id")
    task_executions = _task_executions(connection, rows, pipeline_results, with_config=True)

    results_of: dict[int, list[PipelineResultSnapshot]] = defaultdict(list)
    for result in pipeline_results.values():
        if result.span_end:
            results_of[id(result.execution)].append(result)
    tasks_of: dict[int, list[TaskExecutionSnapshot]] = defaultdict(list)
    for task in task_executions.values():
        if task.span_end:
            tasks_of[id(task.pipeline_result.execution)].append(task)
    return {
        id_: RunSnapshot(
            execution=execution,
            pipeline_results=tuple(results_of[id(execution)]),
            task_executions=tuple(tasks_of[id(execution)]),
        )
        for id_, execution in executions.items()
    }


def _executions(rows: Iterable[Row[Any]], *, with_input: bool = False) -> dict[int, ExecutionSnapshot]:
    return {
        row.id: ExecutionSnapshot(
            **_parent_state(row),
            run_id=row.run_id,
            pipeline_id=row.pipeline_id,
            input_data=load_json(row.input_data) if with_input else None,
            trace=load_json(row.trace) or {},
        )
        for row in rows
    }


def _pipeline_results(
    connection: Connection,
    rows: Sequence[Row[Any]],
    executions: dict[int, ExecutionSnapshot] | None = None,
) -> dict[int, PipelineResultSnapshot]:
    if executions is None:
        parents = _rows(connection, schema.pipeline_execution, _EXECUTION, {row.execution_id for row in rows})
        executions = _executions(parents)
    return {
        row.id: PipelineResultSnapshot(
            **_parent_state(row),
            execution=executions[row.execution_id],
            pipeline_object=load_json(row.pipeline_object),
            runner=row.runner,
        )
        for row in rows
        if row.execution_id in executions
    }


def _task_executions(
    connection: Connection,
    rows: Sequence[Row[Any]],
    pipeline_results: dict[int, PipelineResultSnapshot] | None = None,
    *,
    with_config: bool = False,
) -> dict[int, TaskExecutionSnapshot]:
    if pipeline_results is None:
        ids = {row.pipeline_result_id for row in rows}
        parents = _rows(connection, schema.pipeline_result, _PIPELINE_RESULT, ids)
        pipeline_results = _pipeline_results(connection, parents)
    return {
        row.id: TaskExecutionSnapshot(
            **_parent_state(row),
            pipeline_result=pipeline_results[row.pipeline_result_id],
            pipeline_task=row.pipeline_task,
            task_id=row.task_id,
            config=load_json(row.config) if with_config else None,
        )
        for row in rows
        if row.pipeline_result_id in pipeline_results
    }


def _rows(
    connection: Connection, table: Table, columns: tuple[str, ...], ids: Collection[int], *, by: str = "id"
) -> list[Any]:
    statement = _query(table, columns, by, policy_of(connection))
    found: list[Any] = []
    for parameters in in_chunks(sorted(ids)):
        found += connection.execute(statement, parameters).all()
    return found


@cache
def _query(table: Table, columns: tuple[str, ...], by: str, policy: Policy) -> Select[Any]:
    statement = select(*(table.c[column] for column in columns)).where(policy.among(table.c[by]))
    return statement.order_by(*table.primary_key.columns)


def _state(
    id_: int,
    source_id: int | None,
    status: PipelineTaskStatus,
    created: datetime,
    started: datetime | None,
    completed: datetime | None,
    started_message: str | None,
    completed_message: str | None,
    worker_host: str | None,
    worker_pid: int,
    worker_started: datetime | None,
) -> dict[str, Any]:
    """The columns that all kinds have, in their order."""
    return {
        # Span ids are computed from the id in the original storage, which a copy has as source_id.
        "id": id_ if source_id is None else source_id,
        "status": status,
        "created": created,
        "started": started,
        "completed": completed,
        "started_message": started_message or "",
        "completed_message": completed_message or "",
        "worker": None if worker_host is None else Worker(host=worker_host, pid=worker_pid, started=worker_started),
    }


def _parent_state(row: Row[Any]) -> dict[str, Any]:
    """The state when the run settled: later changes are not in spans that were sent, so no span may have them."""
    state = _state(*row[: len(_STATE)])
    if row.span_status is not None:
        state["status"] = row.span_status
        if row.span_status not in FINAL:
            state.update(completed=None, completed_message="")
        if row.span_status is PipelineTaskStatus.PENDING:
            state.update(started=None, started_message="", worker=None)
    return {**state, "span_start": row.span_start, "span_end": row.span_end, "outcome": row.span_outcome}
