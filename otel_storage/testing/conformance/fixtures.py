"""The fixtures of the conformance suite."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from otel_storage.results import host
from otel_storage.results.base import (
    PipelineExecution,
    PipelineResult,
    PipelineStorage,
    PipelineStorageObject,
    TaskExecution,
    TaskResult,
)
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

PENDING = PipelineTaskStatus.PENDING
RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE
CONFIG_ERROR = PipelineTaskStatus.CONFIG_ERROR
VALIDATION_ERROR = PipelineTaskStatus.VALIDATION_ERROR
RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR
CANCELLED = PipelineTaskStatus.CANCELLED

FINAL = (DONE, CONFIG_ERROR, VALIDATION_ERROR, RUNTIME_ERROR, CANCELLED)
FAILED = (CONFIG_ERROR, VALIDATION_ERROR, RUNTIME_ERROR, CANCELLED)
ALL = (PENDING, RUNNING, *FINAL)

Found = TypeVar("Found", bound=PipelineStorageObject)

Line = tuple[PipelineExecution, PipelineResult, TaskExecution, TaskResult]
"""One record of each kind, from the root of a run to a leaf."""

KINDS = ("PipelineExecution", "PipelineResult", "TaskExecution", "TaskResult")
"""The four kinds of record, from the root of a run to its leaves."""


def status_id(status: PipelineTaskStatus) -> str:
    """Names a status in the id of a test."""
    return status.value


class Times:
    """Time as the storage under test sees it: that of its clock if the test has it in hand, else the real one.

    A moment that the storage takes is checked by taking one before and one after; a clock that stands still makes
    that an exact check.
    """

    def __init__(self, clock: ManualClock | None) -> None:
        self._clock = clock

    def now(self) -> datetime:
        """The time now, as a record's getters would give it."""
        moment = host.present(self.utc())
        assert moment is not None
        return moment

    def utc(self) -> datetime:
        """The time now: aware, in UTC."""
        return datetime.now(UTC) if self._clock is None else self._clock()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass; a real clock goes on by two milliseconds at least, whatever was asked for."""
        if self._clock is None:
            time.sleep(min(max(seconds, 0.002), 0.01))
        else:
            self._clock.advance(seconds)


class Builder:
    """Builds runs in a storage; each has an id and a reporter of its own unless they are given."""

    def __init__(self, storage: PipelineStorage) -> None:
        self._storage = storage

    def __call__(
        self,
        pipeline: Any = None,
        *,
        run_id: Any = None,
        reporter: RecordingReporter | None = None,
        input_data: Any = None,
        build_all: bool | None = True,
    ) -> PipelineExecution:
        """Build a run of the pipeline; of :func:`small_pipeline` if it is None."""
        return self._storage.build_pipeline_execution(
            small_pipeline() if pipeline is None else pipeline,
            str(uuid.uuid4()) if run_id is None else run_id,
            Runner(),
            RecordingReporter() if reporter is None else reporter,
            input_data,
            build_all=build_all,
        )

    def line(self, pipeline: Any = None, **kwargs: Any) -> Line:
        """Build a run with one record of each kind, and look them up."""
        return line(self._storage, self(pipeline, **kwargs).get_run_id())


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """The features of a storage beyond the contract, which the state machine tests too."""

    references: Callable[[], Iterable[tuple[str, Any, bool]]] | None = None
    """Gives each reference of an outbox: kind and id of its record, and whether the reference is due.

    There has to be one per final task result, due at once; and one per run, of its execution, due once that is final.
    None: the storage has no outbox.
    """
    close_running: Callable[[RecordingReporter], object] | None = None
    """Closes every record that is RUNNING, in every run in which another record than a task execution is RUNNING.

    Each is reported RUNTIME_ERROR with its parents: the task results of a run first, then the records of each level
    above that are RUNNING still, the lowest level first. A task execution whose task results are all final counts as
    final, and stays. None: the storage cannot.
    """
    upkeep: Sequence[Callable[[], object]] = ()
    """The storage's own background work, which must not be visible through the contract."""


