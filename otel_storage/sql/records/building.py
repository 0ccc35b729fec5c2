"""Builds a run: asks the pipeline for everything first, then inserts all rows in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Table, insert, select
from sqlalchemy.exc import IntegrityError

from otel_storage.results.base import BADLY_CONFIGURED, telling
from otel_storage.results.exceptions import InvalidInput, RunExists
from otel_storage.results.kinds import PIPELINE_EXECUTION
from otel_storage.results.protocols import PipelineLike, Reporter
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.database.engine import Database
from otel_storage.sql.database.policies import policy_of
from otel_storage.sql.database.values import dump_json, identifier, storable
from otel_storage.sql.outbox.transitions import reference
from otel_storage.sql.records.identity_map import IdentityMap
from otel_storage.sql.records.levels import SqlPipelineExecution, SqlPipelineResult, SqlTaskExecution, SqlTaskResult
from otel_storage.sql.records.record import SqlRecord

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Task:
    pipeline_task: str
    task_id: str
    config: str | None
    objects: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """All data of a run's rows; once a plan exists, no code of the user is called."""

    execution: Row
    objects: Sequence[str | None]
    """The pipeline's objects as JSON, one pipeline result each."""
    tasks: Sequence[_Task]
    runner: str
    reporter: str


def plan(
    pipeline: PipelineLike,
    run_id: object,
    runner: object,
    reporter: Reporter | None,
    input_data: Any,
    build_all: bool,
    created: datetime,
) -> Plan:
    """Ask the pipeline for everything that the storage needs.

    Raises:
        InvalidInput: an id or a value cannot be stored.
    """
    telling(reporter)
    execution: Row = {
        "run_id": identifier(run_id, "run_id"),
        "pipeline_id": identifier(_asked(pipeline, "id", "the pipeline"), "the pipeline's id"),
        "input_data": dump_json(input_data, "input_data"),
        "status": PipelineTaskStatus.PENDING,
        "created": created,
    }
    if not build_all:
        execution.update(status=PipelineTaskStatus.CONFIG_ERROR, completed=created, completed_message=BADLY_CONFIGURED)
        return _counted(Plan(execution, (), (), _path(runner), _path(reporter)))
    iterator = _asked(pipeline, "get_iterator", "the pipeline")
    objects = _objects(
        iterator, _asked(pipeline, "get_serializable_pipeline_object", "the pipeline"), "a pipeline object"
    )
    # A task's iterator takes no arguments, so its objects are the same for every pipeline result.
    tasks = [_task(task) for task in (_asked(pipeline, "tasks", "the pipeline") or {}).values()] if objects else []
    return _counted(Plan(execution, objects, tasks, _path(runner), _path(reporter)))


def store(database: Database, plan: Plan, trace: str | None, *, is_traced: bool) -> Rows:
    """Insert all rows of the plan in one transaction.

    Raises:
        RunExists: a run with this id exists.
    """
    execution = {**plan.execution, "trace": trace}
    attempts = 0

    def work(connection: Connection) -> Rows:
        nonlocal attempts
        attempts += 1
        # An earlier attempt may have been committed even if its answer was lost.
        if attempts > 1 and (stored := _stored(connection, execution)) is not None:
            return stored
        rows = Rows([execution], *_children(connection, plan, execution))
        if is_traced:
            is_final = execution["status"] is not PipelineTaskStatus.PENDING
            row = reference(PIPELINE_EXECUTION, execution["id"], execution["id"], execution["created"], due=is_final)
            connection.execute(insert(schema.outbox).inline(), row)
        return rows

    try:
        return database.write(work)
    except IntegrityError as error:
        raise _conflict(database, error, execution["run_id"]) from None


def _stored(connection: Connection, execution: Row) -> Rows | None:
    """The rows of the run if it is stored exactly as planned; otherwise None."""
    table = schema.pipeline_execution
    row = connection.execute(select(table).where(table.c.run_id == execution["run_id"])).mappings().first()
    if row is None or (row["created"], row["trace"]) != (execution["created"], execution["trace"]):
        return None
    children = (
        [dict(child) for child in connection.execute(_of_run(level, row["id"])).mappings()]
        for level in (schema.pipeline_result, schema.task_execution, schema.task_result)
    )
    return Rows([dict(row)], *children)


def _of_run(table: Table, execution_id: int) -> Select[Any]:
    return select(table).where(table.c.execution_id == execution_id).order_by(table.c.id)


