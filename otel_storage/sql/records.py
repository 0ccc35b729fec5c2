"""The four kinds of record, backed by rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import ColumnElement, Select, Table, func, select

from otel_storage.results import host
from otel_storage.results.base import (
    PipelineExecution,
    PipelineResult,
    PipelineStorageObject,
    StatusChange,
    TaskExecution,
    TaskResult,
)
from otel_storage.results.exceptions import InvalidInput, RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.status import FINAL, PipelineTaskStatus, as_status
from otel_storage.sql import schema, transitions
from otel_storage.sql.sequences import SqlSequence
from otel_storage.sql.types import aware, dump_json, identifier, load_json

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.results.protocols import Reporter, StorageListener
    from otel_storage.sql.engine import Database

Record = TypeVar("Record", bound="SqlRecord")

_SPAN_COLUMNS = {"span_start", "span_end", "span_status", "span_outcome"}

# A list of ids longer than this is asked for in parts: engines limit the parameters of a statement.
_CHUNK = 1000


class IdentityMap:
    """Records that were read together: one object for each, parents shared with their children.

    Reading a record again refreshes the object that is there.
    """

    def __init__(self, database: Database, clock: Clock, listener: StorageListener | None) -> None:
        self.database = database
        self.clock = clock
        self.listener = listener
        self._records: WeakValueDictionary[tuple[str, int], SqlRecord] = WeakValueDictionary()

    def put(self, kind: type[Record], values: dict[str, Any], parent: SqlRecord | None) -> Record:
        """The record of the row, made or refreshed."""
        key = (kind.content_type_name, values["id"])
        known = self._records.get(key)
        if known is None:
            record = kind(self, values, parent)
            self._records[key] = record
            return record
        known.refresh(values)
        return known  # type: ignore[return-value]  # the key holds the kind

    def count(self, kind: type[SqlRecord], conditions: Sequence[ColumnElement[bool]]) -> int:
        """How many rows meet the conditions."""
        with self.database.read() as connection:
            statement = select(func.count()).select_from(kind.table).where(*conditions)
            return int(connection.execute(statement).scalar_one())

    def get(self, kind: type[Record], condition: ColumnElement[bool]) -> Record | None:
        """The one record that meets the condition, and its parents, in one query."""
        with self.database.read() as connection:
            row = connection.execute(_with_parents(kind).where(condition)).mappings().first()
        if row is None:
            return None
        record: SqlRecord | None = None
        for level in _lineage(kind):
            prefix = f"{level.content_type_name}_"
            values = {column: row[f"{prefix}{column}"] for column in _columns(level)}
            record = self.put(level, values, record)
        return record  # type: ignore[return-value]  # the lineage ends with the kind

    def select(
        self,
        kind: type[Record],
        conditions: Sequence[ColumnElement[bool]],
        offset: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Record]:
        """The records that meet the conditions, with the parents that are not known yet: a query per level."""
        id_column = kind.table.c.id
        statement = _rows(kind).where(*conditions).order_by(id_column.desc() if newest_first else id_column)
        if limit is not None:
            statement = statement.limit(limit)
        if offset:
            # SQLite and MariaDB know no OFFSET without a LIMIT.
            statement = statement.limit(limit if limit is not None else 2**62).offset(offset)
        with self.database.read() as connection:
            rows = [dict(row) for row in connection.execute(statement).mappings()]
        parents = self._parents(kind, rows)
        if kind.parent_kind is None:
            return [self.put(kind, row, None) for row in rows]
        # A row without its parent is one that a cleanup has just removed.
        known = ((row, parents.get(row[kind.parent_column])) for row in rows)
        return [self.put(kind, row, parent) for row, parent in known if parent is not None]

    def _parents(self, kind: type[SqlRecord], rows: list[dict[str, Any]]) -> dict[int, SqlRecord]:
        if kind.parent_kind is None or not rows:
            return {}
        wanted = dict.fromkeys(row[kind.parent_column] for row in rows)
        found = {id_: self._records.get((kind.parent_kind.content_type_name, id_)) for id_ in wanted}
        parents = {id_: record for id_, record in found.items() if record is not None}
        missing = [id_ for id_ in wanted if id_ not in parents]
        for start in range(0, len(missing), _CHUNK):
            condition = kind.parent_kind.table.c.id.in_(missing[start : start + _CHUNK])
            parents.update((record.id, record) for record in self.select(kind.parent_kind, [condition]))
        return parents


class SqlRecord(PipelineStorageObject):
    """A row, its parent, and the fields that were set but not saved."""

    table: ClassVar[Table]
    parent_kind: ClassVar[type[SqlRecord] | None]
    parent_column: ClassVar[str] = ""
    waiting_message: ClassVar[str]
    """What is reported with PENDING."""

    def __init__(self, records: IdentityMap, values: dict[str, Any], parent: SqlRecord | None) -> None:
        self._records = records
        self._values = values
        self._parent = parent
        self._buffer: dict[str, Any] = {}
        self._parsed: dict[str, Any] = {}

    @property
    def id(self) -> int:  # type: ignore[override]  # read only
        """The record's id."""
        return int(self._values["id"])

    @property
    def source_id(self) -> int:
        """The id that spans are known by: of a copy, that of the record in the storage it is a copy from."""
        source = self._values.get("source_id")
        return self.id if source is None else int(source)

    @property
    def run_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the run."""
        return str(self.execution._values["run_id"])

    @property
    def pipeline_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the pipeline's class."""
        return str(self.execution._values["pipeline_id"])

    @property
    def input_data(self) -> Any:
        """What the run was started with."""
        return self.execution._json("input_data")

    @property
    def status(self) -> PipelineTaskStatus:
        """The current status."""
        status: PipelineTaskStatus = self._value("status")
        return status

    @status.setter
    def status(self, status: PipelineTaskStatus | str) -> None:
        self._buffer["status"] = as_status(status)

    @property
    def created(self) -> datetime | None:  # type: ignore[override]  # read only
        """When the record was built."""
        return host.present(self._values["created"])

    @property
    def started(self) -> datetime | None:
        """When RUNNING was reported."""
        return host.present(self._value("started"))

    @started.setter
    def started(self, moment: datetime | None) -> None:
        self._set("started", aware(moment, "started"))

    @property
    def completed(self) -> datetime | None:
        """When a final status was reported."""
        return host.present(self._value("completed"))

    @completed.setter
    def completed(self, moment: datetime | None) -> None:
        self._set("completed", aware(moment, "completed"))

    def get_status(self) -> PipelineTaskStatus:
        """The current status."""
        return self.status

    def get_status_changes(self) -> Sequence[StatusChange]:
        """The record's history, oldest first."""
        values = self._values
        changes = [(PipelineTaskStatus.PENDING, values["created"], self.waiting_message)]
        if values["started"] is not None:
            changes.append((PipelineTaskStatus.RUNNING, values["started"], values["started_message"] or ""))
        if values["status"] in FINAL:
            at = values["completed"] or values["created"]
            changes.append((values["status"], at, values["completed_message"] or ""))
        return tuple(StatusChange(status, _presented(at), message) for status, at, message in changes)

    def get_trace_id(self) -> str | None:
        """The id of the run's trace; None if no trace is recorded for the run."""
        listener = self._records.listener
        return listener.trace_id(self.run_id) if listener is not None and self.is_traced else None

    def get_trace_url(self) -> str | None:
        """Where people see the run's trace; None without a trace, or where that is not configured."""
        listener = self._records.listener
        return listener.trace_url(self.run_id) if listener is not None and self.is_traced else None

    @property
    def is_traced(self) -> bool:
        """Whether the run was built with telemetry, and sampled."""
        trace = self.trace
        return trace is not None and bool(trace.get("sampled"))

    @property
    def trace(self) -> dict[str, Any] | None:
        """What was decided about the run's trace when it was built; None: no telemetry."""
        trace: dict[str, Any] | None = self.execution._json("trace")
        return trace

    @property
    def stored_status(self) -> PipelineTaskStatus:
        """The status as it was last read or written, whatever was set since."""
        status: PipelineTaskStatus = self._values["status"]
        return status

    @property
    def parent(self) -> SqlRecord | None:
        """The record above this one."""
        return self._parent

    @property
    def execution(self) -> SqlRecord:
        """The run's execution, which is at the top."""
        return self if self._parent is None else self._parent.execution

    @property
    def records(self) -> IdentityMap:
        """The records that were read together with this one."""
        return self._records

    @property
    def database(self) -> Database:
        """Where the record is stored."""
        return self._records.database

    @property
    def listener(self) -> StorageListener | None:
        """Who is told of transitions."""
        return self._records.listener

    def report_status_change(
        self,
        reporter: Reporter,
        status: PipelineTaskStatus,
        message: str | None = "",
        propagate: bool = True,
    ) -> None:
        """Advance the status, and that of the parents, in one transaction; see the contract."""
        transitions.report(self, reporter, as_status(status), message, propagate)

    def apply(self, change: transitions.Change, fields: dict[str, Any] | None) -> None:
        """Take on a change that was committed."""
        moment = "started" if change.status is PipelineTaskStatus.RUNNING else "completed"
        self._values["status"] = change.status
        self._values[moment] = change.at
        self._values[f"{moment}_message"] = change.message or None
        self._values.update(fields or {})

    def refresh(self, values: dict[str, Any]) -> None:
        """Take on what was read or written."""
        self._values.update(values)

    def save(self) -> None:
        """Write what was set since the last save, and that alone, in one transaction.

        Raises:
            StatusConflict: a status was set that does not advance the stored one.
            RecordIsFinal: the record has become final meanwhile.
            RecordDeleted: the record is no longer stored.
        """
        buffered, self._buffer = self._buffer, {}
        if not buffered:
            return
        try:
            transitions.save(self, dict(buffered))
        except (StatusConflict, RecordIsFinal, RecordDeleted):
            raise
        except Exception:
            # The database failed: what was set can be saved again.
            self._buffer = {**buffered, **self._buffer}
            raise

    def _get_propagate_parent(self) -> SqlRecord | None:
        return self._parent

    def _value(self, column: str) -> Any:
        return self._buffer[column] if column in self._buffer else self._values[column]

    def _json(self, column: str) -> Any:
        text = self._value(column)
        known = self._parsed.get(column)
        if known is None or known[0] is not text:
            known = self._parsed[column] = (text, load_json(text))
        return known[1]

    def _set(self, column: str, value: Any) -> None:
        if self._values["status"] in FINAL and column != "reporter":
            raise RecordIsFinal(
                f"{self!r} is {self.stored_status.value}, and its span may have been sent: {column} no longer changes"
            )
        self._buffer[column] = value

    def __repr__(self) -> str:
        return f"<{self.content_type_name} {self.id} of run {self.run_id}>"


