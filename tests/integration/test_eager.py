"""The real host's eager runner, a real database and a real receiver: one run is one trace."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from otel_storage import PipelineTaskStatus
from otel_storage.results.base import PipelineExecution, PipelineStorageObject
from otel_storage.telemetry.spans import ids
from otel_storage.testing.receiver import OtlpReceiver, ReceivedSpan
from tests.integration.conftest import RunSite, Site
from tests.integration.site import SECRETS

pytestmark = pytest.mark.usefixtures("clean_environment")

ALL = ("Succeeds", "Fails", "SecondFails", "BadConfig", "Validated", "Leaky", "LeakyInvalid")


@pytest.fixture
def site(database_url: str, receiver: OtlpReceiver, run_site: RunSite) -> Site:
    """All pipelines, run once, with spans of the user's own."""
    return run_site(database_url, receiver.endpoint, *ALL, "--flush", "--user-spans")


def test_every_run_is_one_trace(site: Site, receiver: OtlpReceiver) -> None:
    """All that the promise of a trace holds, on every pipeline.

    The trace's id is the run's; the tree of spans is the tree of records, with one root; ids are as specified; every
    child lies inside its parent; what the user's own code traces lies under the span of its task.
    """
    assert site.flushed is True
    traces = receiver.traces()
    assert set(traces) == {uuid.UUID(run_id).hex for run_id in site.runs.values()}
    storage = site.storage
    for name, run_id in site.runs.items():
        execution = storage.get_pipeline_execution(run_id)
        assert execution is not None
        spans = {span.span_id: span for span in traces[uuid.UUID(run_id).hex]}
        ours = {id_: span for id_, span in spans.items() if span.scope_name == "otel_storage"}

        expected = {_span_id(record): _span_id(parent) for record, parent in _tree(execution) if _has_span(record)}
        assert {span.span_id: span.parent_span_id for span in ours.values()} == expected, name
        assert [span.name for span in spans.values() if not span.parent_span_id] == [f"RUN site.{name}"]
        for span in spans.values():
            if span.parent_span_id:
                _assert_inside(span, spans[span.parent_span_id])
        for span in spans.values():
            if span.scope_name == "user":
                assert spans[span.parent_span_id].attributes["otel_storage.record.kind"] == "TaskResult"


@pytest.mark.slow
@pytest.mark.smoke
def test_each_record_has_one_span_and_the_root_comes_last(site: Site, receiver: OtlpReceiver) -> None:
    """Nothing is sent twice while all goes well, and a root follows all of its children."""
    spans = [span for span in receiver.spans if span.scope_name == "otel_storage"]
    assert len(spans) == len({(span.trace_id, span.span_id) for span in spans})
    for run_id in site.runs.values():
        trace = [span for span in spans if span.trace_id == uuid.UUID(run_id).hex]
        assert trace[-1].name.startswith("RUN ")
        assert trace[-1].kind == "SERVER"


@pytest.mark.slow
def test_statuses_are_mapped(site: Site, receiver: OtlpReceiver) -> None:
    """DONE, failed and cancelled records have the results, span statuses and error types of the table."""
    root, spans = _trace(site, receiver, "Succeeds")
    assert root.attributes["cicd.pipeline.result"] == "success"
    assert {span.status_code for span in spans} == {"UNSET"}
    assert not any("error.type" in span.attributes for span in spans)

    root, spans = _trace(site, receiver, "Fails")
    assert (root.status_code, root.status_message) == ("ERROR", "object 2 is broken")
    assert root.attributes["cicd.pipeline.result"] == "failure"
    assert root.attributes["error.type"] == "RUNTIME_ERROR"
    results = {
        (span.attributes["cicd.pipeline.task.name"], span.attributes["otel_storage.record.id"]): span
        for span in spans
        if span.attributes["otel_storage.record.kind"] == "TaskResult"
    }
    statuses = [(task, span.attributes["otel_storage.status"], span.status_code) for (task, _), span in results.items()]
    assert sorted(statuses) == [
        ("extract", "DONE", "UNSET"),
        ("load", "CANCELLED", "UNSET"),
        ("load", "DONE", "UNSET"),
        ("load", "RUNTIME_ERROR", "ERROR"),
        ("publish", "CANCELLED", "UNSET"),
        ("publish", "CANCELLED", "UNSET"),
        ("publish", "CANCELLED", "UNSET"),
    ]
    [failed] = [span for span in results.values() if span.status_code == "ERROR"]
    assert failed.attributes["error.type"] == "ValueError"
    [exception] = [event for event in failed.events if event.name == "exception"]
    assert exception.attributes["exception.type"] == "ValueError"
    assert "object 2 is broken" in exception.attributes["exception.stacktrace"]
    cancelled = [span for span in results.values() if span.attributes["otel_storage.status"] == "CANCELLED"]
    assert all(span.start_time_unix_nano == span.end_time_unix_nano for span in cancelled)
    assert not any("error.type" in span.attributes for span in cancelled)
    others = [span for span in spans if span not in results.values()]
    assert not any(event.name == "exception" for span in others for event in span.events)
    tasks = {
        span.name: span.attributes["cicd.pipeline.task.run.result"]
        for span in others
        if span.attributes["otel_storage.record.kind"] == "TaskExecution"
    }
    assert tasks == {"extract": "success", "load": "failure", "publish": "cancellation"}


