"""Copies of the runs of a storage that is wrapped: what their spans are made from, kept in tables of ours.

A copy is made when a run is built, and follows the transitions that are told of the run's records. It knows the records
by the ids that they have in their own storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from otel_storage.ports.snapshots import Failure
from otel_storage.results.status import PipelineTaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResultCopy:
    """What is copied of a TaskResult."""

    id: int
    task_object: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExecutionCopy:
    """What is copied of a TaskExecution."""

    id: int
    pipeline_task: str
    task_id: str
    config: Any
    task_results: Sequence[TaskResultCopy]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResultCopy:
    """What is copied of a PipelineResult."""

    id: int
    pipeline_object: Any
    runner: str
    reporter: str
    task_executions: Sequence[TaskExecutionCopy]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCopy:
    """What is copied of a PipelineExecution and all below it, as it was built: PENDING."""

    id: int
    run_id: str
    pipeline_id: str
    created: datetime
    trace: dict[str, Any]
    """What was decided about the run's trace when it was built."""
    input_data: Any
    pipeline_results: Sequence[PipelineResultCopy]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChange:
    """A record of the wrapped storage has reached a status."""

    run_id: str
    kind: str
    """The record's ``content_type_name``."""
    record_id: int
    status: PipelineTaskStatus
    at: datetime
    """Aware, in UTC."""
    message: str
    started: datetime | None = None
    """When the record started, where its RUNNING may not have been told."""
    failure: Failure | None = None


class RunCopies(Protocol):
    """Where the copies are kept; every method is a transaction of its own, and may raise what the database does."""

    def close(self) -> None:
        """Close what is open."""

    def add(self, run: RunCopy) -> None:
        """Keep the copy of a new run, and write the reference to its parents' spans if it is sampled."""

    def apply(self, changes: Sequence[RecordChange]) -> bool:
        """Apply the changes that advance the copies, in their order, with references for those that are final.

        Of the final statuses that are told of a record the first wins. Changes of runs that have no copy are ignored.

        Returns:
            Whether a reference was written or made due.
        """

    def is_sampled(self, run_id: str) -> bool | None:
        """Whether the run's spans are sent; None if it has no copy."""

    def remove(self, run_ids: Sequence[str]) -> None:
        """Remove the copies of runs that were removed; references to their unsent spans are lost, and counted."""
