"""The four kinds of record, backed by rows."""

from __future__ import annotations

from typing import Any

from otel_storage.results.base import PipelineExecution, PipelineResult, TaskExecution, TaskResult
from otel_storage.sql.database import schema
from otel_storage.sql.database.values import dump_json, identifier
from otel_storage.sql.records.record import SqlParent, SqlRecord
from otel_storage.sql.records.sequences import SqlSequence


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
        return int(self.row["task_result_count"])

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
        return self.parent  # type: ignore[return-value]  # put there by the identity map

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
        return str(self.row["pipeline_task"])

    @property
    def task_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the task's class."""
        return str(self.row["task_id"])

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
        """The object the pipeline instance was started with.

        Shared with the pipeline result unless this record is live.
        """
        return super().get_pipeline_object() if self._is_live else self.get_pipeline_result().get_pipeline_object()

    def get_pipeline_result(self) -> SqlPipelineResult:
        """The pipeline result this is part of."""
        return self.parent  # type: ignore[return-value]  # put there by the identity map

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
        """The object the pipeline instance was started with.

        Shared with the pipeline result unless this record is live.
        """
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
        return self.parent  # type: ignore[return-value]  # put there by the identity map

    def _get_propagate_parent(self) -> SqlTaskExecution:
        return self.get_task_execution()