@pytest.mark.slow
def test_a_run_that_failed_early_ends_with_its_last_task(site: Site, receiver: OtlpReceiver) -> None:
    """The second result fails while the third still runs: the root waits for it, and ends with it."""
    root, spans = _trace(site, receiver, "SecondFails")
    execution = site.storage.get_pipeline_execution(site.runs["SecondFails"])
    assert execution is not None
    completed = execution.get_completed()
    assert completed is not None
    third = max(span.end_time_unix_nano for span in spans if span is not root)
    assert root.end_time_unix_nano == third
    assert _time(root.end_time_unix_nano) - completed > timedelta(seconds=1)
    assert (root.status_code, root.status_message) == ("ERROR", "the second region is gone")


@pytest.mark.slow
def test_a_bad_configuration_is_one_failed_root(site: Site, receiver: OtlpReceiver) -> None:
    """A pipeline that cannot be started is stored, and is a trace of one span."""
    root, spans = _trace(site, receiver, "BadConfig")
    assert spans == [root]
    assert (root.status_code, root.status_message) == ("ERROR", "Pipeline is badly configured")
    assert root.attributes["otel_storage.status"] == "CONFIG_ERROR"
    execution = site.storage.get_pipeline_execution(site.runs["BadConfig"])
    assert execution is not None
    assert execution.get_status() is PipelineTaskStatus.CONFIG_ERROR


def test_no_secret_leaves_the_process(site: Site, receiver: OtlpReceiver) -> None:
    """Seeded secrets are in the database, which is the truth, and in no byte that arrives at the receiver."""
    arrived = receiver.bytes_received
    for name, secret in SECRETS.items():
        assert secret.encode() not in arrived, name
    root, _ = _trace(site, receiver, "Validated")
    assert "int_parsing" in root.status_message or "type_error.integer" in root.status_message
    stored = site.storage.get_pipeline_execution(site.runs["Validated"])
    assert stored is not None
    assert stored.get_input_data()["card"] == SECRETS["card"]
    root, _ = _trace(site, receiver, "Leaky")
    assert "cannot connect to postgresql://" in root.status_message


@pytest.mark.slow
def test_two_runs_side_by_side_do_not_mix(site: Site, receiver: OtlpReceiver) -> None:
    """A span belongs to the run that its attributes name."""
    by_trace = {uuid.UUID(run_id).hex: run_id for run_id in site.runs.values()}
    for span in receiver.spans:
        if span.scope_name == "otel_storage":
            assert span.attributes["cicd.pipeline.run.id"] == by_trace[span.trace_id]


def _tree(execution: PipelineExecution) -> Iterator[tuple[PipelineStorageObject, PipelineStorageObject | None]]:
    yield execution, None
    for pipeline_result in execution.get_pipeline_results():
        yield pipeline_result, execution
        for task_execution in pipeline_result.get_task_executions():
            yield task_execution, pipeline_result
            for task_result in task_execution.get_task_results():
                yield task_result, task_execution


def _has_span(record: PipelineStorageObject) -> bool:
    return record.get_status() is not PipelineTaskStatus.PENDING


def _span_id(record: PipelineStorageObject | None) -> str:
    return "" if record is None else f"{ids.span_id(record.content_type_name, record.get_id()):016x}"


def _assert_inside(span: ReceivedSpan, parent: ReceivedSpan) -> None:
    assert parent.start_time_unix_nano <= span.start_time_unix_nano, (span.name, parent.name)
    assert span.end_time_unix_nano <= parent.end_time_unix_nano, (span.name, parent.name)


def _trace(site: Site, receiver: OtlpReceiver, name: str) -> tuple[ReceivedSpan, list[ReceivedSpan]]:
    spans = [span for span in receiver.traces()[uuid.UUID(site.runs[name]).hex] if span.scope_name == "otel_storage"]
    [root] = [span for span in spans if not span.parent_span_id]
    return root, spans


def _time(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
