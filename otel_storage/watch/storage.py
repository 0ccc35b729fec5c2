"""Wraps a storage of another package: watches its records and copies its runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from otel_storage.ports.copies import RecordChange, RunCopies, RunCopy
from otel_storage.ports.traces import is_sampled
from otel_storage.results import host
from otel_storage.results.base import BADLY_CONFIGURED, PipelineStorage
from otel_storage.results.status import PipelineTaskStatus, as_status
from otel_storage.runtime.guard import Guard
from otel_storage.watch import hooks
from otel_storage.watch.hooks import Noted
from otel_storage.watch.reading import read_change, read_run

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.results.protocols import PipelineLike, Reporter, StorageListener

logger = logging.getLogger("otel_storage")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SLOW_FAILURE = 1.0
"""Seconds. If the copies' database takes longer than this to fail, it is not tried again for a while."""

PAUSE = 30.0
"""Seconds for which it is then not tried again."""

_MOST_PENDING = 1_000


class StorageWatch:
    """Builds runs in a wrapped storage, copies them, and passes their changes to the copies and a listener.

    An error here fails no run: it is logged once per cause, and the run's spans are incomplete or missing. Errors are
    caught only at the entry points: the public methods, and the work that a commit starts.

    Args:
        storage: The storage; its records stay as they are.
        copies: Stores the data that spans are made from.
        clock: Gives the time now, aware and in UTC.
        ours: The record class that needs no hooks.
    """

    def __init__(self, storage: PipelineStorage, copies: RunCopies, clock: Clock, ours: type) -> None:
        self.storage = storage
        self.listener: StorageListener | None = None
        """The telemetry that listens to transitions; None without."""
        self._copies = copies
        self._clock = clock
        self._ours = ours
        self._guarded = Guard()
        self._resume_at = 0.0
        self._pending: dict[str, bool] = {}
        """Whether runs are sampled whose Django transaction is not committed yet."""
        hooks.watch(self, ours)

    def close(self) -> None:
        """Stop watching."""
        hooks.unwatch(self)
        self._copies.close()

    def build_pipeline_execution(
        self,
        pipeline: PipelineLike,
        run_id: str,
        runner: object,
        reporter: Reporter | None,
        input_data: Any,
        build_all: bool | None = True,
    ) -> Any:
        """Let the storage build the run, copy it, and store that a badly configured pipeline is CONFIG_ERROR."""
        trace = self.listener.run_building(run_id, pipeline.id) if self.listener is not None else None
        created = self._clock()
        execution = self.storage.build_pipeline_execution(
            pipeline, run_id, runner, reporter, input_data, build_all=build_all
        )
        self.see(execution)
        if trace is not None:
            self._guarded(self._copy, execution, trace, created)
        if not build_all and as_status(execution.get_status()) is PipelineTaskStatus.PENDING:
            execution.report_status_change(_NullReporter(), PipelineTaskStatus.CONFIG_ERROR, BADLY_CONFIGURED)
        return execution

    def cleanup(self, before: datetime | None = None) -> Sequence[str]:
        """Let the storage remove runs, and remove their copies."""
        removed: Sequence[str] = self.storage.cleanup(before=before)
        if removed:
            self._guarded(self._remove_when_committed, removed)
        return removed

    def see(self, record: Any) -> None:
        """Hook new record classes, if this record's class is not hooked."""
        if not hooks.is_hooked(type(record)):
            self._guarded(hooks.hook_known_classes, self._ours)

    def changed(self, record: Any, noted: Sequence[Noted]) -> None:
        """Apply the noted changes to the copies, once they are committed."""
        self._guarded(self._apply_when_committed, record, noted)

    def running(self, task_result: Any) -> None:
        """Attach the task's context for the user's code, which runs next."""
        self._guarded(self._enter, task_result)

    def finished(self, task_result: Any) -> None:
        """Detach the task's context."""
        if self.listener is not None:
            self.listener.finished(task_result)

    def trace_id(self, record: Any) -> str | None:
        """The id of the record's trace."""
        return self._guarded(self._of_trace, record, "trace_id")

    def trace_url(self, record: Any) -> str | None:
        """The address of the record's trace."""
        return self._guarded(self._of_trace, record, "trace_url")

    def _when_committed(
        self,
        records: object,
        work: Callable[Parameters, object],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> None:
        """Do the work with its own guard, because Django may run it later, in the commit of a user's transaction."""
        host.after_commit(records, partial(self._guarded, work, *args, **kwargs))

    def _remove_when_committed(self, run_ids: Sequence[str]) -> None:
        # Only a query set tells which of Django's databases has the records; it executes no query.
        executions = self.storage.get_pipeline_executions()
        self._when_committed(executions, self._on_copies, self._copies.remove, run_ids)

    def _copy(self, execution: Any, trace: dict[str, Any], created: datetime) -> None:
        run = read_run(execution, trace, created)
        while len(self._pending) >= _MOST_PENDING:
            # Django has no signal for a transaction that was rolled back.
            self._pending.pop(next(iter(self._pending)), None)
        self._pending[run.run_id] = is_sampled(trace)
        self._when_committed(execution, self._keep, run)
        if self.listener is not None:
            self.listener.run_built(run.run_id, run.id, trace)
        status = as_status(execution.get_status())
        if status is not PipelineTaskStatus.PENDING:
            self._apply_when_committed(execution, [Noted(execution, status, BADLY_CONFIGURED)])

    def _keep(self, run: RunCopy) -> None:
        try:
            self._on_copies(self._copies.add, run)
        finally:
            self._pending.pop(run.run_id, None)

    def _apply_when_committed(self, record: Any, noted: Sequence[Noted]) -> None:
        now = self._clock()
        self._when_committed(record, self._apply, [read_change(each, now) for each in noted])

    def _apply(self, changes: Sequence[RecordChange]) -> None:
        if self._on_copies(self._copies.apply, changes) and self.listener is not None:
            self.listener.committed()

    def _enter(self, task_result: Any) -> None:
        sampled = self._is_sampled(task_result)
        if sampled is not None and self.listener is not None:
            self.listener.running(task_result, sampled)

    def _of_trace(self, record: Any, what: str) -> str | None:
        if self.listener is None or not self._is_sampled(record):
            return None
        found: str | None = getattr(self.listener, what)(str(record.get_run_id()))
        return found

    def _is_sampled(self, record: Any) -> bool | None:
        run_id = str(record.get_run_id())
        if run_id in self._pending:
            return self._pending[run_id]
        return self._on_copies(self._copies.is_sampled, run_id)

    def _on_copies(
        self, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result | None:
        """Do the work; counts a failure and returns None if the copies failed slowly a moment ago.

        Raises:
            Exception: the work's error, which the caller's guard catches.
        """
        began = time.monotonic()
        if began < self._resume_at:
            self._guarded.failures += 1
            return None
        try:
            return work(*args, **kwargs)
        except Exception:
            if time.monotonic() - began > SLOW_FAILURE:
                self._resume_at = time.monotonic() + PAUSE
                logger.warning("copies of runs failed slowly, and are not tried again for %.0f seconds", PAUSE)
            raise


class _NullReporter:
    """A silent reporter, because the host's pipeline tells its own reporter the same afterwards."""

    def report_context_object(self, context_object: Any, status: PipelineTaskStatus, message: str) -> None:
        """Do nothing."""
