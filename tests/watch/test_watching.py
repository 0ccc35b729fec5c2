"""A storage that is not ours, watched: what it tells, what its spans are, and that nothing of it fails a run."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select, text

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import TaskResult
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.sql.upkeep.copies import SqlCopies
from otel_storage.telemetry.spans import ids
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.watch import hooks
from otel_storage.watch import storage as watch_storage
from tests.watch import memory
from tests.watch.memory import MemoryStorage, MemoryTaskResult, new_run_id

PENDING = PipelineTaskStatus.PENDING
RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE
CANCELLED = PipelineTaskStatus.CANCELLED
CONFIG_ERROR = PipelineTaskStatus.CONFIG_ERROR
RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR

CLASSES = (
    memory.MemoryExecution,
    memory.MemoryPipelineResult,
    memory.MemoryTaskExecution,
    memory.MemoryTaskResult,
)

Open = Callable[..., OtelPipelineStorage]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Takes the spans."""
    return InMemorySpanExporter()


@pytest.fixture
def open_storage(sqlite_url: str, exporter: InMemorySpanExporter) -> Iterator[Open]:
    """Wraps a storage of the test's, or a new one; its copies are in a file."""
    with ExitStack() as storages:

        def open_(wrapped: Any = None, **kwargs: Any) -> OtelPipelineStorage:
            arguments = {"outbox_url": sqlite_url, "exporter": exporter, "delivery": "external", "settle_quiet": 0}
            return storages.enter_context(
                closing(OtelPipelineStorage(wrapped or MemoryStorage(), **{**arguments, **kwargs}))
            )

        yield open_


def build(storage: OtelPipelineStorage, *tasks: Task, run_id: str | None = None, **kwargs: Any) -> Any:
    """A run of the tasks."""
    pipeline = Pipeline(*(tasks or [Task("extract"), Task("load", objects=["a", "b"])]))
    return storage.build_pipeline_execution(
        pipeline, run_id or new_run_id(), Runner(), RecordingReporter(), {"day": 1}, **kwargs
    )


def task_results(execution: Any) -> list[Any]:
    """The run's task results, in order."""
    return [
        result
        for pipeline_result in execution.get_pipeline_results()
        for task in pipeline_result.get_task_executions()
        for result in task.get_task_results()
    ]


def finish(execution: Any) -> None:
    """Run all of the run, as the eager runner does."""
    reporter = RecordingReporter()
    for result in task_results(execution):
        result.report_status_change(reporter, RUNNING)
        result.report_status_change(reporter, DONE, propagate=False)
    for pipeline_result in execution.get_pipeline_results():
        pipeline_result.report_status_change(reporter, DONE, propagate=False)
    execution.report_status_change(reporter, DONE)


