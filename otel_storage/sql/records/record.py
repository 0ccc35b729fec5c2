"""The base class of the four kinds of record: a record that is backed by a row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sqlalchemy import Table

from otel_storage.ports.traces import is_sampled
from otel_storage.results import host
from otel_storage.results.base import (
    PipelineStorageObject,
    StatusChange,
)
from otel_storage.results.exceptions import RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.model_objects import ModelObject, names_model_object
from otel_storage.results.status import FINAL, STATUSES, PipelineTaskStatus, as_status
from otel_storage.sql.database.values import aware, load_json
from otel_storage.sql.outbox.transitions import Change
from otel_storage.sql.records import reporting
from otel_storage.sql.records.sequences import ChildSequence, SqlSequence

if TYPE_CHECKING:
    from otel_storage.results.protocols import Reporter
    from otel_storage.sql.records.identity_map import Batch, IdentityMap

Record = TypeVar("Record", bound="SqlRecord")


class SqlRecord(PipelineStorageObject):
    """A row, its parent, and the fields that were set but not saved."""

    table: ClassVar[Table]
    parent_kind: ClassVar[type[SqlRecord] | None]
    parent_column: ClassVar[str] = ""
    object_column: ClassVar[str] = ""
    """The column, and attribute, of the object that the record was started with."""
    waiting_message: ClassVar[str]
    """The message that is reported with PENDING."""

    def __init__(self, records: IdentityMap, row: dict[str, Any], parent: SqlRecord | None) -> None:
        self.records = records
        """The map of the records that were read together with this one."""
        self.row = row
        """The stored values as last read or written; setters do not change them before a save."""
        self.parent = parent
        """The record above this one."""
        self.run: SqlRecord | None = None if parent is None else parent.execution
        """The run's execution; None in an execution itself, which would otherwise keep itself alive."""
        self.is_run_traced: bool | None = None
        """Of an execution: whether its run is traced; None before the first question."""
        self._buffer: dict[str, Any] = {}
        self._parsed: dict[str, Any] = {}
        self._model_objects: dict[str, ModelObject] = {}
        self._is_live = False

    @property
    def execution(self) -> SqlRecord:
        """The run's execution."""
        return self if self.run is None else self.run

    @property
    def id(self) -> int:  # type: ignore[override]  # read only
        """The record's id."""
        return int(self.row["id"])

    @property
    def source_id(self) -> int:
        """The id that span ids are computed from: for a copy, the original's id in the wrapped storage."""
        source = self.row.get("source_id")
        return self.id if source is None else int(source)

    @property
    def run_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the run."""
        return str(self.execution.row["run_id"])

    @property
    def pipeline_id(self) -> str:  # type: ignore[override]  # read only
        """The id of the pipeline's class."""
        return str(self.execution.row["pipeline_id"])

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

    def get_id(self) -> int:
        """The record's id."""
        return int(self.row["id"])

    def get_status(self) -> PipelineTaskStatus:
        """The current status."""
        return self.status

    def get_status_changes(self) -> Sequence[StatusChange]:
        """The record's history, oldest first."""
        values = self.row
        changes = [(PipelineTaskStatus.PENDING, values["created"], self.waiting_message)]
        if values["started"] is not None:
            changes.append((PipelineTaskStatus.RUNNING, values["started"], values["started_message"] or ""))
        if values["status"] in FINAL:
            at = values["completed"] or values["created"]
            changes.append((values["status"], at, values["completed_message"] or ""))
        return tuple(StatusChange(status, self._presented(at), message) for status, at, message in changes)

    def get_trace_id(self) -> str | None:
        """The id of the run's trace; None if no trace is recorded for the run."""
        listener = self.records.listener
        return listener.trace_id(self.run_id) if listener is not None and self.is_traced else None

    def get_trace_url(self) -> str | None:
        """The address of the run's trace; None without a trace, or if no ``trace_url`` is configured."""
        listener = self.records.listener
        return listener.trace_url(self.run_id) if listener is not None and self.is_traced else None

    @property
    def is_traced(self) -> bool:
        """Whether the run was built with telemetry, and sampled."""
        if self.execution.is_run_traced is None:
            self.execution.is_run_traced = is_sampled(self.trace)
        return self.execution.is_run_traced

    @property
    def trace(self) -> dict[str, Any] | None:
        """The decision about the run's trace from when the run was built; None without telemetry."""
        trace: dict[str, Any] | None = self.execution._json("trace")
        return trace

    def report_status_change(
        self,
        reporter: Reporter | None,
        status: PipelineTaskStatus,
        message: str | None = "",
        propagate: bool = True,
    ) -> None:
        """Advance the status, and that of the parents, in one transaction; see the contract."""
        if not self._is_live:
            # The task starts now, so it gets new model objects with their present state.
            self._is_live, self._model_objects = True, {}
        given: object = status
        known = STATUSES.get(given) if isinstance(given, (str, PipelineTaskStatus)) else None
        reporting.report(self, reporter, known or as_status(given), message, propagate)

    def apply(self, change: Change, fields: dict[str, Any] | None) -> None:
        """Take over a committed change."""
        moment = "started" if change.status is PipelineTaskStatus.RUNNING else "completed"
        self.row["status"] = change.status
        self.row[moment] = change.at
        self.row[f"{moment}_message"] = change.message or None
        self.row.update(fields or {})

    def join(self, batch: Batch) -> None:
        """Remember the batch that the record was listed in."""
        text = self.row[self.object_column] if self.object_column else None
        if text is None or self._is_live or "model_name" not in text or not names_model_object(self._stored_object()):
            return
        known = self._model_objects.get(self.object_column)
        if known is None or not known.is_loaded:
            self._model_objects[self.object_column] = batch.model_objects.expect(self._stored_object())

    def refresh(self, values: dict[str, Any]) -> None:
        """Take over the values that were read or written."""
        self.row.update(values)

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
            # The database failed: keep the values, so that they can be saved again.
            self._buffer = {**buffered, **self._buffer}
            raise

    def _get_propagate_parent(self) -> SqlRecord | None:
        return self.parent

    def _deserialized(self, name: str, serializable_object: Any) -> Any:
        """The object, loaded once: alone for a live record, otherwise together with those of the batch."""
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
        return moment if self.records.has_zones else host.without_zone(moment)

    def _stored_object(self) -> Any:
        return self._json(self.object_column)

    def _value(self, column: str) -> Any:
        return self._buffer[column] if column in self._buffer else self.row[column]

    def _json(self, column: str) -> Any:
        text = self._value(column)
        known = self._parsed.get(column)
        if known is None or known[0] is not text:
            known = self._parsed[column] = (text, load_json(text))
        return known[1]

    def _set(self, column: str, value: Any) -> None:
        if self.row["status"] in FINAL and column != "reporter":
            raise RecordIsFinal(
                f"{self!r} is {self.row['status'].value}, and its span may have been sent: {column} no longer changes"
            )
        self._buffer[column] = value

    def __repr__(self) -> str:
        return f"<{self.content_type_name} {self.id} of run {self.run_id}>"


