"""Listens to a storage: decides on a run's trace when the run is built, and gives user code its task's context."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import SpanContext, Status, StatusCode
from opentelemetry.util import types

from otel_storage.ports.traces import is_sampled
from otel_storage.results.base import PipelineStorageObject
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.runtime.guard import Guard
from otel_storage.telemetry.spans import building, ids, run_trace
from otel_storage.telemetry.spans.links import UrlTemplate

_TRACE_FIELDS = frozenset({"run_id", "trace_id"})
_RUN_FIELDS = frozenset({"run_id"})


class Recording:
    """Listens to a storage; nothing it does fails or slows the run.

    Args:
        notify: Called when there is something to send.
        service_name: The service that runs are traced under; None takes OpenTelemetry's standard variables.
        capture: What may leave the process beside states and identities; see
            :data:`otel_storage.telemetry.spans.run_trace.CAPTURE_NAMES`.
        trace_url: Where people see a trace: an address with ``{trace_id}`` or ``{run_id}`` in it.
        run_url: Where people see a run: an address with ``{run_id}`` in it, which its root span tells.

    Raises:
        ConfigurationError: ``service_name`` is no text, ``capture`` holds a name that is none, or an address cannot be
            used.
    """

    def __init__(
        self,
        notify: Callable[[], None],
        *,
        service_name: str | None = None,
        capture: Iterable[str] = (),
        trace_url: str | None = None,
        run_url: str | None = None,
    ) -> None:
        if service_name is not None and not isinstance(service_name, str):
            raise ConfigurationError(f"service_name must be a string, not a {type(service_name).__name__}")
        self._notify = notify
        self._service_name = service_name
        self._capture = run_trace.check_capture(capture)
        self._trace_url = None if trace_url is None else UrlTemplate(trace_url, "trace_url", _TRACE_FIELDS)
        self._run_url = None if run_url is None else UrlTemplate(run_url, "run_url", _RUN_FIELDS)
        self._contexts = _TaskContexts()
        self._guarded = Guard()

    def run_building(self, run_id: str, pipeline_id: str) -> dict[str, Any] | None:
        """The decision about the trace that is stored with the run; None if telemetry is disabled."""
        return self._guarded(self._decide, run_id)

    def run_built(self, run_id: str, execution_id: int, trace_: dict[str, Any]) -> None:
        """Link the current span to the run's root span."""
        if is_sampled(trace_):
            self._guarded(_link, run_id, execution_id)

    def running(self, task_result: PipelineStorageObject, sampled: bool) -> None:
        """Make the task result's span context the current one of this thread, asyncio task or greenlet."""
        self._guarded(self._contexts.enter, task_result, sampled)

    def finished(self, task_result: PipelineStorageObject) -> None:
        """Restore the context that was current before the task result."""
        self._guarded(self._contexts.leave, task_result)

    def committed(self) -> None:
        """Wake the delivery: there is something to send."""
        self._guarded(self._notify)

    def trace_id(self, run_id: str) -> str:
        """The id of the run's trace."""
        return ids.format_trace_id(ids.trace_id(run_id))

    def trace_url(self, run_id: str) -> str | None:
        """The address of the run's trace."""
        return None if self._trace_url is None else self._trace_url.fill(run_id=run_id, trace_id=self.trace_id(run_id))

    def _decide(self, run_id: str) -> dict[str, Any] | None:
        url = None if self._run_url is None else self._run_url.fill(run_id=run_id)
        decided = run_trace.decide(run_id, service_name=self._service_name, capture=self._capture, url=url)
        return None if decided is None else decided.as_json()


def _link(run_id: str, execution_id: int) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        span.add_link(building.record_context(run_id, PIPELINE_EXECUTION, execution_id, True))


class _TaskSpan(trace.Span):
    """The span of a running task result; computes its context on first use, because most tasks never need it.

    The span records nothing: the span that is sent is built from the records.
    """

    def __init__(self, run_id: str, record_id: int, sampled: bool) -> None:
        # Convert to str here, where an error does not fail a task.
        self._of = str(run_id), TASK_RESULT, int(record_id), sampled
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._made is None:
            self._made = building.record_context(*self._of)
        return self._made

    def is_recording(self) -> bool:
        return False

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the task result's own report ends its span."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Do nothing."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Do nothing."""

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Do nothing."""

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        """Do nothing."""

    def update_name(self, name: str) -> None:
        """Do nothing."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Do nothing."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_span_context()!r})"


class _Attached(NamedTuple):
    """A context that was attached for a task result."""

    task_result: weakref.ref[PipelineStorageObject]
    context: Context
    before: Context
    """The context that was current before it."""


_attached: ContextVar[tuple[_Attached, ...]] = ContextVar("otel_storage_task_contexts", default=())
"""The contexts that are attached here, innermost last.

A thread, an asyncio task and a greenlet each have a value of their own; what they start begins with a copy of it. A
tuple, so that no copy changes with another.
"""


class _TaskContexts:
    """Attaches a context for each running task result, and restores the one before.

    A context is dead if its task result was freed without a final report here: the task ended by ``sys.exit()``, or
    another process reported for it. A dead context is dropped when the task result is freed, or when the next context
    is attached. It is detached only while it is the current context: Celery's instrumentation, for example, may have
    restored the context before both, and ours would bring an ended task's span back.
    """

    def enter(self, task_result: PipelineStorageObject, sampled: bool) -> None:
        """Attach the task result's context; replaces an earlier one of the same task result."""
        self.leave(task_result)
        self._drop_dead()
        span = _TaskSpan(task_result.get_run_id(), task_result.get_id(), sampled)
        before = get_current()
        context = trace.set_span_in_context(span, before)
        reference = weakref.ref(task_result, self._drop_dead)
        _attached.set((*_attached.get(), _Attached(reference, context, before)))
        attach(context)

    def leave(self, task_result: PipelineStorageObject) -> None:
        """Restore the context from before the task result's, and drop all contexts attached after it."""
        stack = _attached.get()
        for position, attached in enumerate(stack):
            if attached.task_result() is task_result:
                _attached.set(stack[:position])
                # No token: what is restored may have been attached in a context that this one is a copy of.
                attach(attached.before)
                return

    def _drop_dead(self, _: object = None, *, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing():
            return  # at interpreter exit, the functions that this would call are gone already
        stack = _attached.get()
        while stack and stack[-1].task_result() is None:
            attached, stack = stack[-1], stack[:-1]
            _attached.set(stack)
            if get_current() is attached.context:
                attach(attached.before)
