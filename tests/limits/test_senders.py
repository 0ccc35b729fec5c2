"""Senders side by side on one outbox: paused, cut off, through long outages, and beside spans that are never taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sqlalchemy import select

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results import clock as clocks
from otel_storage.sql.database import schema
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.receiver import Answer, Exchange, OtlpReceiver, ReceivedSpan, RefuseSpan, Respond, Slow
from tests.limits import runs
from tests.limits.filling import fill

KIND = "otel_storage.record.kind"
ID = "otel_storage.record.id"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[OtlpReceiver]:
    """A receiver that the standard variables point to."""
    del clean_environment
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


def start_sender(url: str, lease: float = 60) -> subprocess.Popen[str]:
    """A sender in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.limits.sending", url, str(lease)],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )


def images(receiver: OtlpReceiver) -> set[int]:
    """How many different forms each span arrived in."""
    return {len({span.raw for span in copies}) for copies in receiver.spans_by_id.values()}


@pytest.mark.slow
def test_a_paused_sender_removes_nothing_of_anothers(database_url: str, receiver: OtlpReceiver) -> None:
    """Stopped in the middle of a request until its lease is over, it goes on: what another holds by now stays."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        fill(storage, 600)
        receiver.misbehave(Slow(0.5), times=1)
        with start_sender(database_url, lease=1) as process:
            try:
                assert receiver.wait_for(lambda receiver: len(receiver.requests) > 0, timeout=30)
                process.send_signal(signal.SIGSTOP)
                time.sleep(1.5)
                claims = storage.outbox.claim_task_results(1000, timedelta(minutes=5))
                process.send_signal(signal.SIGCONT)
                output, _ = process.communicate(timeout=30)
            finally:
                process.kill()
        told = json.loads(output)
        ids = [claim.reference_id for claim in claims.claims]
        assert len(ids) == 594
        assert storage.outbox.settle(claims.token, ids) == 594
    assert told["error"] == ""
    # The slow sender's first request was accepted, but other senders held its references by then, so it made no other
    # request.
    assert (told["sent"], told["settled"]) == (16, 0)
    assert len(receiver.spans) == 16


def test_what_another_has_taken_over_is_not_sent(database_url: str, receiver: OtlpReceiver) -> None:
    """A sender that was too slow sends the part of its claim that it still has, and that alone."""
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    with closing(OtelPipelineStorage(url=database_url, clock=clock, delivery="external")) as storage:
        runs.run(storage, objects=range(10))
        taken: list[int] = []

        def take_over_and_refuse(exchange: Exchange) -> bool:
            if taken:
                return False
            clock.advance(61)
            claims = storage.records.outbox.claim_task_results(4, timedelta(minutes=5))
            taken.extend(claim.snapshot.id for claim in claims.claims)  # type: ignore[union-attr]  # of task results
            return exchange.settle(Answer.error(400, "send less"))

        receiver.misbehave(take_over_and_refuse)
        assert storage.delivery.deliver_due().error == ""
        assert len(taken) == 4
        arrived = [int(str(span.attributes[ID])) for span in receiver.spans if span.attributes[KIND] == "TaskResult"]
        assert sorted([*arrived, *taken]) == list(range(1, 11))
        status = storage.records.outbox.status()
        assert (status.leased, status.refused) == (4, 0)


@pytest.mark.slow
@pytest.mark.smoke
def test_processes_and_threads_drain_one_outbox(database_url: str, receiver: OtlpReceiver) -> None:
    """Two processes and three threads send one backlog: every span once."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        spans = fill(storage, 6000)
        expected = runs.expected(storage)
    errors: list[str] = []

    def drain(sender: OtelPipelineStorage) -> None:
        errors.append(sender.delivery.deliver_due().error)

    with ExitStack() as stack:
        processes = [stack.enter_context(start_sender(database_url)) for _ in range(2)]
        senders = [
            stack.enter_context(closing(OtelPipelineStorage(url=database_url, delivery="external"))) for _ in range(3)
        ]
        threads = [threading.Thread(target=drain, args=(sender,)) for sender in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [process.wait(60) for process in processes] == [0, 0]
        # A sender that finds all task results leased may leave before the runs settle, so send again.
        for _ in range(20):
            assert senders[0].delivery.deliver_due().error == ""
            time.sleep(0.05)
    assert errors == [""] * 3
    assert runs.received(receiver.spans) == expected
    assert len(receiver.spans) == spans


@pytest.mark.slow
def test_an_hour_of_outage(database_url: str, receiver: OtlpReceiver) -> None:
    """Two senders knock on a closed door for an hour: rarely, out of step, and all arrives a minute after its end."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC), tick=0.001)
    receiver.misbehave(Respond(503))
    with ExitStack() as stack:
        senders = [
            stack.enter_context(closing(OtelPipelineStorage(url=database_url, clock=clock, delivery="external")))
            for _ in range(2)
        ]
        end = clock() + timedelta(hours=1)
        rounds = 0
        while clock() < end:
            if rounds % 10 == 0:
                runs.run(senders[0], objects=range(5))
            for sender in senders:
                sender.delivery.deliver_due(retry_now=False)
            rounds += 1
            clock.advance(20)
        # Per round and sender: one failing request, and two probes of single spans.
        assert rounds < len(receiver.requests) <= 3 * 2 * rounds
        with senders[0].records.database.read() as connection:
            found = connection.execute(select(schema.outbox.c.due, schema.outbox.c.attempts)).all()
        waiting = [row for row in found if row.attempts]
        assert len(waiting) > 50
        assert max(row.due for row in waiting) <= clock() + timedelta(minutes=1)
        assert len({row.due for row in waiting}) > 5

        receiver.behave()
        for _ in range(7):
            clock.advance(10)
            for sender in senders:
                assert sender.delivery.deliver_due(retry_now=False).error == ""
        assert runs.received(receiver.spans) == runs.expected(senders[0])
        status = senders[0].records.outbox.status()
        assert (status.waiting, status.held, status.expired, status.refused) == (0, 0, 0, 0)
    assert images(receiver) == {1}


def test_attempts_that_fail_together_are_not_made_together_again(sqlite_url: str, receiver: OtlpReceiver) -> None:
    """References that failed at one time, in several requests, are due at different times."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    receiver.misbehave(Respond(503))
    with closing(OtelPipelineStorage(url=sqlite_url, clock=clock, delivery="external")) as storage:
        runs.run(storage, objects=range(80))
        for _ in range(5):
            assert storage.delivery.deliver_due(retry_now=False).error
        with storage.records.database.read() as connection:
            due = connection.execute(select(schema.outbox.c.due).where(schema.outbox.c.attempts == 1)).scalars().all()
    assert len(due) == 80
    assert len(set(due)) == 5


@pytest.mark.slow
def test_spans_that_are_never_taken_hold_nobody_up(sqlite_url: str, receiver: OtlpReceiver) -> None:
    """Three of a hundred fail by themselves with a 500: the others arrive, and what comes later in a minute."""

    def is_bad(span: ReceivedSpan) -> bool:
        return span.attributes[KIND] == "TaskResult" and span.attributes[ID] in BAD

    receiver.misbehave(RefuseSpan(is_bad, 500))
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC), tick=0.001)
    with closing(OtelPipelineStorage(url=sqlite_url, clock=clock, delivery="external")) as storage:
        runs.run(storage, objects=range(100))
        for _ in range(12):
            storage.delivery.deliver_due(retry_now=False)
            clock.advance(10)
        arrived = {span.attributes[ID] for span in receiver.spans if span.attributes[KIND] == "TaskResult"}
        assert arrived == set(range(1, 101)) - BAD
        for _ in range(20):
            run_id = runs.run(storage)
            for _ in range(6):
                storage.delivery.deliver_due(retry_now=False)
                clock.advance(10)
            assert len([span for span in receiver.spans if span.trace_id == uuid.UUID(run_id).hex]) == runs.SPANS
        status = storage.records.outbox.status()
        assert (status.due + status.retrying, status.refused) == (len(BAD), 0)
        assert "500" in status.error