def deliver(storage: OtelPipelineStorage, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Send what is due; all spans that were taken so far."""
    assert storage.delivery.deliver_due().error == ""
    return list(exporter.get_finished_spans())


def by_kind(spans: list[ReadableSpan], kind: str) -> list[ReadableSpan]:
    """The spans of records of the kind."""
    return [span for span in spans if span.attributes and span.attributes["otel_storage.record.kind"] == kind]


def test_a_run_is_one_trace(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """Each record has a span, known by the id it has in its own storage, under that of its parent."""
    storage = open_storage()
    execution = build(storage)
    finish(execution)

    spans = {span.context.span_id: span for span in deliver(storage, exporter) if span.context}

    records = [execution, *execution.get_pipeline_results()]
    records += [task for result in execution.get_pipeline_results() for task in result.get_task_executions()]
    records += task_results(execution)
    parents = {execution: None, **{record: record.parent for record in records[1:]}}
    assert set(spans) == {ids.span_id(record.content_type_name, record.get_id()) for record in records}
    for record in records:
        span = spans[ids.span_id(record.content_type_name, record.get_id())]
        parent = parents[record]
        assert span.context.trace_id == uuid.UUID(execution.get_run_id()).int
        assert (span.parent.span_id if span.parent else None) == (
            None if parent is None else ids.span_id(parent.content_type_name, parent.get_id())
        )
        attributes: Any = span.attributes
        assert attributes["otel_storage.record.id"] == record.get_id()
        assert attributes["otel_storage.queue_time"] >= 0


def test_two_storages_whose_ids_are_the_same(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """One database holds the copies of two storages that use the same ids."""
    first, second = open_storage(), open_storage()
    executions = [build(first), build(second)]
    assert executions[0].get_id() == executions[1].get_id()
    for execution in executions:
        finish(execution)

    spans = deliver(first, exporter)

    assert len(spans) == 2 * (1 + 1 + 2 + 3)
    assert {span.context.trace_id for span in spans if span.context} == {
        uuid.UUID(execution.get_run_id()).int for execution in executions
    }


def test_failure_with_its_exception(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """The exception that is handled while it is reported is on the task result's span, its message on all above."""
    storage = open_storage()
    execution = build(storage, Task("extract"))
    [result] = task_results(execution)
    result.report_status_change(RecordingReporter(), RUNNING, "off we go")
    try:
        raise LookupError("nothing there")
    except LookupError as error:
        result.report_status_change(RecordingReporter(), RUNTIME_ERROR, message=str(error))

    spans = deliver(storage, exporter)

    assert {span.status.description for span in spans} == {"nothing there"}
    [failed] = by_kind(spans, "TaskResult")
    assert [event.name for event in failed.events] == ["otel_storage.status", "exception", "otel_storage.status"]
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "LookupError"
    assert "raise LookupError" in str((failed.events[1].attributes or {})["exception.stacktrace"])
    assert not any(event.name == "exception" for span in spans if span is not failed for event in span.events)


def test_a_bare_save_is_a_change(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """A status that is set and saved, without a report, is told as well."""
    storage = open_storage()
    execution = build(storage, Task("extract"))
    for record in [*task_results(execution), execution]:
        record.set_status(CANCELLED)
        record.save()

    spans = deliver(storage, exporter)

    assert [span.name for span in spans] == ["RESULT extract", "extract", "RESULT tests.Orders", "RUN tests.Orders"]
    assert [span.attributes["otel_storage.status"] for span in spans if span.attributes] == [
        "CANCELLED",
        "PENDING",
        "PENDING",
        "CANCELLED",
    ]


class OwnWay(MemoryStorage):
    """Its records change state by a way of their own, past the methods of their parents."""

    def build_pipeline_execution(self, *args: Any, **kwargs: Any) -> Any:
        """Build with task results of the test's class."""
        execution = super().build_pipeline_execution(*args, **kwargs)
        for result in task_results(execution):
            result.__class__ = OwnTaskResult
        return execution


class OwnTaskResult(MemoryTaskResult):
    """Writes its parents itself, as a storage in SQL does."""

    def report_status_change(
        self, reporter: Any, status: PipelineTaskStatus, message: str | None = "", propagate: bool = True
    ) -> None:
        """Advance the record and those above it, and say so."""
        record: Any = self
        while record is not None:
            if record.get_status().has_advanced(status):
                record.status = status
                reporter.report_context_object(record, status, message)
            record = getattr(record, "parent", None) if propagate else None


def test_records_with_a_way_of_their_own(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """What a record's own report does to its parents is seen by their statuses."""
    storage = open_storage(OwnWay())
    execution = build(storage, Task("extract"))
    [result] = task_results(execution)
    result.report_status_change(RecordingReporter(), RUNNING)
    result.report_status_change(RecordingReporter(), RUNTIME_ERROR, message="broken")

    spans = deliver(storage, exporter)

    assert [span.name for span in spans] == ["RESULT extract", "extract", "RESULT tests.Orders", "RUN tests.Orders"]
    assert {span.status.description for span in spans} == {"broken"}


def test_first_final_status_wins(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """A storage that loses a race overwrites its final state; the span keeps the first that was told."""
    storage = open_storage()
    execution = build(storage, Task("extract"))
    [result] = task_results(execution)
    result.report_status_change(RecordingReporter(), RUNTIME_ERROR, message="the first")
    for record in (result, execution):
        record.status = RUNNING
        record.report_status_change(RecordingReporter(), DONE, message="overwritten", propagate=False)

    spans = deliver(storage, exporter)

    assert {span.status.description for span in spans} == {"the first"}


def test_a_badly_configured_pipeline_is_stored_as_such(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """What the wrapped storage leaves PENDING becomes CONFIG_ERROR in it, and a failed root; PENDING is told first."""
    storage = open_storage()
    reporter = RecordingReporter()
    execution: Any = storage.build_pipeline_execution(
        Pipeline(Task("extract")), new_run_id(), Runner(), reporter, {}, build_all=None
    )

    assert execution.get_status() is CONFIG_ERROR
    assert execution.get_completed() is not None
    assert [(report.status, report.message) for report in reporter.reports] == [
        (PENDING, "Pipeline is waiting to start")
    ]
    [root] = deliver(storage, exporter)
    assert root.status.description == "Pipeline is badly configured"


def test_runs_that_were_there_before(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """A run that was built without telemetry has none, however it ends; nor has one of an unwrapped storage."""
    wrapped = MemoryStorage()
    before = wrapped.build_pipeline_execution(Pipeline(Task()), new_run_id(), Runner(), RecordingReporter(), {})
    storage = open_storage(wrapped)
    elsewhere = MemoryStorage().build_pipeline_execution(
        Pipeline(Task()), new_run_id(), Runner(), RecordingReporter(), {}
    )
    for execution in (before, elsewhere):
        finish(execution)
        assert execution.get_trace_id() is None

    assert deliver(storage, exporter) == []


@pytest.mark.parametrize(
    ("variables", "has_context"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, True),
    ],
    ids=["disabled", "no exporter", "unsampled"],
)
def test_without_telemetry(
    variables: dict[str, str],
    has_context: bool,
    open_storage: Open,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No reference is written; of an unsampled run the user's code has a context that says so."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    storage = open_storage()
    execution = build(storage, Task("extract"))
    task_results(execution)[0].report_status_change(RecordingReporter(), RUNNING)

    context = trace.get_current_span().get_span_context()
    assert context.is_valid is has_context
    assert not context.trace_flags.sampled
    finish(execution)
    assert execution.get_trace_id() is None
    status = storage.records.outbox.status()
    assert (status.waiting, status.open) == (0, 0)


def test_users_spans_are_under_their_task(open_storage: Open) -> None:
    """Between RUNNING and the final report the task's span is the current one, won or not."""
    storage = open_storage()
    execution = build(storage, Task("extract"))
    [result] = task_results(execution)
    tracer = TracerProvider().get_tracer("user")
    reporter = RecordingReporter()
    for _ in range(2):  # the second time as a redelivered task does
        result.report_status_change(reporter, RUNNING)
        with tracer.start_as_current_span("work") as span:
            assert span.parent is not None  # type: ignore[attr-defined]  # the SDK's span has it
            assert span.parent.span_id == ids.span_id("TaskResult", result.get_id())  # type: ignore[attr-defined]  # as above
        result.report_status_change(reporter, DONE)
        assert not trace.get_current_span().get_span_context().is_valid


def test_trace_ids_and_links_of_records(open_storage: Open) -> None:
    """The wrapped storage's own records tell the run's trace and where it is seen, as ours do."""
    storage = open_storage(trace_url="http://jaeger/trace/{trace_id}")
    execution = build(storage, Task("extract"))
    trace_id = uuid.UUID(execution.get_run_id()).hex
    for record in (execution, *task_results(execution)):
        assert record.get_trace_id() == trace_id
        assert record.get_trace_url() == f"http://jaeger/trace/{trace_id}"


def test_classes_are_as_they_were(open_storage: Open) -> None:
    """The hooks are set once, however many storages are wrapped, and are gone when the last is closed."""
    before = [dict(vars(cls)) for cls in CLASSES]
    first, second = open_storage(), open_storage()
    hooked = [dict(vars(cls)) for cls in CLASSES]
    assert all(hooks.is_hooked(cls) for cls in CLASSES)
    assert hooked != before
    first.close()
    assert [dict(vars(cls)) for cls in CLASSES] == hooked
    second.close()

    assert [dict(vars(cls)) for cls in CLASSES] == before
    assert not any(hooks.is_hooked(cls) for cls in CLASSES)


def test_our_own_records_are_not_hooked(open_storage: Open, sqlite_url: str) -> None:
    """A storage of ours in the same process tells by itself, and is not told of twice."""
    wrapped = open_storage()
    with closing(OtelPipelineStorage(url=f"{sqlite_url}.ours", delivery="external")) as ours:
        execution = build(ours, Task("extract"))
        assert not hooks.is_hooked(type(execution))
        finish(execution)
        assert ours.records.outbox.status().due == 2
    assert wrapped.records.outbox.status().due == 0


def test_a_class_that_is_defined_later(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """Records of a class that was not there when the storage was wrapped are watched once one of them is seen."""
    wrapped = MemoryStorage()
    storage = open_storage(wrapped)
    execution = build(storage, Task("extract"))
    [result] = task_results(execution)

    class Later(memory.MemoryChild, TaskResult):
        """Not a subclass of one that is hooked."""

        pipeline_task = task_id = "extract"

        def get_task_execution(self) -> Any:
            return self.parent

    result.__class__ = Later
    assert not hooks.is_hooked(Later)
    assert storage.get_task_result(result.get_id()) is result
    assert hooks.is_hooked(Later)
    cast("Any", result).report_status_change(RecordingReporter(), DONE, propagate=False)

    assert storage.records.outbox.status().due == 1


def test_a_reporter_that_reports(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """What a reporter changes while it is told is told too, with its own message."""
    storage = open_storage()
    execution = build(storage, Task("extract"), Task("load"))
    first, second = task_results(execution)

    def cancel_other(record: Any) -> None:
        if record is first and second.get_status() is PENDING:
            second.report_status_change(RecordingReporter(), CANCELLED, "not needed", propagate=False)

    first.report_status_change(RecordingReporter(cancel_other), RUNTIME_ERROR, "broken")

    spans = by_kind(deliver(storage, exporter), "TaskResult")
    messages = {
        span.name: [str((event.attributes or {})["otel_storage.message"]) for event in span.events] for span in spans
    }
    assert messages == {"RESULT extract": ["broken"], "RESULT load": ["not needed"]}


class Broken(Exception):
    """Raised by a reporter or a record of these tests."""


def test_errors_reach_the_caller(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """A reporter that raises does so after the change was saved, which is told; a save that raises changed nothing."""
    storage = open_storage()
    execution = build(storage, Task("extract"), Task("load"))
    first, second = task_results(execution)

    def complain(record: Any) -> None:
        if record is first:
            raise Broken("no reporter")

    def refuse() -> None:
        raise Broken("disk full")

    with pytest.raises(Broken, match="no reporter"):
        first.report_status_change(RecordingReporter(complain), DONE, propagate=False)
    second.save = refuse
    with pytest.raises(Broken, match="disk full"):
        second.report_status_change(RecordingReporter(), DONE, propagate=False)

    assert [span.name for span in deliver(storage, exporter)] == ["RESULT extract"]
    assert not trace.get_current_span().get_span_context().is_valid


def test_cleanup_removes_the_copies(open_storage: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Runs that the wrapped storage removes lose their copies; their unsent references are counted."""
    storage = open_storage()
    finished, other = build(storage, Task("extract")), build(storage, Task("extract"))
    finish(finished)
    with caplog.at_level(logging.WARNING, logger="otel_storage"):
        assert list(storage.cleanup()) == [finished.get_run_id(), other.get_run_id()]

    assert "2 runs, and with them 3 references to unsent spans" in caplog.text
    assert list(storage.records.get_pipeline_executions()) == []
    assert storage.records.outbox.status().open == 0
    assert finished.get_trace_id() is None


def test_copies_hold_no_more_than_may_leave(open_storage: Open, sqlite_url: str) -> None:
    """Input data, configuration and objects stay in the wrapped storage, unless they are captured."""
    task = Task("load", objects=["top secret object"], config={"key": "top secret config"})
    pipeline = Pipeline(task, objects=["top secret pipeline object"])
    arguments: tuple[Any, ...] = (Runner(), RecordingReporter(), {"card": "top secret input"})
    private = open_storage()
    private.build_pipeline_execution(pipeline, new_run_id(), *arguments)
    private.records.close()
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    stored = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert b"tests.load" in stored
    assert b"top secret" not in stored

    captured = open_storage(outbox_url=f"{sqlite_url}.captured", capture=["input_data", "config", "objects"])
    execution = captured.build_pipeline_execution(pipeline, new_run_id(), *arguments)
    copy: Any = captured.records.get_pipeline_execution(execution.get_run_id())
    [result] = captured.records.get_task_results()
    assert copy.get_input_data() == {"card": "top secret input"}
    assert result.get_config() == {"key": "top secret config"}
    assert result.get_serializable_task_object() == {"obj": "top secret object"}
    assert result.get_serializable_pipeline_object() == {"obj": "top secret pipeline object"}


def test_copies_that_cannot_be_written(
    open_storage: Open, exporter: InMemorySpanExporter, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database beside it that is damaged costs a run its spans and nothing else; it is said once, and counted."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.write_bytes(b"this is no database" * 1000)
    storage = open_storage()
    with caplog.at_level(logging.WARNING, logger="otel_storage"):
        for _ in range(3):
            execution = build(storage)
            finish(execution)
            assert {result.get_status() for result in task_results(execution)} == {DONE}
            assert execution.get_status() is DONE

    said = [record.getMessage() for record in caplog.records]
    assert said.count("a run goes on without part of its telemetry") <= 3
    assert len(said) == len({record.exc_text or record.getMessage() for record in caplog.records})
    assert storage._watch is not None
    assert storage._watch._guarded.failures > 3


def _build(storage: OtelPipelineStorage, execution: Any) -> None:
    build(storage)


def _report(storage: OtelPipelineStorage, execution: Any) -> None:
    task_results(execution)[0].report_status_change(RecordingReporter(), DONE)


def _save(storage: OtelPipelineStorage, execution: Any) -> None:
    execution.status = RUNNING
    execution.save()


def _clean_up(storage: OtelPipelineStorage, execution: Any) -> None:
    assert list(storage.cleanup()) == [execution.get_run_id()]


def _run_of_another_process(storage: OtelPipelineStorage, execution: Any) -> None:
    execution.run_id = new_run_id()
    assert execution.get_trace_id() is None


@pytest.mark.parametrize("use", [_build, _report, _save, _clean_up, _run_of_another_process])
def test_one_failure_is_counted_and_logged_once(
    use: Callable[[OtelPipelineStorage, Any], None], open_storage: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever way the copies' database is come to, one error is one failure and one line, and goes no further."""
    storage = open_storage()
    execution = build(storage)
    assert storage._watch is not None
    assert storage._watch._guarded.failures == 0
    storage.records.database.write(
        lambda connection: [
            connection.execute(text(f"ALTER TABLE {table} RENAME TO {table}_gone"))
            for table in (schema.pipeline_execution.name, schema.task_result.name)
        ]
    )

    with caplog.at_level(logging.WARNING, logger="otel_storage"):
        use(storage, execution)

    assert storage._watch._guarded.failures == 1
    assert [record.getMessage() for record in caplog.records] == ["a run goes on without part of its telemetry"]


def test_copies_that_fail_slowly_are_left_alone(
    open_storage: Open, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is locked makes one change wait, not all; after the pause the rest is told again."""
    monkeypatch.setattr("otel_storage.composite.COPIES_PATIENCE", 0.2)
    monkeypatch.setattr(watch_storage, "SLOW_FAILURE", 0.1)
    storage = open_storage()
    execution = build(storage, Task("extract"), Task("load"))
    first, second = task_results(execution)
    calls: list[Any] = []
    apply = SqlCopies.apply

    def counted(self: SqlCopies, changes: Any) -> bool:
        calls.append(changes)
        return apply(self, changes)

    monkeypatch.setattr(SqlCopies, "apply", counted)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first.report_status_change(RecordingReporter(), RUNNING)
        first.report_status_change(RecordingReporter(), DONE)
        assert first.get_status() is DONE
        assert len(calls) == 1
        other.execute("ROLLBACK")
    assert "not tried again for 30 seconds" in caplog.text

    second.report_status_change(RecordingReporter(), RUNNING)
    assert len(calls) == 1
    assert storage._watch is not None
    storage._watch._resume_at = 0.0
    second.report_status_change(RecordingReporter(), DONE, propagate=False)
    assert len(calls) == 2
    assert storage.records.outbox.status().due == 1


@pytest.mark.parametrize(
    ("kwargs", "mend"),
    [
        ({"storage": "tests.watch.memory.MemoryStorage", "url": "sqlite://"}, "outbox_url sets the database beside it"),
        (
            {"storage": SqlPipelineStorage("sqlite://"), "outbox_url": "sqlite://"},
            "outbox_url: a SqlPipelineStorage has",
        ),
        ({"outbox_url": "sqlite://"}, "outbox_url: a SqlPipelineStorage has"),
        ({"storage": object()}, "storage: object does not extend "),
        ({"storage": "sqlite:///x.db"}, "storage: this is the URL of a database; use url="),
        ({"storage": ("tests.watch.memory.MemoryStorage", {"nope": 1})}, "does not take these arguments"),
        ({"storage": "otel_storage.OtelPipelineStorage"}, "an OtelPipelineStorage is not wrapped again"),
        ({"storage": MemoryStorage(), "outbox_url": "nonsense"}, "outbox_url: url is not a database URL"),
    ],
    ids=["url", "outbox of ours", "outbox alone", "no storage", "a url", "arguments", "itself", "no address"],
)
def test_arguments_that_do_not_fit(kwargs: dict[str, Any], mend: str) -> None:
    """The error says which argument is wrong and what to do."""
    with pytest.raises(ConfigurationError) as caught:
        OtelPipelineStorage(delivery="external", **kwargs)

    assert mend in str(caught.value)
    assert not any(hooks.is_hooked(cls) for cls in CLASSES)


def test_by_path_and_arguments(open_storage: Open) -> None:
    """The wrapped storage is given as the setting gives one: a path, or a path and keyword arguments."""
    specs: list[Any] = ["tests.watch.memory.MemoryStorage", ("tests.watch.memory.MemoryStorage", {})]
    for spec in specs:
        storage = open_storage(spec)
        assert isinstance(storage.storage, MemoryStorage)
        assert storage.get_pipeline_execution(build(storage).get_run_id()) is not None


def test_a_start_that_was_not_told(open_storage: Open, exporter: InMemorySpanExporter) -> None:
    """Where RUNNING did not reach the copies, the final report tells the start with it: the span has its length."""
    storage = open_storage()
    execution = build(storage, Task("extract"))
    [result] = task_results(execution)
    assert storage._watch is not None
    storage._watch._resume_at = float("inf")
    result.report_status_change(RecordingReporter(), RUNNING)
    storage._watch._resume_at = 0.0
    result.report_status_change(RecordingReporter(), DONE, propagate=False)

    [span] = deliver(storage, exporter)

    started: Any = result.get_started()
    assert span.start_time == (started - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    assert span.attributes is not None
    assert "otel_storage.queue_time" in span.attributes


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_run_does_not_wait_for_a_lock(engine: str, request: pytest.FixtureRequest, open_storage: Open) -> None:
    """Rows of the copies that somebody else has locked cost a run the patience at most, and it goes on."""
    url = request.getfixturevalue(f"{engine}_url")
    with closing(SqlPipelineStorage(url)) as tables:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("otel_storage.composite.COPIES_PATIENCE", 1.0)
            storage = open_storage(outbox_url=url)
        execution = build(storage, Task("extract"))
        [result] = task_results(execution)
        locking = tables.database.engine.execution_options(isolation_level="READ COMMITTED")
        with locking.begin() as other:
            other.execute(select(schema.task_result.c.id).with_for_update())
            # Held until the block ends: without a limit the report would never return.
            result.report_status_change(RecordingReporter(), RUNNING, propagate=False)
            assert result.get_status() is RUNNING
    assert storage._watch is not None
    assert storage._watch._guarded.failures >= 1


@pytest.mark.parametrize("cleaned", [False, True])
def test_what_was_watched_is_counted(open_storage: Open, cleaned: bool) -> None:
    """The copies of runs are counted as our own runs are, also those that are removed before anybody counts."""
    storage = open_storage()
    for status in (DONE, RUNTIME_ERROR):
        execution = build(storage)
        for result in task_results(execution):
            result.report_status_change(RecordingReporter(), RUNNING)
            result.report_status_change(RecordingReporter(), status, propagate=False)
        execution.report_status_change(RecordingReporter(), status)
    build(storage, build_all=False)
    if cleaned:
        storage.cleanup()

    assert storage.records.totals.count()

    totals = storage.records.totals.read(as_shown=False).totals
    assert {(total.pipeline_task, total.status.value): total.count for total in totals if total.count} == {
        ("", "DONE"): 1,
        ("", "RUNTIME_ERROR"): 1,
        ("", "CONFIG_ERROR"): 1,
        ("extract", "DONE"): 1,
        ("extract", "RUNTIME_ERROR"): 1,
        ("load", "DONE"): 2,
        ("load", "RUNTIME_ERROR"): 2,
    }