def announce(records: IdentityMap, rows: Rows, reporter: Reporter | None) -> SqlPipelineExecution:
    """Report PENDING for every record, level by level, from the top down; returns the execution."""
    execution: SqlPipelineExecution
    [execution] = _records(records, SqlPipelineExecution, rows.executions, {})
    if reporter is None:
        return execution
    _report(reporter, "report_pipeline_execution", [execution])
    pipeline_results = list(_records(records, SqlPipelineResult, rows.pipeline_results, {execution.id: execution}))
    _report(reporter, "report_pipeline_result", pipeline_results)
    by_id: dict[int, SqlRecord] = {record.id: record for record in pipeline_results}
    task_executions = list(_records(records, SqlTaskExecution, rows.task_executions, by_id))
    _report(reporter, "report_task_execution", task_executions)
    by_id = {record.id: record for record in task_executions}
    # There may be very many records, so keep none longer than the reporter does.
    _report(reporter, "report_task_result", _records(records, SqlTaskResult, rows.task_results, by_id))
    return execution


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run, as they were inserted, with their ids."""

    executions: Sequence[Row]
    pipeline_results: Sequence[Row]
    task_executions: Sequence[Row]
    task_results: Sequence[Row]


def _children(connection: Connection, plan: Plan, execution: Row) -> tuple[list[Row], list[Row], list[Row]]:
    insert_rows(connection, schema.pipeline_execution, [execution])
    common = {
        "execution_id": execution["id"],
        "status": PipelineTaskStatus.PENDING,
        "created": execution["created"],
    }
    pipeline_results = [
        {**common, "pipeline_object": text, "runner": plan.runner, "reporter": plan.reporter} for text in plan.objects
    ]
    insert_rows(connection, schema.pipeline_result, pipeline_results)
    task_executions: list[Row] = [
        {
            **common,
            "pipeline_result_id": pipeline_result["id"],
            "pipeline_task": task.pipeline_task,
            "task_id": task.task_id,
            "config": task.config,
        }
        for pipeline_result in pipeline_results
        for task in plan.tasks
    ]
    insert_rows(connection, schema.task_execution, task_executions)
    task_results: list[Row] = [
        {**common, "task_execution_id": task_execution["id"], "task_object": text}
        for position, task_execution in enumerate(task_executions)
        for text in plan.tasks[position % len(plan.tasks)].objects
    ]
    insert_rows(connection, schema.task_result, task_results)
    return pipeline_results, task_executions, task_results


def insert_rows(connection: Connection, table: Table, rows: list[Row]) -> None:
    """Insert the rows of one kind of record, which have the same columns, and set ``id`` in each."""
    if rows:
        policy_of(connection).insert(connection, table, rows)


def _counted(plan: Plan) -> Plan:
    plan.execution["pipeline_result_count"] = len(plan.objects)
    plan.execution["task_result_count"] = len(plan.objects) * sum(len(task.objects) for task in plan.tasks)
    return plan


def _task(task: Any) -> _Task:
    name = identifier(_asked(task, "pipeline_task", "a task"), "a task's name")
    what = f"task {name!r}"
    iterator, serialize = (_asked(task, each, what) for each in ("get_iterator", "get_serializable_task_object"))
    return _Task(
        pipeline_task=name,
        task_id=identifier(_asked(task, "task_id", what), "a task's id"),
        config=dump_json(_config(_asked(task, "cleaned_config", what)), f"the config of {what}"),
        objects=_objects(iterator, serialize, f"an object of {what}"),
    )


def _asked(thing: object, name: str, what: str) -> Any:
    """What the user's object has under the name.

    Raises:
        InvalidInput: it has nothing there.
    """
    try:
        return getattr(thing, name)
    except AttributeError as error:
        # An AttributeError from within a property of the user's is a fault there, with a traceback of its own.
        if error.obj is not thing or error.name != name:
            raise
        raise InvalidInput(
            f"{what}, a {type(thing).__name__}, has no attribute {name!r}; otel_storage.results.protocols says what "
            "pipelines and tasks need"
        ) from error


def _config(config: Any) -> Any:
    """The task's configuration as plain values: JSON values from pydantic 2, Python values from pydantic 1."""
    if config is None or isinstance(config, Mapping):
        return config
    if hasattr(config, "model_dump"):
        return config.model_dump(mode="json")
    if hasattr(config, "dict"):
        return config.dict()
    raise InvalidInput(f"a task's cleaned_config must be a pydantic model or a mapping, not {type(config).__name__}")


def _objects(
    get_iterator: Callable[[], Iterable[Any] | None], serialize: Callable[[Any], Any], what: str
) -> list[str | None]:
    iterator = get_iterator()
    return [dump_json(serialize(item), what) for item in (iterator if iterator is not None else [None])]


def _path(thing: object) -> str:
    return "" if thing is None else storable(f"{type(thing).__module__}.{type(thing).__name__}")[:255]


def _conflict(database: Database, error: IntegrityError, run_id: str) -> Exception:
    table = schema.pipeline_execution
    with database.read() as connection:
        exists = connection.execute(select(table.c.id).where(table.c.run_id == run_id)).first() is not None
    if not exists:
        return error
    return RunExists(f"there is a run {run_id} already; give every run an id of its own, e.g. str(uuid.uuid4())")


_UNSET = dict.fromkeys(("started", "completed", "started_message", "completed_message"))


def _records(
    records: IdentityMap, kind: type[Any], rows: Iterable[Row], parents: Mapping[int, SqlRecord]
) -> Iterator[Any]:
    for row in rows:
        yield records.put(kind, {**_UNSET, **row}, parents.get(row.get(kind.parent_column, 0)))


def _report(reporter: Reporter, method: str, records: Iterable[SqlRecord]) -> None:
    """Report PENDING through the host's method for the kind, if the reporter has that method."""
    report = getattr(reporter, method, reporter.report_context_object)
    for record in records:
        report(record, PipelineTaskStatus.PENDING, record.waiting_message)
