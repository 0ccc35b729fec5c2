"""Delivery: the outbox of a real database, a clock driven by hand, and a receiver that misbehaves."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from otel_storage import (
    OtelPipelineStorage,
    PipelineExecution,
    PipelineStorageObject,
    PipelineTaskStatus,
    TaskResult,
)
from otel_storage.ports.outbox import OutboxStatus
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.spans import ids
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import (
    Answer,
    DropAcknowledgement,
    Exchange,
    OtlpReceiver,
    PartialSuccess,
    ReceivedSpan,
    RefuseSpan,
    Respond,
)

DONE = PipelineTaskStatus.DONE
RUNNING = PipelineTaskStatus.RUNNING
FAILED = PipelineTaskStatus.RUNTIME_ERROR
CANCELLED = PipelineTaskStatus.CANCELLED


@dataclass
class Bench:
    """A storage with telemetry that is delivered when the test says so."""

    storage: OtelPipelineStorage
    receiver: OtlpReceiver
    clock: ManualClock
    reporter: RecordingReporter

    def build(self, pipeline: Pipeline | None = None) -> PipelineExecution:
        """A new run, of one task with two results if not told otherwise."""
        pipeline = pipeline or Pipeline(Task("load", objects=["a", "b"]))
        return self.storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), self.reporter, {})

    def results(self, execution: PipelineExecution) -> list[TaskResult]:
        """The run's task results."""
        return list(self.storage.get_task_results(execution.get_run_id()))

    def report(self, record: Any, *statuses: PipelineTaskStatus, propagate: bool = True, message: str = "") -> None:
        """Report the statuses, a second apart."""
        for status in statuses:
            self.clock.advance(1)
            record.report_status_change(self.reporter, status, propagate=propagate, message=message)

    def finish(self, execution: PipelineExecution, status: PipelineTaskStatus = DONE) -> None:
        """Run what is left of the run, as the eager runner does."""
        for pipeline_result in execution.get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    self.report(task_result, RUNNING)
                    self.report(task_result, status, propagate=status is not DONE)
            self.report(pipeline_result, DONE, propagate=False)
        self.report(execution, DONE)

    def run(self, pipeline: Pipeline | None = None, status: PipelineTaskStatus = DONE) -> PipelineExecution:
        """A run, from its building to its end."""
        execution = self.build(pipeline)
        self.finish(execution, status)
        return execution

    def deliver(self) -> str:
        """Send what is due; why it stopped."""
        return self.storage.delivery.deliver_due().error

    @property
    def outbox(self) -> OutboxStatus:
        """The references in the outbox."""
        return self.storage.records.outbox.status()

    def names(self) -> list[str]:
        """The names of the spans that arrived, in order."""
        return [span.name for span in self.receiver.spans]

    def root(self, execution: PipelineExecution) -> ReceivedSpan:
        """The run's root, which must have arrived once."""
        [root] = [
            span
            for span in self.receiver.spans
            if span.trace_id == uuid.UUID(execution.get_run_id()).hex and not span.parent_span_id
        ]
        return root


class _Forgetful(RecordingReporter):
    """Keeps no record alive."""

    def report_context_object(
        self, context_object: PipelineStorageObject, status: PipelineTaskStatus, message: str
    ) -> None:
        """Forget it."""


def _die(*_: object) -> None:
    raise SystemExit


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[OtlpReceiver]:
    """A receiver that the standard variables point to."""
    del clean_environment
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


@pytest.fixture
def open_storage(database_url: str) -> Callable[..., OtelPipelineStorage]:
    """Opens storages on one database of this test's own."""

    def open_(clock: ManualClock, **kwargs: Any) -> OtelPipelineStorage:
        return OtelPipelineStorage(url=database_url, clock=clock, delivery="external", **kwargs)

    return open_


