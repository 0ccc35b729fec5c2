"""Stored records -> spans. Pure: the same snapshot gives the same span, byte for byte, whoever makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import islice
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_storage.ports.snapshots import (
    ExecutionSnapshot,
    Failure,
    ParentSnapshot,
    PipelineResultSnapshot,
    RecordSnapshot,
    RunSnapshot,
    TaskExecutionSnapshot,
    TaskResultSnapshot,
)
from otel_storage.privacy.masking import cut
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.telemetry.spans import attributes as names
from otel_storage.telemetry.spans import ids
from otel_storage.telemetry.spans.messages import public_message, public_stacktrace
from otel_storage.telemetry.spans.run_trace import AttributeValue, RunTrace

SCOPE_NAME = "otel_storage"
"""The instrumentation scope of every span that we make."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_UNSET = Status(StatusCode.UNSET)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def task_result_span(result: TaskResultSnapshot) -> ReadableSpan:
    """The span of a final task result; its duration is 0 if the task never started.

    Raises:
        ValueError: the decision about the run's trace was stored by an unknown version of this package.
    """
    return _Run(result.task_execution.pipeline_result.execution).task_result_span(result)


def run_spans(run: RunSnapshot) -> Iterator[ReadableSpan]:
    """The spans of the three levels above the task results: children before their parents, the root last.

    Raises:
        ValueError: the decision about the run's trace was stored by an unknown version of this package.
    """
    return _Run(run.execution).parent_spans(run)


class Spans:
    """Makes the spans of records that are sent together; data that spans of one run or task share is made once.

    The object keeps its snapshots alive.
    """

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}

    def of(self, snapshot: TaskResultSnapshot | RunSnapshot) -> Sequence[ReadableSpan]:
        """The spans of the snapshot, in the order in which they are sent.

        Raises:
            ValueError: as of :func:`task_result_span` and :func:`run_spans`.
        """
        if isinstance(snapshot, RunSnapshot):
            return tuple(self._run(snapshot.execution).parent_spans(snapshot))
        return (self._run(snapshot.task_execution.pipeline_result.execution).task_result_span(snapshot),)

    def _run(self, execution: ExecutionSnapshot) -> _Run:
        # Compare by identity: snapshots of one query share their parents, and equality would compare whole runs.
        run = self._runs.get(id(execution))
        if run is None:
            run = self._runs[id(execution)] = _Run(execution)
        return run


def record_context(run_id: str, kind: str, record_id: int, sampled: bool) -> SpanContext:
    """The context of the record's span; ``kind`` is the record's ``content_type_name``."""
    return _context(ids.trace_id(run_id), ids.span_id(kind, record_id), _SAMPLED if sampled else _NOT_SAMPLED)


def _context(trace_id: int, span_id: int, flags: TraceFlags) -> SpanContext:
    return SpanContext(trace_id=trace_id, span_id=span_id, is_remote=False, trace_flags=flags)


def _parent_times(record: ParentSnapshot) -> tuple[datetime, datetime]:
    start = record.span_start or record.started or record.completed or record.created
    return start, max(start, record.span_end or record.completed or start)


def _links(trace: RunTrace) -> tuple[Link, ...]:
    if trace.link is None:
        return ()
    context = SpanContext(
        trace_id=trace.link.trace_id,
        span_id=trace.link.span_id,
        is_remote=True,
        trace_flags=TraceFlags(trace.link.trace_flags),
    )
    return (Link(context),)


class _Task:
    """The data that the spans of one task execution's results share."""

    def __init__(self, run: _Run, execution: TaskExecutionSnapshot) -> None:
        self.execution = execution
        self.name = run.cut(f"RESULT {execution.pipeline_task}")
        self.context = run.context(TASK_EXECUTION, execution.id)
        before, after = names.attributes_of_results(execution, run.trace)
        self.attributes_before, self.attributes_after = run.all_cut(before), run.all_cut(after)