class SqlParent(SqlRecord):
    """A record that has children."""

    def __init__(self, records: IdentityMap, values: dict[str, Any], parent: SqlRecord | None) -> None:
        super().__init__(records, values, parent)
        self.batch: Batch | None = None
        """The batch that the record was listed in; None after a look-up by id, or once its children were taken."""
        self.children_read: list[Any] | None = None
        """Children that were read with the batch and not taken yet."""
        self._is_taken = False

    def join(self, batch: Batch) -> None:
        """Remember the batch, unless the record's children were taken already."""
        super().join(batch)
        if not self._is_taken:
            self.batch, self.children_read = batch, None

    def waits_for(self, batch: Batch) -> bool:
        """Whether the record's children are read together with the batch's."""
        return self.batch is batch and self.children_read is None

    def children_of_batch(self, kind: type[SqlRecord]) -> list[Any] | None:
        """The children, read with the batch's; None if they must be read alone."""
        if self.children_read is None and self.batch is not None:
            self.batch.read_children(kind)
        return self.children_read

    def take_children(self) -> None:
        """Forget the children that were read with the batch: from now on they are read alone and fresh."""
        self.batch, self.children_read, self._is_taken = None, None, True

    def _children(self, kind: type[Record]) -> SqlSequence[Record]:
        return ChildSequence(self.records, kind, [kind.table.c[kind.parent_column] == self.id], self)