class SqlPipelineExecution(SqlRecord, PipelineExecution):
    """The overall state of one run of a pipeline."""

    table = schema.pipeline_execution
    parent_kind = None
    waiting_message = "Pipeline is waiting to start"

    @property
    def input_data(self) -> Any:
        """What the run was started with."""
        return self._json("input_data")

    @input_data.setter
    def input_data(self, value: Any) -> None:
        self._set("input_data", dump_json(value, "input_data"))

    @property
    def task_result_count(self) -> int:
        """How many task results the run has."""
        return int(self._values["task_result_count"])

    @property
    def pipeline_result_count(self) -> int:
        """How many pipeline results the run has."""
        return int(self._values["pipeline_result_count"])

    def get_pipeline_results(self) -> SqlSequence[SqlPipelineResult]:
        """The run's pipeline results."""
        condition = schema.pipeline_result.c.execution_id == self.id
        return SqlSequence(self._records, SqlPipelineResult, [condition])


class SqlPipelineResult(SqlRecord, PipelineResult):
    """The state of one pipeline instance inside a run."""

    table = schema.pipeline_result
    parent_kind = SqlPipelineExecution
    parent_column = "execution_id"
    waiting_message = "Pipeline is waiting to start"

    @property
    def serializable_pipeline_object(self) -> Any:
        """The object this instance was started with, as JSON holds it."""
        return self._json("pipeline_object")

    @serializable_pipeline_object.setter
    def serializable_pipeline_object(self, value: Any) -> None:
        self._set("pipeline_object", dump_json(value, "the pipeline object"))

    @property
    def runner(self) -> str:
        """The dotted path of the runner's class."""
        return str(self._value("runner"))

    @runner.setter
    def runner(self, path: str) -> None:
        self._set("runner", identifier(path, "runner"))

    @property
    def reporter(self) -> str:
        """The dotted path of the reporter's class."""
        return str(self._value("reporter"))

    @reporter.setter
    def reporter(self, path: str) -> None:
        self._set("reporter", identifier(path, "reporter"))

    def get_pipeline_execution(self) -> SqlPipelineExecution:
        """The execution this is part of."""
        return self._parent  # type: ignore[return-value]  # put there by the identity map

    def get_task_executions(self) -> SqlSequence[SqlTaskExecution]:
        """The executions of the pipeline's tasks."""
        condition = schema.task_execution.c.pipeline_result_id == self.id
        return SqlSequence(self._records, SqlTaskExecution, [condition])

    def _get_propagate_parent(self) -> SqlPipelineExecution:
        return self.get_pipeline_execution()


