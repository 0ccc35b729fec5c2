"""Records become spans as the tables have it, the same each time, within the limits, and without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pydantic
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from otel_storage.ports.snapshots import Failure, RunSnapshot
from otel_storage.privacy.failures import capture_failure
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.telemetry.spans.building import record_context, run_spans, task_result_span
from otel_storage.telemetry.spans.messages import WITHHELD
from otel_storage.telemetry.spans.run_trace import RunTrace, SpanLink
from tests.telemetry import records
from tests.telemetry.records import RUN_ID, after, nanoseconds, run_trace, task_result, whole_run

CARD = "4111-1111-1111-1111"
DSN = "postgresql://ann:s3cr3t@db/shop"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """The span's attributes."""
    assert span.attributes is not None
    return dict(span.attributes)


def events(span: ReadableSpan) -> list[tuple[str, int, dict[str, Any]]]:
    """Name, time and attributes of each event."""
    return [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events]


def encoded(spans: Iterable[ReadableSpan]) -> bytes:
    """The bytes that are sent."""
    return bytes(encode_spans(list(spans)).SerializeToString(deterministic=True))


class TestTrace:
    """Ids, nesting, names and times."""

    def test_context(self) -> None:
        """A record's context is known from its ids alone, and tells what the sampler decided."""
        context = record_context(RUN_ID, "TaskResult", 1, True)
        assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (RUN_ID.replace("-", ""), "3c67b7767457a6d7")
        assert context.trace_flags.sampled
        assert not context.is_remote
        assert not record_context(RUN_ID, "TaskResult", 1, False).trace_flags.sampled

    def test_tree(self) -> None:
        """Each span's parent is that of the record's parent; the root, which has none, comes last."""
        spans = [task_result_span(task_result()), *run_spans(whole_run())]
        contexts = [
            record_context(RUN_ID, kind, id_, True)
            for kind, id_ in [
                ("TaskResult", 44),
                ("TaskExecution", 33),
                ("PipelineResult", 22),
                ("PipelineExecution", 11),
            ]
        ]
        assert [span.get_span_context() for span in spans] == contexts
        assert [span.parent for span in spans] == [*contexts[1:], None]

    def test_names_and_kinds(self) -> None:
        """Low-cardinality, and different at each level."""
        spans = [task_result_span(task_result()), *run_spans(whole_run())]
        assert [(span.name, span.kind) for span in spans] == [
            ("RESULT load", SpanKind.INTERNAL),
            ("load", SpanKind.INTERNAL),
            ("RESULT shop.Orders", SpanKind.INTERNAL),
            ("RUN shop.Orders", SpanKind.SERVER),
        ]

    def test_times_of_a_task_result(self) -> None:
        """From started to completed, exact to the microsecond."""
        span = task_result_span(task_result())
        assert (span.start_time, span.end_time) == (nanoseconds(1), nanoseconds(10))
        odd = datetime(2024, 5, 1, 12, 0, 0, 999_999, tzinfo=UTC)
        assert task_result_span(task_result(completed=odd)).end_time == nanoseconds(1)
        assert task_result_span(task_result(started=odd)).start_time == nanoseconds(0) + 999_998_000

    def test_never_started(self) -> None:
        """A task result that was cancelled before it started has a duration of 0, at the time of the report."""
        span = task_result_span(task_result(Status.CANCELLED, started=None, worker=None))
        assert span.start_time == span.end_time == nanoseconds(10)
        assert "otel_storage.queue_time" not in attributes(span)
        assert "otel_storage.worker.host" not in attributes(span)

    def test_clocks_that_disagree(self) -> None:
        """No span ends before it starts, or before 1970."""
        span = task_result_span(task_result(started=after(10), completed=after(5)))
        assert span.start_time == span.end_time == nanoseconds(10)
        early = datetime(1960, 1, 1, tzinfo=UTC)
        assert task_result_span(task_result(started=early, completed=early)).end_time == 0

    def test_times_of_parents(self) -> None:
        """Parents have the times stored when the run settled, which contain the children's."""
        spans = list(run_spans(whole_run()))
        assert [(span.start_time, span.end_time) for span in spans] == [
            (nanoseconds(2), nanoseconds(18)),
            (nanoseconds(1), nanoseconds(19)),
            (nanoseconds(1), nanoseconds(20)),
        ]

    def test_link(self) -> None:
        """The root links to the span that was current when the run was built."""
        trace = run_trace(link=SpanLink(trace_id=5, span_id=6, trace_flags=1))
        *children, root = run_spans(whole_run(trace=trace))
        assert not any(span.links for span in children)
        [link] = root.links
        assert (link.context.trace_id, link.context.span_id, link.context.is_remote) == (5, 6, True)
        assert link.context.trace_flags.sampled

    def test_resource_is_any_resource(self) -> None:
        """The resource equals one from the SDK's own tracers, so that grouping by resource puts both together."""
        resource = task_result_span(task_result()).resource
        theirs = Resource(resource.attributes)
        assert hash(resource) == hash(theirs)
        assert {resource: "ours"}[theirs] == "ours"
        assert hash(resource) != hash(theirs.merge(Resource({"service.name": "another"})))

    def test_scope_is_any_scope(self) -> None:
        """So it does the spans of the SDK's own tracers with the same scope."""
        scope = task_result_span(task_result()).instrumentation_scope
        assert scope is not None
        theirs = InstrumentationScope(scope.name, scope.version)
        assert hash(scope) == hash(theirs)
        assert {scope: "ours"}[theirs] == {theirs: "theirs", scope: "ours"}[theirs] == "ours"
        assert hash(scope) != hash(InstrumentationScope(scope.name, "another"))

    def test_resource_and_scope(self) -> None:
        """What was decided at build, whatever the order it was kept in."""
        for resource in (records.RESOURCE, dict(reversed(records.RESOURCE.items()))):
            span = task_result_span(task_result(trace=run_trace(resource=resource)))
            assert list(span.resource.attributes.items()) == sorted(records.RESOURCE.items())
            assert span.instrumentation_scope is not None
            assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == ("otel_storage", "1.2.3")