@pytest.fixture
def bench(open_storage: Callable[..., OtelPipelineStorage], receiver: OtlpReceiver) -> Iterator[Bench]:
    """A storage, a receiver and a clock."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    with closing(open_storage(clock)) as storage:
        yield Bench(storage, receiver, clock, RecordingReporter())


def test_children_are_sent_before_their_parents(bench: Bench) -> None:
    """Spans of task results go first, those of the three levels above last, and then nothing waits."""
    execution = bench.run()
    assert bench.deliver() == ""
    assert bench.names() == [
        "RESULT load",
        "RESULT load",
        "load",
        "RESULT tests.Orders",
        "RUN tests.Orders",
    ]
    assert bench.receiver.spans[0].trace_id == execution.get_trace_id()
    assert (bench.outbox.waiting, bench.outbox.held, bench.outbox.open) == (0, 0, 0)


def test_a_result_is_sent_while_its_run_goes_on(bench: Bench) -> None:
    """A final task result has a span at once; the run's own spans wait for its end."""
    execution = bench.build()
    bench.report(bench.results(execution)[0], RUNNING, DONE, propagate=False)
    assert bench.deliver() == ""
    assert bench.names() == ["RESULT load"]
    assert bench.outbox.open == 1
    bench.deliver()
    assert bench.names() == ["RESULT load"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_span_that_is_refused_for_good_is_set_aside_alone(bench: Bench, status: int) -> None:
    """The request is split until the bad span is found; all others arrive, the root too, and its error is kept."""
    bench.receiver.misbehave(RefuseSpan(lambda span: span.attributes["otel_storage.record.id"] == 2, status))
    bench.run(Pipeline(Task("load", objects=list(range(5)))))
    assert bench.deliver() == ""
    arrived = [span.attributes["otel_storage.record.id"] for span in bench.receiver.spans if "RESULT l" in span.name]
    assert sorted(arrived) == [1, 3, 4, 5]
    assert bench.outbox.refused == 1
    assert str(status) in bench.outbox.refusal
    assert "RUN tests.Orders" in bench.names()


def test_a_refusal_names_the_endpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored reason names the endpoint that refused the span, without its password."""
    address = bench.receiver.traces_endpoint
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", address.replace("://", "://user:hunter2@"))
    bench.receiver.misbehave(Respond(400))
    bench.run()
    bench.deliver()
    assert bench.outbox.refusal.startswith(f"{address.replace('://', '://***@')}: HTTP 400 ")


def test_a_partial_success_is_no_success(bench: Bench) -> None:
    """A 200 that rejects spans does not settle them: they are sent again without each other."""
    bench.receiver.misbehave(PartialSuccess(rejected=1, message="one too many"), times=1)
    bench.run()
    assert bench.deliver() == ""
    assert len({span.span_id for span in bench.receiver.spans}) == 5
    assert bench.outbox.refused == 0


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500, 503])
def test_a_failure_for_now_keeps_everything(bench: Bench, status: int) -> None:
    """Whatever else an endpoint answers, the spans wait, are tried again later, and arrive."""
    bench.receiver.misbehave(Respond(status))
    bench.run()
    assert str(status) in bench.deliver()
    assert bench.receiver.spans == []
    assert bench.outbox.retrying == 2
    assert str(status) in bench.outbox.error
    bench.receiver.behave()
    assert bench.deliver() == ""
    assert len(bench.receiver.spans) == 5


def test_a_lost_acknowledgement_sends_the_same_bytes_again(bench: Bench) -> None:
    """What the endpoint took without saying so is sent again, with the same ids and bytes."""
    bench.receiver.misbehave(DropAcknowledgement(), times=1)
    bench.run(status=FAILED)
    assert bench.deliver() != ""
    assert bench.deliver() == ""
    for spans in bench.receiver.spans_by_id.values():
        assert len({span.raw for span in spans}) == 1
    assert max(len(spans) for spans in bench.receiver.spans_by_id.values()) == 2


def test_attempts_back_off(bench: Bench) -> None:
    """After a failure a reference is due later, and not before."""
    bench.receiver.misbehave(Respond(503))
    bench.run()
    bench.deliver()
    claims = bench.storage.records.outbox.claim_task_results(10, timedelta(seconds=60))
    assert claims.claims == ()
    bench.clock.advance(3)
    claims = bench.storage.records.outbox.claim_task_results(10, timedelta(seconds=60))
    assert [claim.attempts for claim in claims.claims] == [1, 1]


def test_a_span_that_is_never_taken_does_not_block_the_rest(bench: Bench) -> None:
    """An endpoint that fails on one span with a 500 gets the others, once the span is suspected."""
    bench.receiver.misbehave(RefuseSpan(lambda span: span.attributes["otel_storage.record.id"] == 3, 500))
    bench.run(Pipeline(Task("load", objects=list(range(6)))))
    for _ in range(6):
        bench.deliver()
    arrived = {span.attributes["otel_storage.record.id"] for span in bench.receiver.spans}
    assert arrived == {1, 2, 4, 5, 6}
    assert bench.outbox.retrying == 1


def test_an_outage_costs_few_requests(bench: Bench) -> None:
    """However often it has failed, a round on an endpoint that is down makes three requests at most."""
    bench.receiver.misbehave(Respond(503))
    bench.run(Pipeline(Task("load", objects=list(range(50)))))
    for _ in range(7):
        before = len(bench.receiver.requests)
        assert "503" in bench.deliver()
        assert len(bench.receiver.requests) - before <= 3
    bench.receiver.behave()
    assert bench.deliver() == ""
    assert len(bench.receiver.spans) == 53


@pytest.mark.parametrize("seconds", [10**6, 10**15])
def test_an_endpoint_does_not_decide_for_days(bench: Bench, seconds: float) -> None:
    """A Retry-After of days is asked for in vain: the spans would be too old by then."""
    bench.receiver.misbehave(Respond(503, retry_after=seconds), times=1)
    bench.run()
    report = bench.storage.delivery.deliver_due()
    assert report.delay <= timedelta(minutes=15)
    bench.clock.advance(901)
    assert bench.storage.delivery.deliver_due(retry_now=False).error == ""
    assert bench.storage.delivery.deliver_due(retry_now=False).error == ""
    assert len(bench.receiver.spans) == 5


def test_roots_have_their_turn_under_a_steady_load(bench: Bench) -> None:
    """A round sends what was due when it began: a site that never rests has whole traces all the same."""
    bench.run()
    bench.clock.advance(1)

    def one_more(_: object) -> None:
        bench.run()

    for _ in range(3):
        bench.storage.delivery.deliver_due(one_more)
    assert bench.names().count("RUN tests.Orders") >= 2


def test_who_cannot_send_takes_nothing(
    bench: Bench, open_storage: Callable[..., OtelPipelineStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose exporter cannot be made claims nothing from one that can send."""
    bench.run()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "carrier:pigeon")
    with closing(open_storage(bench.clock)) as broken, pytest.raises(ConfigurationError, match="carrier:pigeon"):
        broken.delivery.deliver_due()
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    assert bench.storage.delivery.deliver_due().sent == 5