class SqlTaskExecution(SqlRecord, TaskExecution):
    """The overall state of one task inside a pipeline result."""

    table = schema.task_execution
    parent_kind = SqlPipelineResult
    parent_column = "pipeline_result_id"
    waiting_message = "Task is waiting to start"

    @property
    def pipeline_task(self) -> str:  # type: ignore[override]  # read only
        """The name the task has in its pipeline."""
        return str(self._values["pipeline_task"])

    @property
    def task_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the task's class."""
        return str(self._values["task_id"])

    @property
    def config(self) -> Any:
        """The task's configuration."""
        return self._json("config")

    @config.setter
    def config(self, value: Any) -> None:
        self._set("config", dump_json(value, "config"))

    @property
    def serializable_pipeline_object(self) -> Any:
        """The object the pipeline instance was started with, as JSON holds it."""
        return self.get_pipeline_result().serializable_pipeline_object

    def get_pipeline_result(self) -> SqlPipelineResult:
        """The pipeline result this is part of."""
        return self._parent  # type: ignore[return-value]  # put there by the identity map

    def get_task_results(self) -> SqlSequence[SqlTaskResult]:
        """The task's results."""
        condition = schema.task_result.c.task_execution_id == self.id
        return SqlSequence(self._records, SqlTaskResult, [condition])

    def _get_propagate_parent(self) -> SqlPipelineResult:
        return self.get_pipeline_result()