class TestAttributes:
    """The tables of names and statuses."""

    def test_all_of_each_level(self) -> None:
        """Nothing is missing, and nothing leaves that was not asked for: no input data, config or generic objects."""
        task_result_, task, result, root = map(
            attributes, [task_result_span(task_result()), *run_spans(whole_run(trace=run_trace(url="https://shop/1")))]
        )
        run = {"cicd.pipeline.name": "shop.Orders", "cicd.pipeline.run.id": RUN_ID}
        state = {
            "otel_storage.status": "DONE",
            "otel_storage.queue_time": 1.0,
            "otel_storage.worker.host": "worker-1",
            "otel_storage.worker.pid": 4711,
            "otel_storage.runner": "pipelines.runners.eager.Runner",
        }
        region = {
            "otel_storage.pipeline_object.app_label": "shop",
            "otel_storage.pipeline_object.model_name": "region",
            "otel_storage.pipeline_object.pk": "7",
        }
        assert root == {
            **run,
            **state,
            "cicd.pipeline.action.name": "RUN",
            "cicd.pipeline.result": "success",
            "cicd.pipeline.run.url.full": "https://shop/1",
            "otel_storage.record.kind": "PipelineExecution",
            "otel_storage.record.id": 11,
        }
        assert result == {
            **run,
            **state,
            **region,
            "otel_storage.record.kind": "PipelineResult",
            "otel_storage.record.id": 22,
        }
        assert task == {
            **run,
            **state,
            **region,
            "cicd.pipeline.task.name": "load",
            "cicd.pipeline.task.run.id": "33",
            "cicd.pipeline.task.run.result": "success",
            "otel_storage.record.kind": "TaskExecution",
            "otel_storage.record.id": 33,
            "otel_storage.task.id": "shop.Load",
        }
        assert task_result_ == {
            **run,
            **state,
            **region,
            "cicd.pipeline.task.name": "load",
            "otel_storage.record.kind": "TaskResult",
            "otel_storage.record.id": 44,
            "otel_storage.task.id": "shop.Load",
        }

    @pytest.mark.parametrize(
        ("status", "result", "code", "error_type"),
        [
            (Status.DONE, "success", StatusCode.UNSET, None),
            (Status.RUNTIME_ERROR, "failure", StatusCode.ERROR, "RUNTIME_ERROR"),
            (Status.VALIDATION_ERROR, "failure", StatusCode.ERROR, "VALIDATION_ERROR"),
            (Status.CONFIG_ERROR, "failure", StatusCode.ERROR, "CONFIG_ERROR"),
            (Status.CANCELLED, "cancellation", StatusCode.UNSET, None),
        ],
    )
    def test_result_and_status(self, status: Status, result: str, code: StatusCode, error_type: str | None) -> None:
        """Every final status, on every level."""
        task, pipeline_result, root = run_spans(whole_run(status))
        assert attributes(root)["cicd.pipeline.result"] == result
        assert attributes(task)["cicd.pipeline.task.run.result"] == result
        for span in (task, pipeline_result, root, task_result_span(task_result(status))):
            assert (span.status.status_code, span.status.description) == (code, None)
            assert attributes(span).get("error.type") == error_type
            assert attributes(span)["otel_storage.status"] == status.value

    def test_error_type_is_the_exceptions_class_on_the_task_result(self) -> None:
        """Its parents know the status alone."""
        span = task_result_span(task_result(Status.RUNTIME_ERROR, failure=records.failure()))
        assert attributes(span)["error.type"] == "shop.Broken"

    @pytest.mark.parametrize(
        ("message", "result"),
        [
            ("SoftTimeLimitExceeded()", "timeout"),
            ("TimeLimitExceeded(300,)", "timeout"),
            ("no TimeLimitExceeded(300,)", "failure"),
        ],
    )
    def test_celerys_time_limits_are_timeouts(self, message: str, result: str) -> None:
        """The message, which is all that parents have of the exception, is how billiard prints it."""
        *_, root = run_spans(whole_run(Status.RUNTIME_ERROR, completed_message=message))
        assert attributes(root)["cicd.pipeline.result"] == result

    def test_an_outcome_that_was_derived(self) -> None:
        """The eager runner leaves task executions RUNNING: the result is that of its results, the status stays raw."""
        task, *_ = run_spans(whole_run(Status.RUNNING, outcome=Status.RUNTIME_ERROR, completed=None))
        assert attributes(task)["cicd.pipeline.task.run.result"] == "failure"
        assert attributes(task)["error.type"] == "RUNTIME_ERROR"
        assert attributes(task)["otel_storage.status"] == "RUNNING"
        assert task.status.status_code is StatusCode.ERROR

    def test_no_outcome(self) -> None:
        """A parent that ended without one has no result, and no error."""
        for span in run_spans(whole_run(Status.RUNNING, outcome=None, completed=None)):
            assert span.status.status_code is StatusCode.UNSET
            assert not {"cicd.pipeline.result", "cicd.pipeline.task.run.result", "error.type"} & attributes(span).keys()

    def test_capture(self) -> None:
        """What is captured leaves as JSON; a model object's other fields do not."""
        trace = run_trace(capture=("config", "input_data", "objects"))
        span = task_result_span(task_result(trace=trace))
        assert attributes(span)["otel_storage.task_object.json"] == '{"obj": "order 5"}'
        assert "otel_storage.pipeline_object.json" not in attributes(span)
        task, _, root = run_spans(whole_run(trace=trace))
        assert attributes(task)["otel_storage.config"] == '{"chunk": 5}'
        assert attributes(root)["otel_storage.input_data"] == '{"day": "monday"}'

    def test_a_run_without_results_has_no_runner(self) -> None:
        """A badly configured pipeline has its execution alone."""
        bad = records.execution(Status.CONFIG_ERROR, started=None, completed_message="Pipeline is badly configured")
        [root] = run_spans(RunSnapshot(execution=bad, pipeline_results=(), task_executions=()))
        assert "otel_storage.runner" not in attributes(root)
        assert root.status.description == "Pipeline is badly configured"
        assert root.parent is None