def test_flush_without_a_thread_waits_for_the_sender(bench: Bench) -> None:
    """With another process to send, ``flush`` is True only once that has; a failed attempt is no success."""
    bench.run()
    assert bench.storage.flush(0) is False
    bench.receiver.misbehave(Respond(503), times=1)
    bench.deliver()
    assert bench.storage.flush(0) is False
    bench.deliver()
    assert bench.storage.flush(0) is True


@pytest.mark.slow
def test_a_lost_answer_to_a_commit_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that commits and dies before it says so: the run is built once, and each change reported once."""
    database = bench.storage.records.database
    transact = database.policy.transact
    lost: list[int] = []

    def loses_every_other_answer(*args: Any, **kwargs: Any) -> Any:
        result = transact(*args, **kwargs)
        lost.append(1)
        if len(lost) % 2:
            raise DBAPIError(
                "COMMIT", None, ConnectionError("the server closed the connection"), connection_invalidated=True
            )
        return result

    monkeypatch.setattr(database.policy, "transact", loses_every_other_answer)
    execution = bench.run()
    monkeypatch.undo()
    reports = [(report.kind, report.id, report.status) for report in bench.reporter.reports]
    assert len(reports) == len(set(reports)) == 5 + 3 + 2 + 2 + 1 + 1
    assert execution.get_status() is DONE
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", bench.receiver.endpoint)
    assert bench.deliver() == ""
    assert {len(copies) for copies in bench.receiver.spans_by_id.values()} == {1}
    assert len(bench.receiver.spans) == 5


def test_a_dead_senders_references_become_free(bench: Bench) -> None:
    """References that a sender claimed and never settled are sent by another after the lease, and not before."""
    bench.run()
    outbox = bench.storage.records.outbox
    claims = outbox.claim_task_results(10, timedelta(seconds=60))
    assert len(claims.claims) == 2
    assert bench.outbox.leased == 2
    assert bench.deliver() == ""
    assert bench.names() == []
    bench.clock.advance(61)
    assert bench.deliver() == ""
    assert len(bench.names()) == 5


@pytest.mark.parametrize(("seconds", "renewals"), [(5, 0), (7, 1)])
def test_a_lease_is_renewed_once_some_of_it_is_over(bench: Bench, seconds: float, renewals: int) -> None:
    """A request has nine tenths of the lease at least, and not every request costs a transaction."""
    bench.run()
    outbox = bench.storage.records.outbox
    renewed: list[None] = []
    renew = outbox.renew

    def count(*args: Any) -> Any:
        renewed.append(None)
        return renew(*args)

    def slow(exchange: Exchange) -> bool:
        bench.clock.advance(seconds)
        return exchange.settle(Answer.error(400, "send less"))

    bench.receiver.misbehave(slow, times=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "renew", count)
        assert bench.deliver() == ""
    assert len(renewed) == renewals
    assert len(bench.names()) == 5


def test_only_the_holder_of_the_lease_settles(bench: Bench) -> None:
    """A sender that was too slow removes nothing that another has taken over."""
    bench.run()
    outbox = bench.storage.records.outbox
    slow = outbox.claim_task_results(10, timedelta(seconds=1))
    bench.clock.advance(2)
    quick = outbox.claim_task_results(10, timedelta(seconds=60))
    ids_ = [claim.reference_id for claim in slow.claims]
    assert ids_ == [claim.reference_id for claim in quick.claims]
    assert outbox.settle(slow.token, ids_) == 0
    assert outbox.renew(slow.token, ids_, timedelta(seconds=60)) == []
    assert outbox.settle(quick.token, ids_) == 2


def test_a_final_run_waits_for_a_running_task(bench: Bench) -> None:
    """A RUNNING task result holds its final run; what it ends with bounds the root."""
    execution = bench.build()
    first, second = bench.results(execution)
    bench.report(first, RUNNING)
    bench.report(second, RUNNING)
    bench.report(first, FAILED, message="broken")
    bench.clock.advance(60)
    bench.deliver()
    assert bench.names() == ["RESULT load"]
    assert bench.outbox.held == 1
    assert "1 task results are RUNNING" in bench.outbox.hold
    bench.report(second, DONE, propagate=False)
    end = bench.clock()
    bench.clock.advance(60)
    bench.deliver()
    root = bench.root(execution)
    assert root.end_time_unix_nano == int(end.timestamp()) * 10**9
    assert bench.receiver.spans[-1] == root


def test_a_zombie_holds_its_run_for_a_day(bench: Bench) -> None:
    """A task result that stays RUNNING is waited for until nothing has changed for ``settle_after``; it has no span."""
    execution = bench.build()
    first, second = bench.results(execution)
    bench.report(first, RUNNING)
    bench.report(second, RUNNING)
    bench.report(first, FAILED)
    bench.clock.advance(86_000)
    bench.deliver()
    assert bench.outbox.held == 1
    bench.clock.advance(1_000)
    bench.deliver()
    assert bench.names() == ["RESULT load", "load", "RESULT tests.Orders", "RUN tests.Orders"]
    bench.report(second, DONE, propagate=False)
    bench.deliver()
    assert bench.names()[-1] == "RESULT load"
    assert bench.root(execution).attributes["otel_storage.status"] == "RUNTIME_ERROR"


def test_never_started_records_have_no_span(bench: Bench) -> None:
    """A PENDING record after a failure delays the run until the run is quiet, and has no span."""
    execution = bench.build(Pipeline(Task("extract"), Task("load", objects=["a", "b"])))
    bench.report(bench.results(execution)[0], RUNNING, FAILED)
    bench.deliver()
    assert bench.names() == ["RESULT extract"]
    assert "2 task results are PENDING" in bench.outbox.hold
    bench.clock.advance(31)
    bench.deliver()
    assert bench.names() == ["RESULT extract", "extract", "RESULT tests.Orders", "RUN tests.Orders"]


def test_a_final_report_of_the_result_above_is_waited_for(bench: Bench) -> None:
    """Between its last task's report and its own a pipeline result of a failed run is not sent as RUNNING."""
    execution = bench.build(Pipeline(Task("load"), objects=["north", "south"]))
    north, south = bench.results(execution)
    bench.report(north, RUNNING, FAILED)
    bench.report(south, RUNNING)
    bench.report(south, DONE, propagate=False)
    bench.deliver()
    assert "1 pipeline results are RUNNING" in bench.outbox.hold
    bench.report(south.get_task_execution().get_pipeline_result(), DONE, propagate=False)
    bench.deliver()
    results = [span for span in bench.receiver.spans if span.name == "RESULT tests.Orders"]
    assert [span.attributes["otel_storage.status"] for span in results] == ["RUNTIME_ERROR", "DONE"]