class _Run:
    """The data that the spans of one run share."""

    def __init__(self, execution: ExecutionSnapshot) -> None:
        self._execution = execution
        self.trace = RunTrace.from_json(execution.trace)
        self._limits = self.trace.limits
        self._shows_messages = "messages" in self.trace.capture
        self._trace_id = ids.trace_id(execution.run_id)
        self._flags = _SAMPLED if self.trace.sampled else _NOT_SAMPLED
        # Sort, because a database may return JSON keys in another order, and the span's bytes depend on the order.
        self._resource = _resource(json.dumps(dict(self.trace.resource), sort_keys=True))
        self._scope = _scope(self.trace.scope_version)
        self._tasks: dict[int, _Task] = {}
        self._messages: dict[tuple[PipelineTaskStatus | None, str], str] = {}

    def task_result_span(self, result: TaskResultSnapshot) -> ReadableSpan:
        task = self._task(result.task_execution)
        start = result.started or result.completed or result.created
        attributes = {
            **task.attributes_before,
            **self.all_cut(names.task_result_state(result)),
            **task.attributes_after,
            **self.all_cut(names.task_object(result, self.trace)),
        }
        return self._span(
            result,
            kind=TASK_RESULT,
            name=task.name,
            parent=task.context,
            attributes=attributes,
            times=(start, max(start, result.completed or start)),
            failure=result.failure,
        )

    def parent_spans(self, run: RunSnapshot) -> Iterator[ReadableSpan]:
        for task in run.task_executions:
            yield self._task_execution_span(task)
        for result in run.pipeline_results:
            yield self._pipeline_result_span(result)
        runner = next((result.runner for result in run.pipeline_results), None)
        yield self._root_span(runner)

    def context(self, kind: str, record_id: int) -> SpanContext:
        return _context(self._trace_id, ids.span_id(kind, record_id), self._flags)

    def all_cut(self, attributes: names.Attributes) -> names.Attributes:
        """Cut the texts of the attributes to size; changes the given dict."""
        limit = self._limits.value_bytes
        for name, value in attributes.items():
            if isinstance(value, str) and not (len(value) <= limit and value.isascii()):
                attributes[name] = cut(value, limit)
        return attributes

    def cut(self, text: str) -> str:
        return cut(text, self._limits.value_bytes)

    def _task(self, execution: TaskExecutionSnapshot) -> _Task:
        task = self._tasks.get(id(execution))
        if task is None:
            task = self._tasks[id(execution)] = _Task(self, execution)
        return task

    def _task_execution_span(self, task: TaskExecutionSnapshot) -> ReadableSpan:
        return self._span(
            task,
            kind=TASK_EXECUTION,
            name=self.cut(task.pipeline_task),
            parent=self.context(PIPELINE_RESULT, task.pipeline_result.id),
            attributes=self.all_cut(names.task_execution_attributes(task, self.trace)),
            times=_parent_times(task),
        )

    def _pipeline_result_span(self, result: PipelineResultSnapshot) -> ReadableSpan:
        return self._span(
            result,
            kind=PIPELINE_RESULT,
            name=self.cut(f"RESULT {result.execution.pipeline_id}"),
            parent=self.context(PIPELINE_EXECUTION, result.execution.id),
            attributes=self.all_cut(names.pipeline_result_attributes(result, self.trace)),
            times=_parent_times(result),
        )

    def _root_span(self, runner: str | None) -> ReadableSpan:
        execution = self._execution
        return self._span(
            execution,
            kind=PIPELINE_EXECUTION,
            name=self.cut(f"RUN {execution.pipeline_id}"),
            parent=None,
            attributes=self.all_cut(names.execution_attributes(execution, self.trace, runner)),
            times=_parent_times(execution),
            span_kind=SpanKind.SERVER,
            links=_links(self.trace),
        )

    def _span(
        self,
        record: RecordSnapshot,
        *,
        kind: str,
        name: str,
        parent: SpanContext | None,
        attributes: names.Attributes,
        times: tuple[datetime, datetime],
        failure: Failure | None = None,
        span_kind: SpanKind = SpanKind.INTERNAL,
        links: tuple[Link, ...] = (),
    ) -> ReadableSpan:
        """The span, from a name and attributes that are cut already."""
        outcome = names.outcome_of(record)
        message = self._message(outcome, record.completed_message)
        make_span: Callable[..., ReadableSpan] = ReadableSpan
        limit = self._limits.attributes
        if limit is not None and len(attributes) > limit:
            make_span = partial(_CutSpan, len(attributes) - limit)
            attributes = _first(attributes, limit)
        return make_span(
            name=name,
            context=self.context(kind, record.id),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=tuple(self._events(record, message, failure)),
            links=links,
            kind=span_kind,
            status=Status(StatusCode.ERROR, message or None) if names.is_error(outcome) else _UNSET,
            start_time=_nanoseconds(times[0]),
            end_time=_nanoseconds(times[1]),
            instrumentation_scope=self._scope,
        )

    def _events(self, record: RecordSnapshot, message: str, failure: Failure | None) -> Iterable[Event]:
        if record.started is not None and record.started_message:
            running = PipelineTaskStatus.RUNNING
            yield self._status_event(running, self._message(running, record.started_message), record.started)
        if record.completed is not None and record.status in FINAL:
            if failure is not None:
                yield self._exception_event(record, message, failure, record.completed)
            if message:
                yield self._status_event(record.status, message, record.completed)

    def _status_event(self, status: PipelineTaskStatus, message: str, at: datetime) -> Event:
        return self._event(names.STATUS_EVENT, {names.STATUS: status.value, names.STATUS_MESSAGE: message}, at)

    def _exception_event(self, record: RecordSnapshot, message: str, failure: Failure, at: datetime) -> Event:
        stack = public_stacktrace(record.status, failure, self._shows_messages, self._limits.value_bytes)
        return self._event(
            names.EXCEPTION_EVENT,
            {names.EXCEPTION_TYPE: failure.type, names.EXCEPTION_MESSAGE: message, names.EXCEPTION_STACKTRACE: stack},
            at,
        )

    def _event(self, name: str, attributes: names.Attributes, at: datetime) -> Event:
        attributes, timestamp, limit = self.all_cut(attributes), _nanoseconds(at), self._limits.event_attributes
        if limit is None or len(attributes) <= limit:
            return Event(name, attributes, timestamp)
        return _CutEvent(len(attributes) - limit, name, _first(attributes, limit), timestamp)

    def _message(self, status: PipelineTaskStatus | None, message: str) -> str:
        if not message:
            return ""
        # In a failed run many records have the same message.
        known = self._messages.get((status, message))
        if known is None:
            known = public_message(status, message, self._shows_messages, self._limits.value_bytes)
            self._messages[status, message] = known
        return known