class TestEvents:
    """Messages and the exception."""

    def test_status_messages(self) -> None:
        """There is one event for each message, at its time."""
        span = task_result_span(task_result(started_message="Running", completed_message="Done"))
        assert events(span) == [
            (
                "otel_storage.status",
                nanoseconds(1),
                {"otel_storage.status": "RUNNING", "otel_storage.message": "Running"},
            ),
            (
                "otel_storage.status",
                nanoseconds(10),
                {"otel_storage.status": "DONE", "otel_storage.message": "Done"},
            ),
        ]
        assert events(task_result_span(task_result())) == []

    def test_exception(self) -> None:
        """Type, message and stack trace, and the message is the span's description."""
        failed = task_result(Status.RUNTIME_ERROR, completed_message="boom", failure=records.failure())
        span = task_result_span(failed)
        assert events(span)[0] == (
            "exception",
            nanoseconds(10),
            {
                "exception.type": "shop.Broken",
                "exception.message": "boom",
                "exception.stacktrace": records.failure().stacktrace,
            },
        )
        assert [event.name for event in span.events] == ["exception", "otel_storage.status"]
        assert span.status.description == "boom"

    def test_parents_have_no_exception(self) -> None:
        """The message reaches them by propagation, the exception does not."""
        for span in run_spans(whole_run(Status.RUNTIME_ERROR, completed_message="boom")):
            assert [event.name for event in span.events] == ["otel_storage.status"]
            assert span.status.description == "boom"