def test_what_was_settled_does_not_change(bench: Bench) -> None:
    """A record that changes after the parents were first sent changes no byte of a later send."""
    execution = bench.build(Pipeline(Task("load"), objects=["north", "south"]))
    north, south = bench.results(execution)
    bench.report(north, RUNNING, FAILED)
    bench.report(south, RUNNING)
    bench.deliver()
    bench.clock.advance(90_000)
    bench.receiver.misbehave(DropAcknowledgement(), times=1)
    assert bench.deliver() != ""
    bench.report(south, DONE, propagate=False)
    bench.report(south.get_task_execution().get_pipeline_result(), DONE, propagate=False, message="at last")
    bench.receiver.behave()
    assert bench.deliver() == ""
    parents = [spans for spans in bench.receiver.spans_by_id.values() if "RESULT load" not in spans[0].name]
    assert {len(spans) for spans in parents} == {2}
    assert all(len({span.raw for span in spans}) == 1 for spans in parents)


def test_old_references_expire_loudly(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Spans that could not be delivered for a week expire, which is logged; a run's age counts from its end."""
    execution = bench.build()
    bench.clock.advance(8 * 86_400)
    bench.finish(execution)
    bench.receiver.misbehave(Respond(503))
    bench.deliver()
    assert bench.outbox.expired == 0
    bench.clock.advance(8 * 86_400)
    with caplog.at_level(logging.ERROR, "otel_storage"):
        report = bench.storage.delivery.deliver_due()
    assert report.expired == bench.outbox.expired == 3
    assert "3 references to unsent spans are older than 7 days" in caplog.text


@pytest.mark.parametrize(
    "environment",
    [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_SAMPLER": "always_off"}],
)
def test_without_telemetry_nothing_is_referenced(
    bench: Bench, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disabled or not sampled when it is built, a run leaves no reference and has no trace id, now or later."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    execution = bench.build()
    for name in environment:
        monkeypatch.delenv(name)
    bench.finish(execution)
    assert execution.get_status() is DONE
    assert execution.get_trace_id() is None
    assert (bench.outbox.due, bench.outbox.open) == (0, 0)


def test_cleanup_removes_references_and_says_so(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A removed run's references go with it, counted in the log."""
    bench.run()
    with caplog.at_level(logging.WARNING, "otel_storage"):
        bench.storage.cleanup()
    assert (bench.outbox.due, bench.outbox.open) == (0, 0)
    assert "3 references to unsent spans" in caplog.text


def test_a_users_span_is_under_its_task(bench: Bench) -> None:
    """From RUNNING to a final report the task result's context is the current one in its thread, and then no longer."""
    tracer = TracerProvider().get_tracer("user")
    first, second = bench.results(bench.build())
    bench.report(first, RUNNING)
    with tracer.start_as_current_span("work") as span:
        assert isinstance(span, ReadableSpan)
        assert span.parent is not None
        assert span.parent.span_id == ids.span_id("TaskResult", first.get_id())
        assert f"{span.get_span_context().trace_id:032x}" == first.get_trace_id()
    bench.report(first, DONE)
    assert not trace.get_current_span().get_span_context().is_valid

    bench.report(second, RUNNING)
    bench.report(second, RUNNING)
    assert trace.get_current_span().get_span_context().span_id == ids.span_id("TaskResult", second.get_id())
    bench.report(second, FAILED)
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_context_left_behind_is_dropped(bench: Bench) -> None:
    """A task that ended without a final report leaves its context to the next that is attached in the thread."""

    def leaves() -> None:
        task_result = bench.storage.get_task_result(1)
        assert task_result is not None
        bench.report(task_result, RUNNING)

    bench.build()
    bench.reporter = _Forgetful()
    leaves()
    second = bench.storage.get_task_result(2)
    assert second is not None
    bench.report(second, RUNNING)
    bench.report(second, DONE)
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_redelivered_task_has_its_context_too(bench: Bench) -> None:
    """RUNNING that does not advance still gives the user's code its task's context; so does no one else's end it."""
    bench.build()
    mine, other = bench.storage.get_task_result(1), bench.storage.get_task_result(1)
    assert mine is not None
    assert other is not None
    bench.report(other, RUNNING, DONE)
    bench.report(mine, RUNNING)
    assert trace.get_current_span().get_span_context().span_id == ids.span_id("TaskResult", 1)
    thread = threading.Thread(target=bench.report, args=(other, FAILED))
    thread.start()
    thread.join()
    assert trace.get_current_span().get_span_context().span_id == ids.span_id("TaskResult", 1)
    bench.report(mine, DONE)
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_request_and_the_run_link_to_each_other(bench: Bench) -> None:
    """The span in which a run is built links to its root, and the root to it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("web").start_as_current_span("POST /start"):
        execution = bench.build()
    bench.finish(execution)
    bench.deliver()
    [request] = exporter.get_finished_spans()
    root = bench.root(execution)
    [link] = request.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (root.trace_id, root.span_id)
    [back] = root.links
    assert request.context is not None
    assert (back.trace_id, back.span_id) == (f"{request.context.trace_id:032x}", f"{request.context.span_id:016x}")


def test_broken_telemetry_does_not_fail_a_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in telemetry is logged once per cause; the run is stored and reported as ever."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("telemetry is broken")

    monkeypatch.setattr("otel_storage.telemetry.spans.building.record_context", broken)
    monkeypatch.setattr("otel_storage.telemetry.spans.run_trace.decide", broken)
    execution = bench.run()
    monkeypatch.undo()
    assert execution.get_status() is DONE
    assert caplog.text.count("a run goes on without part of its telemetry") <= 2
    assert "telemetry is broken" in caplog.text


def test_an_exporter_of_the_users_own_is_used(open_storage: Callable[..., OtelPipelineStorage]) -> None:
    """Any SpanExporter will do."""
    exporter = InMemorySpanExporter()
    clock = ManualClock()
    with closing(open_storage(clock, exporter=exporter)) as storage:
        Bench(storage, OtlpReceiver(), clock, RecordingReporter()).run()
        assert storage.delivery.deliver_due().sent == 5
    assert [span.name for span in exporter.get_finished_spans()][-1] == "RUN tests.Orders"


def test_flush_by_the_thread(database_url: str, receiver: OtlpReceiver) -> None:
    """With a thread, ``flush`` waits until all that is due is acknowledged, and says so; a failure is no success."""
    with closing(OtelPipelineStorage(url=database_url)) as storage:
        bench = Bench(storage, receiver, ManualClock(), RecordingReporter())
        bench.run()
        assert storage.flush(20) is True
        assert len(receiver.spans) == 5
        receiver.misbehave(Respond(503))
        bench.run()
        assert storage.flush(0.2) is False
        receiver.behave()
        assert storage.flush(20) is True
        assert len(receiver.spans) == 10
        assert storage.delivery.sent == 10


class Waiting(InMemorySpanExporter):
    """Exports once it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait, and keep them."""
        self.has_begun.set()
        self.may_go_on.wait(60)
        return super().export(spans)


def test_a_thread_that_outlives_its_storage_leaves_nothing_open(database_url: str) -> None:
    """What it needs to settle what was sent, it opens again, and closes at its end."""
    exporter = Waiting()
    opened: list[Any] = []
    storage = OtelPipelineStorage(url=database_url, exporter=exporter)
    event.listen(storage.records.database.engine, "connect", lambda connection, _: opened.append(connection))
    bench = Bench(storage, OtlpReceiver(), ManualClock(), RecordingReporter())
    bench.run()
    assert exporter.has_begun.wait(60)
    thread = storage.delivery._thread
    assert thread is not None
    assert storage.delivery.close(0) is False
    storage.close()
    dbapi, before = storage.records.database.engine.dialect.loaded_dbapi, len(opened)
    del storage, bench

    exporter.may_go_on.set()
    thread.join(60)

    assert len(opened) > before
    for connection in opened:
        with pytest.raises(dbapi.Error):
            connection.cursor().execute("SELECT 1")


def test_a_lease_lasts_as_long_as_it_is_given(
    open_storage: Callable[..., OtelPipelineStorage], receiver: OtlpReceiver
) -> None:
    """References of a dead sender are free for others once the lease that its storage sets is over."""
    clock = ManualClock()
    with closing(open_storage(clock, lease=5)) as storage:
        bench = Bench(storage, receiver, clock, RecordingReporter())
        bench.run()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("otel_storage.telemetry.otlp.exporter.AcknowledgedExporter.export", _die)
            with pytest.raises(SystemExit):
                bench.deliver()
        clock.advance(5)
        bench.deliver()
        assert bench.names() == []
        clock.advance(0.001)
        bench.deliver()
        assert len(bench.names()) == 5


def test_a_thread_sends_what_an_earlier_process_left(database_url: str, receiver: OtlpReceiver) -> None:
    """A storage that is opened begins to send at once, without a run of its own."""
    with closing(OtelPipelineStorage(url=database_url, delivery="external")) as storage:
        Bench(storage, receiver, ManualClock(), RecordingReporter()).run()
    with closing(OtelPipelineStorage(url=database_url)):
        assert receiver.wait_for(5, timeout=20)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_sends_what_it_records(database_url: str, receiver: OtlpReceiver) -> None:
    """After a fork the child has connections, a thread and an exporter of its own; parent and child both go on."""
    with closing(OtelPipelineStorage(url=database_url)) as storage:
        bench = Bench(storage, receiver, ManualClock(), RecordingReporter())
        bench.run()
        assert storage.flush(20)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                bench.run()
                code = 0 if storage.flush(20) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        bench.run()
        assert storage.flush(20)
    assert len(receiver.spans_by_id) == 15


def test_bad_arguments_are_named() -> None:
    """Each argument that cannot be used is refused, by its name and with what would do."""
    open_storage: Any = OtelPipelineStorage
    cases: list[tuple[dict[str, Any], str]] = [
        ({"delivery": "later"}, "delivery"),
        ({"capture": ["inputs"]}, "capture"),
        ({"settle_quiet": -1}, "settle_quiet"),
        ({"settle_after": "long"}, "settle_after"),
        ({"max_age": float("nan")}, "max_age"),
        ({"storage": "nothing.at.All"}, "storage"),
        ({"exporter": "nothing.at.All"}, "exporter"),
        ({"max_age": 3600}, "max_age"),
        ({"lease": 0}, "lease"),
        ({"storage": "otel_storage.SqlPipelineStorage", "url": "sqlite://"}, "url"),
        ({"storage": object()}, "storage"),
    ]
    for kwargs, named in cases:
        with pytest.raises(ConfigurationError, match=named):
            open_storage(**{"delivery": "external", **kwargs})


def test_counting_holds_up_nobody(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The thread that sends counts what finished; that it cannot is said once, and spans are sent all the same."""

    class Failing:
        def count(self, *, seconds: float | None = None) -> bool:
            raise LookupError("no such table")

    with OtlpReceiver() as receiver:
        exporter = (
            "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter",
            {"endpoint": receiver.traces_endpoint},
        )
        with closing(OtelPipelineStorage(url=database_url, exporter=exporter)) as storage:
            storage.delivery._counting = Failing()
            for _ in range(2):
                bench = Bench(storage, receiver, ManualClock(), RecordingReporter())
                bench.run()
                assert storage.flush(20)
        assert (
            caplog.text.count("finished runs cannot be counted now, and will be later: LookupError: no such table") == 1
        )
        with closing(OtelPipelineStorage(url=database_url, exporter=exporter)) as storage:
            deadline = time.monotonic() + 20
            while not any(total.count for total in storage.records.totals.read(as_shown=False).totals):
                assert time.monotonic() < deadline
                time.sleep(0.05)
