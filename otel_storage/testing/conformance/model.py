"""The contract as a model in plain Python: what each record has to be after any sequence of changes.

The model knows no storage. The state machine tells it of every change, and compares each record of the storage with
what the model expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from otel_storage.results.base import PipelineStorageObject
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.conformance.building import WAITING
from otel_storage.testing.conformance.fixtures import FAILED, FINAL, KINDS, PENDING, RUNNING, RUNTIME_ERROR
from otel_storage.testing.conformance.transitions import ADVANCES
from otel_storage.testing.pipelines import Pipeline, Task

EXECUTION, RESULT, TASK, TASK_RESULT = KINDS

Key = tuple[str, Any]
"""The kind of a record, and its id."""


class Between(NamedTuple):
    """A time that the storage has taken, and that nobody has read yet: one of these two, or one between them."""

    earliest: datetime
    latest: datetime


Moment = datetime | Between | None


class Shape(NamedTuple):
    """How many records a run has."""

    pipeline_objects: int | None
    """How many objects the pipeline has; None: no iterator, and one pipeline result."""
    task_objects: tuple[int | None, ...]
    """The same of each task."""

    def pipeline(self, pipeline_id: str) -> Pipeline:
        """A pipeline whose runs have so many records."""
        tasks = (Task(f"task {place}", objects=_objects(count)) for place, count in enumerate(self.task_objects))
        return Pipeline(*tasks, id=pipeline_id, objects=_objects(self.pipeline_objects))

    @property
    def pipeline_results(self) -> int:
        """How many pipeline results a run has."""
        return _results(self.pipeline_objects)

    @property
    def task_results(self) -> list[int]:
        """How many task results each task execution of a pipeline result has."""
        return [_results(count) for count in self.task_objects]


def _objects(count: int | None) -> range | None:
    return None if count is None else range(count)


def _results(count: int | None) -> int:
    return 1 if count is None else count


@dataclass(eq=False, slots=True)
class Expected:
    """The expected state of a record."""

    kind: str
    id: Any
    parent: Expected | None = None
    """The record above; None of an execution."""
    children: list[Expected] = field(default_factory=list)
    status: PipelineTaskStatus = PENDING
    created: datetime | None = None
    """None until it was first read."""
    started: Moment = None
    completed: Moment = None
    messages: dict[str, str] = field(default_factory=dict)
    """The message of RUNNING, under ``started``, and that of the final status, under ``completed``."""
    is_removed: bool = False

    @property
    def key(self) -> Key:
        """Kind and id."""
        return self.kind, self.id

    def parents(self) -> Iterator[Expected]:
        """The records above, the nearest first."""
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    def below(self) -> Iterator[Expected]:
        """The record itself and all below it, each before those below it."""
        yield self
        for child in self.children:
            yield from child.below()

    def advance(self, status: PipelineTaskStatus, message: str, moment: Moment) -> None:
        """Take on a status that advances; ``moment`` is when it did, None where the storage sets no time."""
        self.status = status
        name = "started" if status is RUNNING else "completed"
        self.messages[name] = message
        if moment is not None:
            setattr(self, name, moment)

    def history(self) -> list[tuple[PipelineTaskStatus, str]]:
        """Each state that the record had, as far as its times tell, with its message."""
        states = [(PENDING, WAITING[self.kind])]
        if self.started is not None:
            states.append((RUNNING, self.messages.get("started", "")))
        if self.status in FINAL:
            states.append((self.status, self.messages["completed"]))
        return states

    def compare(self, record: PipelineStorageObject) -> None:
        """Check the status and the times of the record, and keep the times that the storage has taken."""
        assert record.get_status() is self.status
        self.started = _compared(self.started, record.get_started())
        self.completed = _compared(self.completed, record.get_completed())

    def compare_strictly(self, record: PipelineStorageObject) -> None:
        """Check what the contract promises beyond that: when the record was built, its history, whether it failed."""
        self.compare(record)
        created = record.get_created()
        assert created is not None
        assert self.created in (None, created)
        self.created = created
        assert record.get_status_display() == self.status.value
        assert record.failed is (self.status in FAILED)
        changes = record.get_status_changes()
        assert [(change.status, change.message) for change in changes] == self.history()
        assert record.get_status_message() == changes[-1].message


def _compared(expected: Moment, actual: datetime | None) -> datetime | None:
    if isinstance(expected, Between):
        assert actual is not None
        assert expected.earliest <= actual <= expected.latest
    else:
        assert actual == expected
    return actual


@dataclass(eq=False, slots=True)
class Run:
    """The expected state of a run."""

    run_id: str
    pipeline_id: str
    execution: Expected

    def records(self) -> list[Expected]:
        """The run's records, each before those below it."""
        return list(self.execution.below())

    def remove(self) -> None:
        """Note that the run is removed, with all its records."""
        for record in self.records():
            record.is_removed = True

    def close(self) -> list[Expected]:
        """Close what is RUNNING, as where its process is gone; returns the records that advance, in order.

        See :attr:`~otel_storage.testing.conformance.fixtures.Extras.close_running`.
        """
        running = [record for record in self.records() if record.status is RUNNING]
        if all(record.kind == TASK for record in running):
            return []
        closed = []
        for kind in reversed(KINDS):
            for record in running:
                if record.kind != kind or record.status is not RUNNING or _counts_as_final(record):
                    continue
                [winners] = outcomes(record, RUNTIME_ERROR, propagate=True)
                for winner in winners:
                    winner.status = RUNTIME_ERROR
                closed += winners
        return closed


def _counts_as_final(record: Expected) -> bool:
    """Whether the record is a task execution with task results that are all final: its runner never reports it so."""
    return record.kind == TASK and bool(record.children) and all(each.status in FINAL for each in record.children)


def outcomes(
    record: Expected,
    status: PipelineTaskStatus,
    *,
    propagate: bool,
    known: Mapping[Expected, PipelineTaskStatus] | None = None,
) -> Sequence[list[Expected]]:
    """The records that advance by a report of the status, parents first: each list of them that the contract allows.

    There is one, but for an object that is stale. A parent that does not advance stays, and what is above it too; an
    object that knows an earlier status of that parent may report to those above it all the same.

    Args:
        record: The record that the status is reported of.
        status: The status.
        propagate: Whether the report goes to the parents too.
        known: The statuses of the record and its parents when the object read them; None: as they are now.
    """
    if record.is_removed or status not in ADVANCES[record.status]:
        return [[]]
    winners = [record]
    allowed: list[list[Expected]] = []
    for above in record.parents() if propagate else ():
        if status in ADVANCES[above.status]:
            winners = [above, *winners]
            continue
        if winners not in allowed:
            allowed.append(winners)
        if known is None or status not in ADVANCES[known[above]]:
            return allowed
    return allowed if winners in allowed else [*allowed, winners]