BAD = {1, 50, 51}


class Choosy(SpanExporter):
    """Takes a request without any of the spans that it never takes; says no more of another than that it failed."""

    def __init__(self, is_bad: Callable[[ReadableSpan], bool]) -> None:
        self.taken: set[int] = set()
        """The ids of the task results that it took."""
        self._is_bad = is_bad

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take all of them or none."""
        if any(self._is_bad(span) for span in spans):
            return SpanExportResult.FAILURE
        self.taken.update(result_id(span) for span in spans)
        return SpanExportResult.SUCCESS


def result_id(span: ReadableSpan) -> int:
    """The id of the task result that the span is of; 0 for another's."""
    attributes = span.attributes or {}
    return int(str(attributes[ID])) if attributes[KIND] == "TaskResult" else 0


@pytest.mark.slow
def test_the_others_of_a_backlog_arrive(sqlite_url: str) -> None:
    """Of a backlog of which each tenth span is never taken, all others are taken within twenty minutes."""
    clock = ManualClock(clocks.now())
    exporter = Choosy(lambda span: result_id(span) % 10 == 5)
    with closing(OtelPipelineStorage(url=sqlite_url, clock=clock, delivery="external", exporter=exporter)) as storage:
        fill(storage.records, 2000)
        results = {record.get_id() for record in storage.get_task_results()}
        began = clock()
        while clock() < began + timedelta(minutes=20):
            report = storage.delivery.deliver_due(retry_now=False)
            clock.advance(max(report.delay.total_seconds(), 1))
        assert {id_ for id_ in results if id_ % 10 != 5} == exporter.taken - {0}


@pytest.mark.slow
def test_hundreds_that_are_never_taken_hold_nobody_up(sqlite_url: str, receiver: OtlpReceiver) -> None:
    """However many fail by themselves, and come back, a run that is built meanwhile arrives within two minutes."""
    bad = 300

    def is_bad(span: ReceivedSpan) -> bool:
        return span.attributes[KIND] == "TaskResult" and int(str(span.attributes[ID])) <= bad

    receiver.misbehave(RefuseSpan(is_bad, 500))
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC), tick=0.001)
    with closing(OtelPipelineStorage(url=sqlite_url, clock=clock, delivery="external")) as storage:
        runs.run(storage, objects=range(bad))
        built: dict[str, datetime] = {}
        arrived: dict[str, datetime] = {}
        for _ in range(40):
            built[uuid.UUID(runs.run(storage)).hex] = clock()
            storage.delivery.deliver_due(retry_now=False)
            found = Counter(span.trace_id for span in receiver.spans)
            arrived |= {id_: clock() for id_ in built.keys() - arrived.keys() if found[id_] == runs.SPANS}
            clock.advance(10)
        late = timedelta(minutes=2)
        assert [id_ for id_ in built if arrived.get(id_, clock()) > built[id_] + late] == []
        status = storage.records.outbox.status()
        # Nor are they given up.
        assert (status.due + status.retrying >= bad, status.refused, status.expired) == (True, 0, 0)
        receiver.behave()
        clock.advance(901)
        for _ in range(4):
            storage.delivery.deliver_due(retry_now=False)
            clock.advance(61)
        assert runs.received(receiver.spans) == runs.expected(storage)
    assert images(receiver) == {1}