class SqlTaskResult(SqlRecord, TaskResult):
    """The state of one task instance."""

    table = schema.task_result
    parent_kind = SqlTaskExecution
    parent_column = "task_execution_id"
    waiting_message = "Task is waiting to start"

    @property
    def pipeline_task(self) -> str:  # type: ignore[override]  # read only
        """The name the task has in its pipeline."""
        return self.get_task_execution().pipeline_task

    @property
    def task_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the task's class."""
        return self.get_task_execution().task_id

    @property
    def config(self) -> Any:
        """The task's configuration."""
        return self.get_task_execution().config

    @property
    def serializable_pipeline_object(self) -> Any:
        """The object the pipeline instance was started with, as JSON holds it."""
        return self.get_task_execution().serializable_pipeline_object

    @property
    def serializable_task_object(self) -> Any:
        """The object this instance was started with, as JSON holds it."""
        return self._json("task_object")

    @serializable_task_object.setter
    def serializable_task_object(self, value: Any) -> None:
        self._set("task_object", dump_json(value, "the task object"))

    def get_task_execution(self) -> SqlTaskExecution:
        """The task execution this is part of."""
        return self._parent  # type: ignore[return-value]  # put there by the identity map

    def _get_propagate_parent(self) -> SqlTaskExecution:
        return self.get_task_execution()


def _lineage(kind: type[SqlRecord]) -> tuple[type[SqlRecord], ...]:
    """The kind and those above it, from the top down."""
    above = () if kind.parent_kind is None else _lineage(kind.parent_kind)
    return (*above, kind)


def _columns(kind: type[SqlRecord]) -> tuple[str, ...]:
    return tuple(column.name for column in kind.table.c if column.name not in _SPAN_COLUMNS)


def _rows(kind: type[SqlRecord]) -> Select[Any]:
    return select(*(kind.table.c[name] for name in _columns(kind)))


def _with_parents(kind: type[SqlRecord]) -> Select[Any]:
    """The rows of a kind, each with those above it: a column is labelled by the kind and its name."""
    lineage = _lineage(kind)
    source: Any = kind.table
    for child, parent in zip(reversed(lineage), reversed(lineage[:-1]), strict=False):
        source = source.join(parent.table, parent.table.c.id == child.table.c[child.parent_column])
    columns = [
        level.table.c[name].label(f"{level.content_type_name}_{name}") for level in lineage for name in _columns(level)
    ]
    return select(*columns).select_from(source)


def _presented(moment: datetime) -> datetime:
    presented = host.present(moment)
    if presented is None:
        raise InvalidInput("a stored change of status has no time")
    return presented


__all__ = ["IdentityMap", "SqlPipelineExecution", "SqlPipelineResult", "SqlRecord", "SqlTaskExecution", "SqlTaskResult"]
