"""Records as they are stored, without behaviour: what a span is made from.

All times are aware and UTC. A snapshot of one record is the same whenever it is read: a task result's is taken once it
is final, those of the three levels above as they were when the run's telemetry was settled. Nothing changes one, though
those of records are not frozen: it would take Python three times as long to make one, and one is made for each span.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from otel_storage.results.status import PipelineTaskStatus
from otel_storage.runtime.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The exception a task result failed with."""

    type: str
    """The class of the exception, with its module unless that is ``builtins``."""
    message: str
    stacktrace: str


@dataclass(slots=True, kw_only=True)
class RecordSnapshot:
    """What the four kinds have in common."""

    id: int
    status: PipelineTaskStatus
    created: datetime
    started: datetime | None
    completed: datetime | None
    started_message: str
    completed_message: str
    worker: Worker | None


@dataclass(slots=True, kw_only=True)
class ParentSnapshot(RecordSnapshot):
    """A record that has records below it."""

    span_start: datetime | None = None
    """The earliest of its own times and those of the spans below it; None for a record that has no span."""
    span_end: datetime | None = None
    """The latest of them."""
    outcome: PipelineTaskStatus | None = None
    """The final status it counts as: its own, or for a task execution never reported final that of its results."""


@dataclass(slots=True, kw_only=True)
class ExecutionSnapshot(ParentSnapshot):
    """A PipelineExecution."""

    run_id: str
    pipeline_id: str
    input_data: Any
    trace: dict[str, Any]
    """What was decided about the run's trace when it was built."""


@dataclass(slots=True, kw_only=True)
class PipelineResultSnapshot(ParentSnapshot):
    """A PipelineResult."""

    execution: ExecutionSnapshot
    pipeline_object: Any
    runner: str


@dataclass(slots=True, kw_only=True)
class TaskExecutionSnapshot(ParentSnapshot):
    """A TaskExecution."""

    pipeline_result: PipelineResultSnapshot
    pipeline_task: str
    task_id: str
    config: Any


@dataclass(slots=True, kw_only=True)
class TaskResultSnapshot(RecordSnapshot):
    """A TaskResult in a final state."""

    task_execution: TaskExecutionSnapshot
    task_object: Any
    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """The three parent levels of a settled run; records that have no span are left out."""

    execution: ExecutionSnapshot
    pipeline_results: tuple[PipelineResultSnapshot, ...]
    task_executions: tuple[TaskExecutionSnapshot, ...]
