"""Closes records whose process is gone, by the same report that the process would have made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from otel_storage.ports.copies import RecordChange
from otel_storage.results.clock import utc
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL, PipelineTaskStatus, as_status
from otel_storage.sql.upkeep.copies import SqlCopies

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineStorage
    from otel_storage.results.clock import Clock
    from otel_storage.results.protocols import Reporter
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.upkeep.reaping import DeadRecord

RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one record that was to be closed."""

    name: Literal["closed", "final", "removed", "failed"]
    """closed; final or gone meanwhile; removed, as the copy of a run that is no longer stored; failed."""
    error: str = ""
    """Why it could not be closed."""


class Tables(Protocol):
    """The look-ups of the storage whose tables hold the records."""

    database: Database
    clock: Clock
    message_limit: int

    def get_pipeline_execution(self, run_id: Any) -> Any:
        """The execution of the run; None if there is none."""

    def get_pipeline_result(self, _id: Any) -> Any:
        """The pipeline result of that id; None if there is none."""

    def get_task_execution(self, _id: Any) -> Any:
        """The task execution of that id; None if there is none."""

    def get_task_result(self, _id: Any) -> Any:
        """The task result of that id; None if there is none."""


class Closing:
    """Closes records as RUNTIME_ERROR, with their parents as a failure does, unless they are final meanwhile.

    Args:
        records: The storage whose tables hold the records.
        originals: The wrapped storage that copies were made from; None if it is not at hand.
        reporter: The reporter that is told of each closed record; None for no reporter.
    """

    def __init__(self, records: Tables, originals: PipelineStorage | None, reporter: Reporter | None) -> None:
        self._records = records
        self._originals = originals
        self._copies = SqlCopies(records.database, records.clock, records.message_limit)
        self._reporter = _Teller(reporter)

    @property
    def closed(self) -> Counter[str]:
        """How many records were closed so far, by kind, including parents of the requested records."""
        return self._reporter.counts

    @property
    def reporter_error(self) -> str:
        """Why the reporter failed; empty if it did not."""
        return self._reporter.error

    def close(self, dead: DeadRecord) -> Outcome:
        """Close the record.

        Raises:
            Exception: the error of our database; an error of another storage becomes the outcome.
        """
        if dead.source_id is None:
            return self._close(_look_up(self._records, dead), dead)
        if self._originals is None:
            return Outcome(
                "failed",
                "it is a copy of a record of another storage: leave out --url, and configure the storage that wraps it",
            )
        try:
            record = _look_up(self._originals, dead)
            is_stored = record is not None or self._originals.get_pipeline_execution(dead.run_id) is not None
            outcome = self._close(record, dead) if is_stored else Outcome("removed")
        except Exception as error:  # noqa: BLE001 - any storage's code runs here; the other records can still be closed
            return Outcome("failed", f"{type(error).__name__}: {error}")
        if is_stored:
            self._align(record, dead)
        else:
            self._copies.remove([dead.run_id])
        return outcome

    def _close(self, record: Any, dead: DeadRecord) -> Outcome:
        if record is None:
            return Outcome("final")
        if as_status(record.get_status()) is PipelineTaskStatus.PENDING:
            return Outcome("failed", "its own storage says that it is PENDING")
        self._reporter.told.clear()
        record.report_status_change(self._reporter, RUNTIME_ERROR, message=_message(dead))
        if (dead.kind, dead.record_id) in self._reporter.told:
            return Outcome("closed")
        if as_status(record.get_status()) in FINAL:
            return Outcome("final")
        return Outcome("failed", "its own storage did not take the report")

    def _align(self, record: Any, dead: DeadRecord) -> None:
        """Set the copy and its parents to the final states of the originals."""
        now = self._records.clock()
        if record is None:
            changes = [_lost(dead, now)]
        else:
            changes = []
            while record is not None:
                if as_status(record.get_status()) in FINAL:
                    is_told = (record.content_type_name, int(record.get_id())) in self._reporter.told
                    changes.append(_change(record, _message(dead) if is_told else "", now))
                record = record._get_propagate_parent()
        # From the top down, like every change of state.
        self._copies.apply(changes[::-1])


class _Teller:
    """Passes reports on and counts them; a failing reporter does not keep records from being closed."""

    def __init__(self, reporter: Reporter | None) -> None:
        self.counts: Counter[str] = Counter()
        self.told: set[tuple[str, int]] = set()
        """The records that advanced with the last report."""
        self.error = ""
        self._reporter = reporter

    def report_context_object(self, context_object: Any, status: PipelineTaskStatus, message: str) -> None:
        """Pass the report on."""
        kind = context_object.content_type_name
        self.counts[kind] += 1
        self.told.add((kind, int(context_object.get_id())))
        if self._reporter is None:
            return
        try:
            self._reporter.report_context_object(context_object, status, message)
        except Exception as error:  # noqa: BLE001 - any reporter's code runs here; its first error is shown
            self.error = self.error or f"{type(error).__name__}: {error}"


def _look_up(storage: PipelineStorage | Tables, dead: DeadRecord) -> Any:
    if dead.kind == PIPELINE_EXECUTION:
        return storage.get_pipeline_execution(dead.run_id)
    look_ups: dict[str, Callable[[Any], Any]] = {
        PIPELINE_RESULT: storage.get_pipeline_result,
        TASK_EXECUTION: storage.get_task_execution,
        TASK_RESULT: storage.get_task_result,
    }
    return look_ups[dead.kind](dead.record_id)


def _message(dead: DeadRecord) -> str:
    return f"reaped: {dead.reason}"


def _change(record: Any, message: str, now: datetime) -> RecordChange:
    completed, started = utc(record.get_completed()), utc(record.get_started())
    return RecordChange(
        run_id=str(record.get_run_id()),
        kind=record.content_type_name,
        record_id=int(record.get_id()),
        status=as_status(record.get_status()),
        at=completed or now,
        message=message,
        started=started,
    )


def _lost(dead: DeadRecord, now: datetime) -> RecordChange:
    """The outcome for a record that is gone from a run which still exists."""
    return RecordChange(
        run_id=dead.run_id,
        kind=dead.kind,
        record_id=dead.record_id,
        status=RUNTIME_ERROR,
        at=now,
        message=_message(dead),
    )