class TestBytes:
    """A span is the same whoever makes it, and within the limits."""

    def test_same_snapshot_same_bytes(self) -> None:
        """Also where the database gives JSON back in another order."""
        trace = run_trace(capture=("input_data", "messages"), link=SpanLink(trace_id=1, span_id=2, trace_flags=1))
        stored = trace.as_json()
        reordered = json.loads(json.dumps(dict(reversed(stored.items()))))
        reordered["resource"] = dict(reversed(stored["resource"].items()))

        def spans(stored: dict[str, Any], data: dict[str, int]) -> bytes:
            root = records.execution(Status.RUNTIME_ERROR, RunTrace.from_json(stored), input_data=data)
            result = records.pipeline_result(Status.RUNTIME_ERROR, root)
            task = records.task_execution(Status.RUNTIME_ERROR, result)
            run = RunSnapshot(execution=root, pipeline_results=(result,), task_executions=(task,))
            child = task_result(Status.RUNTIME_ERROR, task, failure=records.failure(), completed_message="boom")
            return encoded([task_result_span(child), *run_spans(run)])

        assert spans(stored, {"a": 1, "b": 2}) == spans(reordered, {"b": 2, "a": 1})

    def test_values_are_cut_in_bytes(self) -> None:
        """Attributes, those of events, description and name: in UTF-8, and a stack trace keeps its end."""
        long = "é" * 5000
        failed = task_result(
            Status.RUNTIME_ERROR,
            records.task_execution(pipeline_task=long, task_id=long),
            completed_message=long,
            failure=records.failure(long, stack=f"Traceback\n{long}\nthe end"),
        )
        span = task_result_span(failed)
        values = [*attributes(span).values(), *(value for *_, event in events(span) for value in event.values())]
        for value in [*values, span.name, span.status.description]:
            assert not isinstance(value, str) or len(value.encode()) <= 2000
        assert events(span)[0][2]["exception.stacktrace"].endswith("\nthe end")
        assert span.status.description == "é" * 998 + "…"

    def test_shorter_values(self) -> None:
        """The operator's limit applies where it is lower, and nothing fails at 0."""
        for limit in (10, 1, 0):
            failed = task_result(
                Status.RUNTIME_ERROR,
                trace=records.limits(value_bytes=limit),
                completed_message="boom " * 5,
                failure=records.failure(),
            )
            span = task_result_span(failed)
            values = [*attributes(span).values(), *(value for *_, event in events(span) for value in event.values())]
            assert all(len(value.encode()) <= limit for value in values if isinstance(value, str))
            encoded([span])

    def test_fewer_attributes(self) -> None:
        """What matters most is kept, in its order, and the span tells how many there were more."""
        whole = attributes(task_result_span(task_result()))
        span = task_result_span(
            task_result(trace=records.limits(attributes=4, event_attributes=1), started_message="x")
        )
        assert list(attributes(span)) == list(whole)[:4]
        assert list(whole)[:2] == ["cicd.pipeline.name", "cicd.pipeline.run.id"]
        assert span.dropped_attributes == len(whole) - 4
        assert [list(event[2]) for event in events(span)] == [["otel_storage.status"]]
        assert span.events[0].dropped_attributes == 1
        sent = encode_spans([span]).resource_spans[0].scope_spans[0].spans[0]
        assert (sent.dropped_attributes_count, sent.events[0].dropped_attributes_count) == (len(whole) - 4, 1)
        assert attributes(task_result_span(task_result(trace=records.limits(attributes=0)))) == {}
        assert len(attributes(task_result_span(task_result(trace=records.limits(attributes=None))))) == len(whole)

    def test_text_that_is_no_utf8(self) -> None:
        """A lone surrogate, which protobuf refuses, does not keep a span from being sent."""
        odd = task_result(
            Status.RUNTIME_ERROR,
            records.task_execution(pipeline_task="a\udcff"),
            completed_message="file \udcff",
            failure=records.failure("file \udcff"),
        )
        assert encoded([task_result_span(odd)])

    def test_ten_megabytes(self) -> None:
        """A message of any size is a span of its size at most."""
        huge = "password=s3cr3t " * 650_000
        failed = task_result(Status.RUNTIME_ERROR, completed_message=huge, failure=records.failure(huge))
        data = encoded([task_result_span(failed)])
        assert len(data) < 20_000
        assert b"s3cr3t" not in data