class _CutSpan(ReadableSpan):
    """A span without its last attributes, which says how many they are."""

    def __init__(self, dropped: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cut_off = dropped

    @property
    def dropped_attributes(self) -> int:
        return self._cut_off


class _CutEvent(Event):
    """An event without its last attributes, which says how many they are."""

    def __init__(self, dropped: int, name: str, attributes: names.Attributes, timestamp: int) -> None:
        super().__init__(name, attributes, timestamp)
        self._cut_off = dropped

    @property
    def dropped_attributes(self) -> int:
        return self._cut_off


def _first(attributes: names.Attributes, limit: int) -> names.Attributes:
    return dict(islice(attributes.items(), limit))


# The same object for all runs: exporters group spans by resource, and identical objects need no comparison.


class _Scope(InstrumentationScope):
    """A scope that is hashed once, as :class:`_Resource`."""

    __slots__ = ("_hash",)

    def __init__(self, name: str, version: str) -> None:
        super().__init__(name, version)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


@lru_cache(maxsize=64)
def _scope(version: str) -> InstrumentationScope:
    return _Scope(SCOPE_NAME, version)


class _Resource(Resource):
    """A resource that is hashed once: exporters hash every span's resource, and the SDK's writes JSON each time."""

    def __init__(self, attributes: Mapping[str, AttributeValue]) -> None:
        super().__init__(attributes)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


@lru_cache(maxsize=64)
def _resource(attributes: str) -> Resource:
    return _Resource(json.loads(attributes))


def _nanoseconds(moment: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond, without the rounding of ``timestamp()``."""
    return max(0, (moment - _EPOCH) // _MICROSECOND * 1000)
