"""A storage that is not ours: the standard interface, kept in memory, with nothing of telemetry in it.

It is written as a user's would be: records are plain objects, and the interface's own ``report_status_change`` does the
rest.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from otel_storage.results import clock as clocks
from otel_storage.results.base import (
    PipelineDigest,
    PipelineDigestItem,
    PipelineExecution,
    PipelineResult,
    PipelineStorage,
    PipelineStorageObject,
    TaskExecution,
    TaskResult,
)
from otel_storage.results.clock import Clock
from otel_storage.results.status import PipelineTaskStatus


class Records(list[Any]):
    """A sequence of records, as the interface wants it."""

    def count(self, *_nothing: Any) -> int:
        """How many there are."""
        return len(self)

    def all(self) -> Records:
        """The sequence itself."""
        return self


class MemoryRecord(PipelineStorageObject):
    """A record: attributes, of which a save keeps the state."""

    def __init__(self, id_: int, created: datetime) -> None:
        self.id = id_
        self.status = PipelineTaskStatus.PENDING
        self.created = created
        self.started = None
        self.completed = None
        self.buffered: dict[str, Any] = {}

    def set_status(self, status: Any) -> None:
        """Buffer the status."""
        self.buffered["status"] = status

    def set_started(self, moment: datetime) -> None:
        """Buffer the start."""
        self.buffered["started"] = moment

    def set_completed(self, moment: datetime) -> None:
        """Buffer the completion."""
        self.buffered["completed"] = moment

    def save(self) -> None:
        """Take on what is buffered."""
        self.__dict__.update(self.buffered)
        self.buffered.clear()


class MemoryExecution(MemoryRecord, PipelineExecution):
    """An execution with its results."""

    def __init__(self, id_: int, created: datetime, run_id: str, pipeline_id: str, input_data: Any) -> None:
        super().__init__(id_, created)
        self.run_id = run_id
        self.pipeline_id = pipeline_id
        self.input_data = input_data
        self.children = Records()

    def get_pipeline_results(self) -> Any:
        """The run's pipeline results."""
        return self.children


class MemoryChild(MemoryRecord):
    """A record with another above it."""

    def __init__(self, id_: int, created: datetime, parent: Any) -> None:
        super().__init__(id_, created)
        self.parent = parent
        self.children = Records()
        parent.children.append(self)

    @property
    def run_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the run."""
        return str(self.parent.run_id)

    @property
    def pipeline_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the pipeline."""
        return str(self.parent.pipeline_id)

    @property
    def input_data(self) -> Any:
        """What the run was started with."""
        return self.parent.input_data


class MemoryPipelineResult(MemoryChild, PipelineResult):
    """A pipeline result."""

    def get_pipeline_execution(self) -> Any:
        """The execution."""
        return self.parent

    def get_task_executions(self) -> Any:
        """Its task executions."""
        return self.children


class MemoryTaskExecution(MemoryChild, TaskExecution):
    """A task execution."""

    @property
    def serializable_pipeline_object(self) -> Any:
        """The object of the pipeline result."""
        return self.parent.serializable_pipeline_object

    def get_pipeline_result(self) -> Any:
        """The pipeline result."""
        return self.parent

    def get_task_results(self) -> Any:
        """Its task results."""
        return self.children


class MemoryTaskResult(MemoryChild, TaskResult):
    """A task result."""

    def __getattr__(self, name: str) -> Any:
        if name in ("pipeline_task", "task_id", "config", "serializable_pipeline_object"):
            return getattr(self.parent, name)
        return super().__getattr__(name)  # type: ignore[misc]  # the contract hides it from type checkers

    def get_task_execution(self) -> Any:
        """The task execution."""
        return self.parent