class Payment(pydantic.BaseModel):
    """Refuses text."""

    card: int


class InputValidationError(Exception):
    """As the host raises it, with pydantic's JSON for a message."""


def refused(form: str) -> tuple[str, Failure]:
    """The message and the exception of a task whose input is refused."""
    message, failure = "", None
    try:
        try:
            Payment(card=CARD)  # type: ignore[arg-type]
        except pydantic.ValidationError as error:
            raise InputValidationError(error.json() if form == "json" else str(error)) from error
    except InputValidationError as error:
        message, failure = str(error), capture_failure(str(error))
    assert failure is not None
    return message, failure


class TestSecrets:
    """What was seeded is found in no byte that leaves."""

    def spans(self, status: Status, message: str, failure: Failure | None, **changes: Any) -> list[ReadableSpan]:
        """A failed task result's span and those above it."""
        child = task_result(status, completed_message=message, failure=failure, trace=changes.get("trace"))
        return [task_result_span(child), *run_spans(whole_run(status, completed_message=message, **changes))]

    def test_password_in_a_dsn(self) -> None:
        """In the message, in the stack trace's text and in a line of its source."""
        try:
            raise ConnectionError("cannot connect to postgresql://ann:s3cr3t@db/shop")
        except ConnectionError as error:
            message, failure = str(error), capture_failure(str(error))
        assert failure is not None
        assert failure.stacktrace.count("s3cr3t") == 2
        data = encoded(self.spans(Status.RUNTIME_ERROR, message, failure))
        assert b"s3cr3t" not in data
        assert b"cannot connect to postgresql://ann:***@db/shop" in data

    @pytest.mark.parametrize("status", [Status.RUNTIME_ERROR, Status.VALIDATION_ERROR, Status.CONFIG_ERROR])
    @pytest.mark.parametrize("form", ["json", "plain"])
    def test_card_number_in_a_validation_error(self, status: Status, form: str) -> None:
        """On every level: where and what kind the error is leaves, the input does not."""
        message, failure = refused(form)
        assert CARD in message or "input" not in message
        data = encoded(self.spans(status, message, failure))
        assert b"4111" not in data
        assert data.count(b"card: ") >= 9

    def test_validation_messages_in_words_are_withheld(self) -> None:
        """A message of a validation error that cannot be read as pydantic's may be all input."""
        message = "Ann's order is late"
        try:
            try:
                raise ValueError("no digits in Ann")
            except ValueError as error:
                raise InputValidationError(message) from error
        except InputValidationError as error:
            failure = capture_failure(str(error))
        spans = self.spans(Status.VALIDATION_ERROR, message, failure)
        data = encoded(spans)
        assert b"Ann's" not in data
        assert [span.status.description for span in spans] == [WITHHELD] * 4
        stack = events(spans[0])[0][2]["exception.stacktrace"]
        assert "ValueError: message withheld" in stack
        assert "InputValidationError: message withheld" in stack
        assert stack.count("Traceback (most recent call last):\n  File ") == 2
        assert b"Ann's order is late" in encoded(
            self.spans(Status.VALIDATION_ERROR, message, failure, trace=run_trace(capture=("messages",)))
        )

    def test_lines_of_a_withheld_message_are_not_left_in_the_stack(self) -> None:
        """Only lines that the traceback module writes of itself stay."""
        message = "first\n    second\nthird: x\n\n  fourth"
        grouped = ExceptionGroup("both", [ValueError("fifth\nsixth"), KeyError("seventh")])
        try:
            raise InputValidationError(message) from grouped
        except InputValidationError as error:
            failure = capture_failure(str(error))
        assert failure is not None
        span = task_result_span(task_result(Status.VALIDATION_ERROR, completed_message=message, failure=failure))
        stack = events(span)[0][2]["exception.stacktrace"]
        for word in ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "both"):
            assert word in failure.stacktrace
            assert word not in stack
        assert stack.count(WITHHELD) == 1

    @pytest.mark.parametrize(
        "message",
        [
            "Input data was provided when no input type was specified",
            "One or more of the parent ids are not in the pipeline",
        ],
    )
    def test_the_hosts_own_messages_leave(self, message: str) -> None:
        """The host's own messages contain no input."""
        for status in (Status.VALIDATION_ERROR, Status.CONFIG_ERROR):
            *_, root = run_spans(whole_run(status, completed_message=message))
            assert root.status.description == message

    def test_captured_messages_are_scrubbed_nonetheless(self) -> None:
        """Capture lets the words out, not the secrets."""
        message, failure = refused("json")
        trace = run_trace(capture=("messages",))
        data = encoded(self.spans(Status.VALIDATION_ERROR, message, failure, trace=trace))
        assert b"4111" not in data
        assert b"valid integer" in data

    def test_token_in_input_data_config_and_objects(self) -> None:
        """Input data, config and objects do not leave; if they are captured, secrets in them are masked."""
        secrets = {"api_token": "s3cr3t", "urls": [DSN], "card": CARD}
        for names in ((), ("config", "input_data", "objects")):
            root = records.execution(trace=run_trace(capture=names), input_data=secrets)
            result = records.pipeline_result(of=root, pipeline_object={"obj": secrets})
            task = records.task_execution(of=result, config=secrets)
            child = task_result(of=task, task_object=secrets)
            run = RunSnapshot(execution=root, pipeline_results=(result,), task_executions=(task,))
            data = encoded([task_result_span(child), *run_spans(run)])
            assert b"s3cr3t" not in data
            assert b"4111" not in data
            assert (b"api_token" in data) == bool(names)

    def test_started_messages_are_scrubbed(self) -> None:
        """A message of any status may hold a secret."""
        span = task_result_span(task_result(started_message=f"using {DSN}", completed_message=f"{DSN} and {CARD}"))
        assert b"s3cr3t" not in encoded([span])
        assert b"4111" not in encoded([span])
