"""A storage that is not ours, its records watched and its runs copied."""

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
"""Seconds: copies that take longer to fail than this are left alone for a while, so that no run waits for them."""

PAUSE = 30.0
"""Seconds that they are left alone."""

_MOST_PENDING = 1_000


class StorageWatch:
    """Builds runs in a storage that is not ours, copies them, and tells the copies and a listener of their changes.

    An error here fails no run: it is logged once per cause, and the run's spans are incomplete or missing. Errors are
    caught where others call in, and nowhere below: in the public methods, and in the work that a commit starts.

    Args:
        storage: The storage; its records stay as they are.
        copies: Where what spans are made from is kept.
        clock: Gives the time now, aware and in UTC.
        ours: The class of records that tell of their transitions by themselves.
    """

    def __init__(self, storage: PipelineStorage, copies: RunCopies, clock: Clock, ours: type) -> None:
        self.storage = storage
        self.listener: StorageListener | None = None
        """The telemetry on top, which is told of transitions."""
        self._copies = copies
        self._clock = clock
        self._ours = ours
        self._guarded = Guard()
        self._resume_at = 0.0
        self._pending: dict[str, bool] = {}
        """Whether runs are sampled that are built in a transaction of Django's which is not committed yet."""
        hooks.watch(self, ours)

    def close(self) -> None:
        """Watch no longer."""
        hooks.unwatch(self)
        self._copies.close()

    def build_pipeline_execution(
        self,
        pipeline: PipelineLike,
        run_id: str,
        runner: object,
        reporter: Reporter,
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
        """Hook the classes of records that were not there yet, where this one shows that there are such."""
        if not hooks.is_hooked(type(record)):
            self._guarded(hooks.hook_known_classes, self._ours)

    def changed(self, record: Any, noted: Sequence[Noted]) -> None:
        """Apply what was noted to the copies, once it is committed."""
        self._guarded(self._apply_when_committed, record, noted)

    def running(self, task_result: Any) -> None:
        """Give the user's code, which runs next, the context of its task."""
        self._guarded(self._enter, task_result)

    def finished(self, task_result: Any) -> None:
        """Take the context back."""
        if self.listener is not None:
            self.listener.finished(task_result)

    def trace_id(self, record: Any) -> str | None:
        """The id of the record's trace."""
        return self._guarded(self._of_trace, record, "trace_id")

    def trace_url(self, record: Any) -> str | None:
        """Where people see the record's trace."""
        return self._guarded(self._of_trace, record, "trace_url")

    def _when_committed(
        self,
        records: object,
        work: Callable[Parameters, object],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> None:
        """Do the work, with a guard of its own: Django may do it later, in the commit of a user's transaction."""
        host.after_commit(records, partial(self._guarded, work, *args, **kwargs))

    def _remove_when_committed(self, run_ids: Sequence[str]) -> None:
        # The query set tells which of Django's databases the records are in, if any; no query is made.
        executions = self.storage.get_pipeline_executions()
        self._when_committed(executions, self._on_copies, self._copies.remove, run_ids)

    def _copy(self, execution: Any, trace: dict[str, Any], created: datetime) -> None:
        run = read_run(execution, trace, created)
        while len(self._pending) >= _MOST_PENDING:
            # Django does not tell of a transaction that was rolled back.
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
        """Do the work; None, and a failure, if the copies failed slowly a moment ago: no run waits again and again.

        Raises:
            Exception: what the work raised; the caller has the guard.
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
                logger.warning("the database of wrapped runs' telemetry is left alone for %.0f seconds", PAUSE)
            raise


class _NullReporter:
    """Is told what the host's pipeline tells its own reporter afterwards, in its own words."""

    def report_context_object(self, context_object: Any, status: PipelineTaskStatus, message: str) -> None:
        """Say nothing."""