class MemoryStorage(PipelineStorage):
    """Keeps runs in lists.

    Args:
        clock: Gives the time now.
    """

    def __init__(self, clock: Clock = clocks.now) -> None:
        self.clock = clock
        self.executions: list[MemoryExecution] = []
        self._ids = itertools.count(1)

    def build_pipeline_execution(
        self,
        pipeline: Any,
        run_id: Any,
        runner: object,
        reporter: Any,
        input_data: Any,
        build_all: bool | None = True,
    ) -> MemoryExecution:
        """Make the records, parents first, and report each."""
        created = self.clock()
        execution = MemoryExecution(next(self._ids), created, str(run_id), pipeline.id, input_data)
        self.executions.append(execution)
        _pending(reporter, execution, "Pipeline is waiting to start")
        if not build_all:
            return execution
        for obj in _objects(pipeline):
            result = MemoryPipelineResult(next(self._ids), created, execution)
            result.serializable_pipeline_object = pipeline.get_serializable_pipeline_object(obj)
            result.runner = f"{type(runner).__module__}.{type(runner).__name__}"
            result.reporter = f"{type(reporter).__module__}.{type(reporter).__name__}"
        for result in execution.children:
            _pending(reporter, result, "Pipeline is waiting to start")
        for result, task in itertools.product(execution.children, (pipeline.tasks or {}).values()):
            task_execution = MemoryTaskExecution(next(self._ids), created, result)
            task_execution.pipeline_task, task_execution.task_id = task.pipeline_task, task.task_id
            config = task.cleaned_config
            task_execution.config = dict(config) if isinstance(config, dict) else config.dict()
            _pending(reporter, task_execution, "Task is waiting to start")
        for result, task in itertools.product(execution.children, (pipeline.tasks or {}).values()):
            [task_execution] = [child for child in result.children if child.pipeline_task == task.pipeline_task]
            for obj in _objects(task):
                task_result = MemoryTaskResult(next(self._ids), created, task_execution)
                task_result.serializable_task_object = task.get_serializable_task_object(obj)
                _pending(reporter, task_result, "Task is waiting to start")
        return execution

    def get_pipeline_digest(self) -> PipelineDigest:
        """The figures of each pipeline."""
        digest: PipelineDigest = {}
        for execution in self.executions:
            item = digest.setdefault(execution.pipeline_id, PipelineDigestItem())
            item.total_runs += 1
            item.total_success += execution.get_status() is PipelineTaskStatus.DONE
            item.total_failure += execution.failed
            moments = filter(None, (item.last_ran, execution.get_started()))
            item.last_ran = max(moments, default=None)
        for pipeline_id, item in digest.items():
            times = [e.duration for e in self.executions if e.pipeline_id == pipeline_id and e.duration is not None]
            item.average_runtime = sum(times, timedelta(0)) / len(times) if times else None
        return digest

    def get_pipeline_executions(self, pipeline_id: str | None = None) -> Any:
        """Executions, newest first."""
        return Records(e for e in reversed(self.executions) if not pipeline_id or e.pipeline_id == str(pipeline_id))

    def get_pipeline_execution(self, run_id: Any) -> Any:
        """The execution of the run."""
        return next((e for e in self.executions if e.run_id == str(run_id)), None)

    def get_pipeline_results(self, run_id: str | None = None) -> Any:
        """Pipeline results."""
        return Records(r for e in self.executions for r in e.children if not run_id or e.run_id == str(run_id))

    def get_pipeline_result(self, _id: Any) -> Any:
        """The pipeline result of that id."""
        return _by_id(self.get_pipeline_results(), _id)

    def get_task_executions(self, run_id: str | None = None, pipeline_result_id: Any = None) -> Any:
        """Task executions."""
        results = _under(self.get_pipeline_results(run_id), pipeline_result_id)
        return Records(t for r in results for t in r.children)

    def get_task_execution(self, _id: Any) -> Any:
        """The task execution of that id."""
        return _by_id(self.get_task_executions(), _id)

    def get_task_results(
        self, run_id: str | None = None, pipeline_result_id: Any = None, task_execution_id: Any = None
    ) -> Any:
        """Task results."""
        tasks = _under(self.get_task_executions(run_id, pipeline_result_id), task_execution_id)
        return Records(r for t in tasks for r in t.children)

    def get_task_result(self, _id: Any) -> Any:
        """The task result of that id."""
        return _by_id(self.get_task_results(), _id)

    def cleanup(self, before: datetime | None = None) -> Sequence[str]:
        """Remove runs that were built before a time, or all."""
        limit = None if before is None else before.astimezone(UTC)
        removed = [e for e in self.executions if limit is None or (e.created is not None and e.created < limit)]
        self.executions = [e for e in self.executions if e not in removed]
        return [e.run_id for e in removed]


def _objects(source: Any) -> list[Any]:
    iterator = source.get_iterator()
    return [None] if iterator is None else list(iterator)


def _pending(reporter: Any, record: Any, message: str) -> None:
    reporter.report_context_object(record, PipelineTaskStatus.PENDING, message)


def _by_id(records: Records, id_: Any) -> Any:
    return next((record for record in records if str(record.id) == str(id_)), None)


def _under(records: Records, id_: Any) -> list[Any]:
    return [record for record in records if id_ in (None, "") or str(record.id) == str(id_)]


def new_run_id() -> str:
    """A run id that is a trace id as well."""
    return str(uuid.uuid4())
