"""Runs to make spans of, and the spans that must arrive of all that a database holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from otel_storage import PipelineTaskStatus
from otel_storage.composite import OtelPipelineStorage
from otel_storage.results import clock
from otel_storage.telemetry.spans import ids
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import ReceivedSpan

RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE

SPANS = 1 + 1 + 1 + 2
"""How many spans :func:`run` has."""

SpanId = tuple[str, str]
"""A trace's id and a span's, as OTLP has them."""


def build(storage: Any, objects: Iterable[Any] = ("a", "b")) -> Any:
    """A new run of one task, with a task result for each object."""
    pipeline = Pipeline(Task("load", objects=objects))
    return storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), RecordingReporter(), {"day": 1})


def finish(execution: Any) -> None:
    """Run all of the run, as the eager runner does."""
    reporter = RecordingReporter()
    for pipeline_result in execution.get_pipeline_results():
        for task_execution in pipeline_result.get_task_executions():
            for task_result in task_execution.get_task_results():
                task_result.report_status_change(reporter, RUNNING)
                task_result.report_status_change(reporter, DONE, propagate=False)
        pipeline_result.report_status_change(reporter, DONE, propagate=False)
    execution.report_status_change(reporter, DONE)


def run(storage: Any, objects: Iterable[Any] = ("a", "b")) -> str:
    """A run, from its building to its end; its run id."""
    execution = build(storage, objects)
    finish(execution)
    return str(execution.get_run_id())


def expected(storage: Any) -> set[SpanId]:
    """The spans of all records of the storage, all of whose runs are final."""
    return {
        (ids.format_trace_id(ids.trace_id(record.get_run_id())), f"{ids.span_id(kind, record.get_id()):016x}")
        for kind, records in (
            ("PipelineExecution", storage.get_pipeline_executions()),
            ("PipelineResult", storage.get_pipeline_results()),
            ("TaskExecution", storage.get_task_executions()),
            ("TaskResult", storage.get_task_results()),
        )
        for record in records
    }


def received(spans: Iterable[ReceivedSpan]) -> set[SpanId]:
    """The spans that arrived, once or more."""
    return {(span.trace_id, span.span_id) for span in spans}


def later() -> datetime:
    """A clock that is an hour ahead: the leases of senders that were killed have run out by it."""
    return clock.now() + timedelta(hours=1)


def deliver_the_rest(url: str) -> None:
    """Send the due spans, as the next process would some time later."""
    storage = OtelPipelineStorage(url=url, delivery="external", clock=later)
    try:
        assert storage.delivery.deliver_due().error == ""
        status = storage.records.outbox.status()
        assert (status.waiting, status.held, status.refused, status.expired) == (0, 0, 0, 0)
    finally:
        storage.close()
