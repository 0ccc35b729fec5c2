"""Rows -> snapshots, in bulk: a query per level, however many references are sent at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, select

from otel_storage.results.snapshots import (
    ExecutionSnapshot,
    Failure,
    PipelineResultSnapshot,
    RunSnapshot,
    TaskExecutionSnapshot,
    TaskResultSnapshot,
    Worker,
)
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.sql import schema
from otel_storage.sql.types import load_json

_CHUNK = 500

# Read only for the spans that may carry them: they can be large.
_CAPTURED = {"input_data", "config"}


def task_results(connection: Connection, ids: Sequence[int]) -> dict[int, TaskResultSnapshot]:
    """The final task results of those ids, with their parents."""
    rows = _rows(connection, schema.task_result, "id", ids)
    failures = {row.task_result_id: row for row in _rows(connection, schema.failure, "task_result_id", ids)}
    parents = _rows(connection, schema.task_execution, "id", {row.task_execution_id for row in rows})
    task_executions = _task_executions(connection, parents)
    return {
        row.id: TaskResultSnapshot(
            **_state(row),
            task_execution=task_executions[row.task_execution_id],
            task_object=load_json(row.task_object),
            failure=_failure(failures.get(row.id)),
        )
        for row in rows
        if row.task_execution_id in task_executions
    }


def runs(connection: Connection, ids: Sequence[int]) -> dict[int, RunSnapshot]:
    """The parent levels of the settled runs of those ids: the records that have a span."""
    executions = _executions(_rows(connection, schema.pipeline_execution, "id", ids, captured=True))
    pipeline_results = _pipeline_results(
        connection, _rows(connection, schema.pipeline_result, "execution_id", executions), executions
    )
    task_executions = _task_executions(
        connection,
        _rows(connection, schema.task_execution, "execution_id", executions, captured=True),
        pipeline_results,
    )
    return {
        id_: RunSnapshot(
            execution=execution,
            pipeline_results=tuple(
                result for result in pipeline_results.values() if result.execution is execution and result.span_end
            ),
            task_executions=tuple(
                task
                for task in task_executions.values()
                if task.pipeline_result.execution is execution and task.span_end
            ),
        )
        for id_, execution in executions.items()
    }


def _executions(rows: Iterable[Row[Any]]) -> dict[int, ExecutionSnapshot]:
    return {
        row.id: ExecutionSnapshot(
            **_parent_state(row),
            run_id=row.run_id,
            pipeline_id=row.pipeline_id,
            input_data=load_json(getattr(row, "input_data", None)),
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
        parents = _rows(connection, schema.pipeline_execution, "id", {row.execution_id for row in rows})
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
) -> dict[int, TaskExecutionSnapshot]:
    if pipeline_results is None:
        parents = _rows(connection, schema.pipeline_result, "id", {row.pipeline_result_id for row in rows})
        pipeline_results = _pipeline_results(connection, parents)
    return {
        row.id: TaskExecutionSnapshot(
            **_parent_state(row),
            pipeline_result=pipeline_results[row.pipeline_result_id],
            pipeline_task=row.pipeline_task,
            task_id=row.task_id,
            config=load_json(getattr(row, "config", None)),
        )
        for row in rows
        if row.pipeline_result_id in pipeline_results
    }


def _rows(
    connection: Connection, table: Table, column: str, ids: Iterable[int], *, captured: bool = False
) -> list[Row[Any]]:
    wanted = sorted(ids)
    columns = [column for column in table.c if captured or column.name not in _CAPTURED]
    found: list[Row[Any]] = []
    for start in range(0, len(wanted), _CHUNK):
        statement = select(*columns).where(table.c[column].in_(wanted[start : start + _CHUNK]))
        found += connection.execute(statement.order_by(*table.primary_key.columns))
    return found


def _state(row: Row[Any]) -> dict[str, Any]:
    worker = None
    if row.worker_host is not None:
        worker = Worker(host=row.worker_host, pid=row.worker_pid, started=row.worker_started)
    return {
        # Of a copy, the id in the storage that it is a copy from: spans are known by it.
        "id": row.id if row.source_id is None else row.source_id,
        "status": row.status,
        "created": row.created,
        "started": row.started,
        "completed": row.completed,
        "started_message": row.started_message or "",
        "completed_message": row.completed_message or "",
        "worker": worker,
    }


def _parent_state(row: Row[Any]) -> dict[str, Any]:
    """The state as it was when the run settled: what changed later is not in a span that was sent, so in no other."""
    state = _state(row)
    if row.span_status is not None:
        state["status"] = row.span_status
        if row.span_status not in FINAL:
            state.update(completed=None, completed_message="")
        if row.span_status is PipelineTaskStatus.PENDING:
            state.update(started=None, started_message="", worker=None)
    return {**state, "span_start": row.span_start, "span_end": row.span_end, "outcome": row.span_outcome}


def _failure(row: Row[Any] | None) -> Failure | None:
    return None if row is None else Failure(type=row.type, message=row.message, stacktrace=row.stacktrace)
