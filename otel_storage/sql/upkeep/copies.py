"""Copies of another storage's runs, in our tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, insert, select

from otel_storage.ports.copies import PipelineResultCopy, RecordChange, RunCopy, TaskExecutionCopy
from otel_storage.ports.traces import is_sampled
from otel_storage.results.kinds import PIPELINE_EXECUTION
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.runtime.chunks import chunks
from otel_storage.sql.database import schema
from otel_storage.sql.database.values import dump_json, identifier, load_json, message_text, storable
from otel_storage.sql.outbox.transitions import (
    Change,
    advance,
    apply_whatever_the_texts,
    reference,
    write_references,
)
from otel_storage.sql.records.building import Row, insert_rows
from otel_storage.sql.upkeep import cleanup

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database

logger = logging.getLogger("otel_storage")

_REMEMBERED = 1_000
"""How many runs' ids a process remembers."""


@dataclass(frozen=True, slots=True)
class _Run:
    """The data of a run that every change of its records needs."""

    execution_id: int
    is_sampled: bool


class SqlCopies:
    """The copies in our database; :class:`~otel_storage.ports.copies.RunCopies` documents the methods.

    Args:
        database: The database, with connections of its own, because runs wait for them.
        clock: Gives the time now, aware and in UTC.
        message_limit: See :class:`~otel_storage.sql.storage.SqlPipelineStorage`.
    """

    def __init__(self, database: Database, clock: Clock, message_limit: int) -> None:
        self._database = database
        self._clock = clock
        self._message_limit = message_limit
        self._runs: dict[str, _Run] = {}

    def close(self) -> None:
        """Close the connections."""
        self._database.dispose()

    def add(self, run: RunCopy) -> None:
        """Keep the copy of a new run.

        Raises:
            InvalidInput: a value of the run cannot be stored.
        """
        execution = _execution_row(run)
        sampled = is_sampled(run.trace)

        def work(connection: Connection) -> int:
            insert_rows(connection, schema.pipeline_execution, [execution])
            # A run that is not sampled has no spans, so its lower levels are not copied.
            if sampled:
                _insert_children(connection, run, execution["id"])
                row = reference(PIPELINE_EXECUTION, execution["id"], execution["id"], run.created, due=False)
                connection.execute(insert(schema.outbox).inline(), row)
            return int(execution["id"])

        self._remember(run.run_id, _Run(self._database.write(work), sampled))

    def apply(self, changes: Sequence[RecordChange]) -> bool:
        """Apply the changes that advance the copies, in one transaction."""
        known = [
            (change, run)
            for change in changes
            # The copy of a run that is not sampled has nothing below its execution.
            if (run := self._run(change.run_id)) is not None and (run.is_sampled or change.kind == PIPELINE_EXECUTION)
        ]
        if not known:
            return False

        def apply(applied: Sequence[Change]) -> bool:
            def work(connection: Connection) -> bool:
                each = zip(known, applied, strict=True)
                return sum(_apply(connection, change, run, one) for (change, run), one in each) > 0

            return self._database.write(work)

        texts = [message_text(change.message, self._message_limit) for change, _ in known]
        return apply_whatever_the_texts(
            [
                Change(change.status, change.at, text, change.failure)
                for (change, _), text in zip(known, texts, strict=True)
            ],
            apply,
        )

    def is_sampled(self, run_id: str) -> bool | None:
        """Whether the run's spans are sent; None if it has no copy."""
        run = self._run(run_id)
        return None if run is None else run.is_sampled

    def remove(self, run_ids: Sequence[str]) -> None:
        """Remove the copies of runs that were removed."""
        unsent = 0
        for part in chunks([str(run_id) for run_id in run_ids], cleanup.CHUNK):
            for run_id in part:
                self._runs.pop(run_id, None)
            for ids in self._database.look_up(partial(cleanup.copies, run_ids=part)):
                _, references = self._database.write(partial(cleanup.remove, ids=ids, now=self._clock()))
                unsent += references
        if unsent:
            logger.warning("cleanup removed %d runs, and with them %d references to unsent spans", len(run_ids), unsent)

    def _run(self, run_id: str) -> _Run | None:
        known = self._runs.get(run_id)
        if known is not None:
            return known
        table = schema.pipeline_execution
        statement = select(table.c.id, table.c.trace).where(table.c.run_id == run_id, table.c.source_id.is_not(None))
        with self._database.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        return self._remember(run_id, _Run(row.id, is_sampled(load_json(row.trace))))

    def _remember(self, run_id: str, run: _Run) -> _Run:
        # Without a lock: at worst two threads forget an entry too early, and it is looked up again.
        while len(self._runs) >= _REMEMBERED:
            self._runs.pop(next(iter(self._runs)), None)
        self._runs[run_id] = run
        return run


