"""What a run's trace must be, whichever processes sent it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from otel_storage.results.base import PipelineStorageObject
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.spans import ids
from otel_storage.testing.receiver import OtlpReceiver, ReceivedSpan


def trace_id(run_id: str) -> str:
    """The id of the run's trace."""
    return uuid.UUID(run_id).hex


def span_id(record: PipelineStorageObject | None) -> str:
    """The id of the record's span; empty for the parent of a root."""
    return "" if record is None else f"{ids.span_id(record.content_type_name, record.get_id()):016x}"


def our_spans(receiver: OtlpReceiver, run_id: str) -> dict[str, ReceivedSpan]:
    """The spans of the run's records, by their id; each has been sent once.

    Raises:
        AssertionError: one was sent twice.
    """
    spans = [span for span in receiver.spans if span.scope_name == "otel_storage" and span.trace_id == trace_id(run_id)]
    assert len(spans) == len({span.span_id for span in spans}), "spans were sent twice"
    return {span.span_id: span for span in spans}


def check_trace(receiver: OtlpReceiver, storage: SqlPipelineStorage, run_id: str) -> ReceivedSpan:
    """Check that the trace is the tree of the run's records, in which each contains what is below it; its root.

    Raises:
        AssertionError: it is not.
    """
    spans = our_spans(receiver, run_id)
    assert {id_: span.parent_span_id for id_, span in spans.items()} == tree(storage, run_id)
    for id_, status in statuses(storage, run_id).items():
        assert spans[id_].attributes["otel_storage.status"] == status
    [root] = [span for span in receiver.traces()[trace_id(run_id)] if not span.parent_span_id]
    for span in spans.values():
        if span is not root:
            assert contains(spans[span.parent_span_id], span), (spans[span.parent_span_id].name, span.name)
    return root


def tree(storage: SqlPipelineStorage, run_id: str) -> dict[str, str]:
    """The id of each span that the run is to have, with that of the span above it; empty above the root."""
    return {span_id(record): span_id(parent) for record, parent in records(storage, run_id) if _has_span(record)}


def statuses(storage: SqlPipelineStorage, run_id: str) -> dict[str, str]:
    """The status of the record of each span that the run is to have, by the span's id."""
    return {span_id(record): record.get_status().value for record, _ in records(storage, run_id) if _has_span(record)}


def records(
    storage: SqlPipelineStorage, run_id: str
) -> Iterator[tuple[PipelineStorageObject, PipelineStorageObject | None]]:
    """Every record of the run, with the one above it."""
    execution = storage.get_pipeline_execution(run_id)
    assert execution is not None
    yield execution, None
    for pipeline_result in execution.get_pipeline_results():
        yield pipeline_result, execution
        for task_execution in pipeline_result.get_task_executions():
            yield task_execution, pipeline_result
            for task_result in task_execution.get_task_results():
                yield task_result, task_execution


def contains(outer: ReceivedSpan, inner: ReceivedSpan) -> bool:
    """Whether one span begins and ends within the other."""
    return (
        outer.start_time_unix_nano <= inner.start_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def _has_span(record: PipelineStorageObject) -> bool:
    return record.get_status() is not PipelineTaskStatus.PENDING
