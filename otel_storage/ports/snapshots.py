"""Snapshots of stored records, without behaviour: the data of spans.

All times are aware and UTC. A record's snapshot is the same whenever it is read: a task result's shows it once it is
final, those of the three parent levels show them when the run settled. No code changes a snapshot. The classes are not
frozen, because making frozen instances takes three times as long, and each span needs one.
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
    """The fields that the four kinds share."""

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
    """A record with children."""

    span_start: datetime | None = None
    """The earliest time of the record and the spans below it; None if the record has no span."""
    span_end: datetime | None = None
    """The latest time of the record and the spans below it."""
    outcome: PipelineTaskStatus | None = None
    """The final status that counts: its own, or that of its results for a task execution never reported final."""


@dataclass(slots=True, kw_only=True)
class ExecutionSnapshot(ParentSnapshot):
    """A PipelineExecution."""

    run_id: str
    pipeline_id: str
    input_data: Any
    trace: dict[str, Any]
    """The decision about the run's trace."""


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
