"""Copies of a wrapped storage's runs: the data of their spans, stored in our tables.

A copy is made when a run is built, and follows the reported transitions of the run's records. Copies keep the ids that
records have in the wrapped storage.
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
    """The copied data of a TaskResult."""

    id: int
    task_object: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExecutionCopy:
    """The copied data of a TaskExecution."""

    id: int
    pipeline_task: str
    task_id: str
    config: Any
    task_results: Sequence[TaskResultCopy]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResultCopy:
    """The copied data of a PipelineResult."""

    id: int
    pipeline_object: Any
    runner: str
    reporter: str
    task_executions: Sequence[TaskExecutionCopy]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCopy:
    """The copied data of a new PipelineExecution and all records below it, all PENDING."""

    id: int
    run_id: str
    pipeline_id: str
    created: datetime
    trace: dict[str, Any]
    """The decision about the run's trace."""
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
    """When the record started, in case its RUNNING was not reported."""
    failure: Failure | None = None


class RunCopies(Protocol):
    """Stores the copies; every method is a transaction of its own, and may raise errors of the database."""

    def close(self) -> None:
        """Close the connections."""

    def add(self, run: RunCopy) -> None:
        """Store the copy of a new run, with the reference to its parents' spans if the run is sampled."""

    def apply(self, changes: Sequence[RecordChange]) -> bool:
        """Apply the changes that advance the copies, in their order, and write references for final records.

        If several final statuses of a record are reported, the first one wins. Changes of runs that have no copy are
        ignored.

        Returns:
            Whether a reference was written or made due.
        """

    def is_sampled(self, run_id: str) -> bool | None:
        """Whether the run's spans are sent; None if it has no copy."""

    def remove(self, run_ids: Sequence[str]) -> None:
        """Remove the copies of removed runs; references to their unsent spans are lost, and their number is logged."""
