"""Stored records -> spans. Pure: the same snapshot gives the same span, byte for byte, whoever makes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_storage.results.snapshots import (
    ExecutionSnapshot,
    Failure,
    ParentSnapshot,
    PipelineResultSnapshot,
    RecordSnapshot,
    RunSnapshot,
    TaskExecutionSnapshot,
    TaskResultSnapshot,
)
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.telemetry import attributes as names
from otel_storage.telemetry import ids
from otel_storage.telemetry.messages import public_message, public_stacktrace
from otel_storage.telemetry.privacy import cut
from otel_storage.telemetry.run_trace import AttributeValue, RunTrace

SCOPE_NAME = "otel_storage"
"""The instrumentation scope of every span that we make."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def task_result_span(result: TaskResultSnapshot) -> ReadableSpan:
    """The span of a final task result; of no length if it never started.

    Raises:
        ValueError: the run's trace was decided by a version of this package that this one does not understand.
    """
    task = result.task_execution
    run = _Run(task.pipeline_result.execution)
    start = result.started or result.completed or result.created
    return run.span(
        result,
        kind=ids.TASK_RESULT,
        name=f"RESULT {task.pipeline_task}",
        parent=run.context(ids.TASK_EXECUTION, task.id),
        attributes=names.task_result_attributes(result, run.trace),
        times=(start, max(start, result.completed or start)),
        failure=result.failure,
    )


def run_spans(run: RunSnapshot) -> Iterator[ReadableSpan]:
    """The spans of the three levels above the task results: children before their parents, the root last.

    Raises:
        ValueError: the run's trace was decided by a version of this package that this one does not understand.
    """
    of_run = _Run(run.execution)
    for task in run.task_executions:
        yield _task_execution_span(of_run, task)
    for result in run.pipeline_results:
        yield _pipeline_result_span(of_run, result)
    runner = next((result.runner for result in run.pipeline_results), None)
    yield _root_span(of_run, run.execution, runner)


def record_context(run_id: str, kind: str, record_id: int, sampled: bool) -> SpanContext:
    """The context of the record's span; ``kind`` is the record's ``content_type_name``."""
    return SpanContext(
        trace_id=ids.trace_id(run_id),
        span_id=ids.span_id(kind, record_id),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT),
    )


def _task_execution_span(run: _Run, task: TaskExecutionSnapshot) -> ReadableSpan:
    return run.span(
        task,
        kind=ids.TASK_EXECUTION,
        name=task.pipeline_task,
        parent=run.context(ids.PIPELINE_RESULT, task.pipeline_result.id),
        attributes=names.task_execution_attributes(task, run.trace),
        times=_parent_times(task),
    )


def _pipeline_result_span(run: _Run, result: PipelineResultSnapshot) -> ReadableSpan:
    return run.span(
        result,
        kind=ids.PIPELINE_RESULT,
        name=f"RESULT {result.execution.pipeline_id}",
        parent=run.context(ids.PIPELINE_EXECUTION, result.execution.id),
        attributes=names.pipeline_result_attributes(result, run.trace),
        times=_parent_times(result),
    )


def _root_span(run: _Run, execution: ExecutionSnapshot, runner: str | None) -> ReadableSpan:
    return run.span(
        execution,
        kind=ids.PIPELINE_EXECUTION,
        name=f"RUN {execution.pipeline_id}",
        parent=None,
        attributes=names.execution_attributes(execution, run.trace, runner),
        times=_parent_times(execution),
        span_kind=SpanKind.SERVER,
        links=_links(run.trace),
    )


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


class _Run:
    """What the spans of one run have in common."""

    def __init__(self, execution: ExecutionSnapshot) -> None:
        self.trace = RunTrace.from_json(execution.trace)
        self._run_id = execution.run_id
        self._limits = self.trace.limits
        self._shows_messages = "messages" in self.trace.capture

    def context(self, kind: str, record_id: int) -> SpanContext:
        return record_context(self._run_id, kind, record_id, self.trace.sampled)

    def span(
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
        outcome = names.outcome_of(record)
        message = self._message(outcome, record.completed_message)
        return ReadableSpan(
            name=self._cut(name),
            context=self.context(kind, record.id),
            parent=parent,
            resource=_resource(json.dumps(dict(self.trace.resource), sort_keys=True)),
            attributes=_bounded(self._all_cut(attributes), self._limits.attributes),
            events=tuple(self._events(record, message, failure)),
            links=links,
            kind=span_kind,
            status=Status(StatusCode.ERROR, message or None) if names.is_error(outcome) else Status(StatusCode.UNSET),
            start_time=_nanoseconds(times[0]),
            end_time=_nanoseconds(times[1]),
            instrumentation_scope=InstrumentationScope(SCOPE_NAME, self.trace.scope_version),
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
        bounded = _bounded(self._all_cut(attributes), self._limits.event_attributes)
        return Event(name, attributes=bounded, timestamp=_nanoseconds(at))

    def _message(self, status: PipelineTaskStatus | None, message: str) -> str:
        return public_message(status, message, self._shows_messages, self._limits.value_bytes)

    def _all_cut(self, attributes: names.Attributes) -> names.Attributes:
        return {name: self._cut(value) if isinstance(value, str) else value for name, value in attributes.items()}

    def _cut(self, text: str) -> str:
        return cut(text, self._limits.value_bytes)


def _bounded(attributes: names.Attributes, limit: int | None) -> Mapping[str, AttributeValue] | BoundedAttributes:
    """The first ``limit`` attributes; the span tells how many there were beyond them."""
    if limit is None or len(attributes) <= limit:
        return attributes
    # The class keeps the last ones by itself, and warns of it.
    bounded = BoundedAttributes(attributes=dict(list(attributes.items())[:limit]), immutable=False)
    bounded.dropped = len(attributes) - limit
    return bounded


@lru_cache(maxsize=64)
def _resource(attributes: str) -> Resource:
    # Sorted, whatever order the database gave them back in: the bytes follow it.
    return Resource(dict(sorted(json.loads(attributes).items())))


def _nanoseconds(moment: datetime) -> int:
    """Since the epoch; whole microseconds, without the rounding of ``timestamp()``."""
    return max(0, (moment - _EPOCH) // _MICROSECOND * 1000)
