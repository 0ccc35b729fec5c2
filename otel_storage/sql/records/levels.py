"""The four kinds of record, backed by rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sqlalchemy import Table

from otel_storage.results import host
from otel_storage.results.base import (
    PipelineExecution,
    PipelineResult,
    PipelineStorageObject,
    StatusChange,
    TaskExecution,
    TaskResult,
)
from otel_storage.results.exceptions import RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.model_objects import ModelObject, names_model_object
from otel_storage.results.status import FINAL, PipelineTaskStatus, as_status
from otel_storage.sql.database import schema
from otel_storage.sql.database.types import aware, dump_json, identifier, load_json
from otel_storage.sql.outbox.transitions import Change
from otel_storage.sql.records import reporting
from otel_storage.sql.records.sequences import ChildSequence, SqlSequence

if TYPE_CHECKING:
    from otel_storage.results.protocols import Reporter, StorageListener
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.records.identity_map import Batch, IdentityMap

Record = TypeVar("Record", bound="SqlRecord")


class SqlRecord(PipelineStorageObject):
    """A row, its parent, and the fields that were set but not saved."""

    table: ClassVar[Table]
    parent_kind: ClassVar[type[SqlRecord] | None]
    parent_column: ClassVar[str] = ""
    object_column: ClassVar[str] = ""
    """Where the object that the record was started with is stored; it is the attribute's name as well."""
    waiting_message: ClassVar[str]
    """What is reported with PENDING."""

    def __init__(self, records: IdentityMap, values: dict[str, Any], parent: SqlRecord | None) -> None:
        self._records = records
        self._values = values
        self._parent = parent
        self._execution = None if parent is None else parent.execution
        self._buffer: dict[str, Any] = {}
        self._parsed: dict[str, Any] = {}
        self._model_objects: dict[str, ModelObject] = {}
        self._is_live = False

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
        return self._moment("created")

    @property
    def started(self) -> datetime | None:
        """When RUNNING was reported."""
        return self._moment("started")

    @started.setter
    def started(self, moment: datetime | None) -> None:
        self._set("started", aware(moment, "started"))

    @property
    def completed(self) -> datetime | None:
        """When a final status was reported."""
        return self._moment("completed")

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
        return tuple(StatusChange(status, self._presented(at), message) for status, at, message in changes)

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
        return self if self._execution is None else self._execution

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
        if not self._is_live:
            # The task that runs now gets model objects of its own, as they are now.
            self._is_live, self._model_objects = True, {}
        reporting.report(self, reporter, as_status(status), message, propagate)

    def apply(self, change: Change, fields: dict[str, Any] | None) -> None:
        """Take on a change that was committed."""
        moment = "started" if change.status is PipelineTaskStatus.RUNNING else "completed"
        self._values["status"] = change.status
        self._values[moment] = change.at
        self._values[f"{moment}_message"] = change.message or None
        self._values.update(fields or {})

    def join(self, batch: Batch) -> None:
        """Take note of what the record was listed with."""
        text = self._values[self.object_column] if self.object_column else None
        if text is None or self._is_live or "model_name" not in text or not names_model_object(self._stored_object()):
            return
        known = self._model_objects.get(self.object_column)
        if known is None or not known.is_loaded:
            self._model_objects[self.object_column] = batch.model_objects.expect(self._stored_object())

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
            reporting.save(self, dict(buffered))
        except (StatusConflict, RecordIsFinal, RecordDeleted):
            raise
        except Exception:
            # The database failed: what was set can be saved again.
            self._buffer = {**buffered, **self._buffer}
            raise

    def _get_propagate_parent(self) -> SqlRecord | None:
        return self._parent

    def _deserialized(self, name: str, serializable_object: Any) -> Any:
        """The object, loaded once: a live record's alone, another's together with those of its batch."""
        if not names_model_object(serializable_object):
            return serializable_object or None
        known = self._model_objects.get(name)
        if known is None or known.identity != serializable_object:
            known = self._model_objects[name] = ModelObject(serializable_object)
        return known.get()

    def _moment(self, column: str) -> datetime | None:
        moment: datetime | None = self._value(column)
        return None if moment is None else self._presented(moment)

    def _presented(self, moment: datetime) -> datetime:
        return moment if self._records.has_zones else host.without_zone(moment)

    def _stored_object(self) -> Any:
        return self._json(self.object_column)

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


class SqlParent(SqlRecord):
    """A record with others below it."""

    def __init__(self, records: IdentityMap, values: dict[str, Any], parent: SqlRecord | None) -> None:
        super().__init__(records, values, parent)
        self.batch: Batch | None = None
        """What the record was listed with; None if it was looked up alone, or once its children were taken."""
        self.children_read: list[Any] | None = None
        """Its children, where they were read with those of its batch and nobody has taken them yet."""
        self._is_taken = False

    def join(self, batch: Batch) -> None:
        """Take note of what the record was listed with, if its children were not taken yet."""
        super().join(batch)
        if not self._is_taken:
            self.batch, self.children_read = batch, None

    def waits_for(self, batch: Batch) -> bool:
        """Whether the record's children are to be read with those of the batch."""
        return self.batch is batch and self.children_read is None

    def children_of_batch(self, kind: type[SqlRecord]) -> list[Any] | None:
        """The children, read with those of the batch; None if they are to be read alone."""
        if self.children_read is None and self.batch is not None:
            self.batch.read_children(kind)
        return self.children_read

    def take_children(self) -> None:
        """Let go of the children that were read with the batch's: from now on they are read alone, as they are then."""
        self.batch, self.children_read, self._is_taken = None, None, True

    def _children(self, kind: type[Record]) -> SqlSequence[Record]:
        return ChildSequence(self._records, kind, [kind.table.c[kind.parent_column] == self.id], self)


class SqlPipelineExecution(SqlParent, PipelineExecution):
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
        return self._children(SqlPipelineResult)


class SqlPipelineResult(SqlParent, PipelineResult):
    """The state of one pipeline instance inside a run."""

    table = schema.pipeline_result
    parent_kind = SqlPipelineExecution
    parent_column = "execution_id"
    object_column = "pipeline_object"
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
        return self._children(SqlTaskExecution)

    def _get_propagate_parent(self) -> SqlPipelineExecution:
        return self.get_pipeline_execution()


class SqlTaskExecution(SqlParent, TaskExecution):
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

    def get_pipeline_object(self) -> Any:
        """The object the pipeline instance was started with: that of the pipeline result, unless this is live."""
        return super().get_pipeline_object() if self._is_live else self.get_pipeline_result().get_pipeline_object()

    def get_pipeline_result(self) -> SqlPipelineResult:
        """The pipeline result this is part of."""
        return self._parent  # type: ignore[return-value]  # put there by the identity map

    def get_task_results(self) -> SqlSequence[SqlTaskResult]:
        """The task's results."""
        return self._children(SqlTaskResult)

    def _get_propagate_parent(self) -> SqlPipelineResult:
        return self.get_pipeline_result()


class SqlTaskResult(SqlRecord, TaskResult):
    """The state of one task instance."""

    table = schema.task_result
    parent_kind = SqlTaskExecution
    parent_column = "task_execution_id"
    object_column = "task_object"
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

    def get_pipeline_object(self) -> Any:
        """The object the pipeline instance was started with: that of the pipeline result, unless this is live."""
        return super().get_pipeline_object() if self._is_live else self.get_task_execution().get_pipeline_object()

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


__all__ = ["SqlParent", "SqlPipelineExecution", "SqlPipelineResult", "SqlRecord", "SqlTaskExecution", "SqlTaskResult"]