def small_pipeline() -> Pipeline:
    """One pipeline instance of one task with one instance."""
    return Pipeline(Task("extract"))


def wide_pipeline() -> Pipeline:
    """Two pipeline instances of two tasks: one with a single instance, one with two."""
    return Pipeline(Task("extract"), Task("load", objects=["a", "b"]), objects=["north", "south"])


def line(storage: PipelineStorage, run_id: str) -> Line:
    """The first record of each kind in the run, newly looked up."""
    return (
        found(storage.get_pipeline_execution(run_id)),
        storage.get_pipeline_results(run_id)[0],
        storage.get_task_executions(run_id)[0],
        storage.get_task_results(run_id)[0],
    )


def records(storage: PipelineStorage, run_id: str) -> list[PipelineStorageObject]:
    """Every record of the run, newly looked up."""
    return [
        found(storage.get_pipeline_execution(run_id)),
        *storage.get_pipeline_results(run_id),
        *storage.get_task_executions(run_id),
        *storage.get_task_results(run_id),
    ]


def parent(record: PipelineStorageObject) -> PipelineStorageObject | None:
    """The record above, as the record itself gives it; None for an execution."""
    # By its kind: records of another storage may extend the host's classes alone.
    getters = {
        "TaskResult": "get_task_execution",
        "TaskExecution": "get_pipeline_result",
        "PipelineResult": "get_pipeline_execution",
    }
    getter = getters.get(record.content_type_name)
    return None if getter is None else getattr(record, getter)()


def look_up(storage: PipelineStorage, kind: str) -> Callable[[Any], PipelineStorageObject | None]:
    """The storage's look-up by id for the kind; it has none for executions."""
    return {
        "PipelineResult": storage.get_pipeline_result,
        "TaskExecution": storage.get_task_execution,
        "TaskResult": storage.get_task_result,
    }[kind]


def found(value: Found | None) -> Found:
    """The value, which a look-up has to have found."""
    assert value is not None, "the storage does not find a record that it has"
    return value


def fresh(storage: PipelineStorage, record: Found) -> Found:
    """The record, looked up again: what the storage holds, whatever the object says."""
    again: Any
    if isinstance(record, PipelineExecution):
        again = storage.get_pipeline_execution(record.get_run_id())
    else:
        again = look_up(storage, record.content_type_name)(record.get_id())
    return found(again)  # type: ignore[no-any-return]


def statuses(of: Iterable[PipelineStorageObject]) -> list[PipelineTaskStatus]:
    """The status of each record."""
    return [record.get_status() for record in of]


@contextmanager
def case(*parts: object) -> Iterator[None]:
    """Name the case in the error of a rule that tries one after another."""
    try:
        yield
    except BaseException as error:
        error.add_note("in the case: " + ", ".join(str(getattr(part, "value", part)) for part in parts))
        raise


class StorageFixtures:
    """The fixtures of the suite; a storage's test class gives ``storage``, and may give the three below it."""

    @pytest.fixture
    def storage(self) -> PipelineStorage:
        """The storage under test: new and empty."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture named storage that gives a new, empty PipelineStorage"
        )

    @pytest.fixture
    def clock(self) -> ManualClock | None:
        """The clock that ``storage`` was made with; None if it takes none."""
        return None

    @pytest.fixture
    def other_storage(self, storage: PipelineStorage) -> PipelineStorage:
        """A second storage over the same data, as another process would have it; the first where there is none."""
        return storage

    @pytest.fixture
    def extras(self) -> Extras:
        """The features of the storage beyond the contract."""
        return Extras()

    @pytest.fixture
    def times(self, clock: ManualClock | None) -> Times:
        """Time as the storage sees it."""
        return Times(clock)

    @pytest.fixture
    def reporter(self) -> RecordingReporter:
        """A reporter that was told nothing yet."""
        return RecordingReporter()

    @pytest.fixture
    def build(self, storage: PipelineStorage) -> Builder:
        """Builds runs in the storage under test."""
        return Builder(storage)