def _apply(connection: Connection, change: RecordChange, run: _Run, applied: Change) -> bool:
    table = schema.LEVELS[change.kind]
    run_column = table.c.id if change.kind == PIPELINE_EXECUTION else table.c.execution_id
    statement = select(table.c.id).where(run_column == run.execution_id, table.c.source_id == change.record_id)
    record_id = connection.execute(statement).scalar()
    if record_id is None:
        return False
    fields: dict[str, Any] = {}
    if change.status in FINAL and change.started is not None:
        fields["started"] = func.coalesce(table.c.started, change.started)
    winners = advance(connection, [(change.kind, record_id)], applied, fields)
    return write_references(connection, run.execution_id, winners, applied, is_traced=run.is_sampled)


def _execution_row(run: RunCopy) -> Row:
    tasks = [task for result in run.pipeline_results for task in result.task_executions]
    return {
        **_copied(run.id, run),
        "run_id": identifier(run.run_id, "run_id"),
        "pipeline_id": identifier(run.pipeline_id, "the pipeline's id"),
        "input_data": dump_json(run.input_data, "input_data"),
        "trace": json.dumps(run.trace),
        "pipeline_result_count": len(run.pipeline_results),
        "task_result_count": sum(len(task.task_results) for task in tasks),
    }


def _copied(source_id: int, run: RunCopy) -> Row:
    return {"source_id": source_id, "status": PipelineTaskStatus.PENDING, "created": run.created}


def _insert_children(connection: Connection, run: RunCopy, execution_id: int) -> None:
    """Insert the three levels below the execution, all rows of a level at once."""
    common = {**_copied(0, run), "execution_id": execution_id}
    results = [(result, _pipeline_result_row(result, common)) for result in run.pipeline_results]
    insert_rows(connection, schema.pipeline_result, [row for _, row in results])
    tasks = [
        (task, _task_execution_row(task, row["id"], common))
        for result, row in results
        for task in result.task_executions
    ]
    insert_rows(connection, schema.task_execution, [row for _, row in tasks])
    rows = [
        {
            **common,
            "source_id": result.id,
            "task_execution_id": row["id"],
            "task_object": dump_json(result.task_object, "a task object"),
        }
        for task, row in tasks
        for result in task.task_results
    ]
    insert_rows(connection, schema.task_result, rows)


def _pipeline_result_row(result: PipelineResultCopy, common: Row) -> Row:
    return {
        **common,
        "source_id": result.id,
        "pipeline_object": dump_json(result.pipeline_object, "a pipeline object"),
        "runner": storable(result.runner)[:255],
        "reporter": storable(result.reporter)[:255],
    }


def _task_execution_row(task: TaskExecutionCopy, pipeline_result_id: int, common: Row) -> Row:
    return {
        **common,
        "source_id": task.id,
        "pipeline_result_id": pipeline_result_id,
        "pipeline_task": storable(task.pipeline_task)[:255],
        "task_id": storable(task.task_id)[:255],
        "config": dump_json(task.config, "a task's config"),
    }
