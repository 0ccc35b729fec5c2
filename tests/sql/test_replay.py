"""References put back into the outbox: which, when they are due, and that none is there twice."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select, text, update

from otel_storage.composite import OtelPipelineStorage
from otel_storage.ports.outbox import Claim, Settling
from otel_storage.ports.snapshots import TaskResultSnapshot
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.database import schema
from otel_storage.sql.outbox import replay as replaying
from otel_storage.sql.outbox.replay import Replay, ReplayReport, Selection
from otel_storage.testing.clock import START, ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver
from tests.watch.memory import MemoryStorage

MINUTE = timedelta(minutes=1)
REFERENCES = 5
"""Of a run that is finished: one for each task result, and one for the records above them."""


@pytest.fixture
def clock() -> ManualClock:
    """The storage's clock."""
    return ManualClock()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A receiver that the environment names as the endpoint."""
    with OtlpReceiver() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.endpoint)
        yield started


@pytest.fixture
def storage(database_url: str, clock: ManualClock) -> Iterator[OtelPipelineStorage]:
    """A storage with telemetry that sends nothing by itself."""
    with closing(OtelPipelineStorage(url=database_url, delivery="external", clock=clock)) as storage:
        yield storage


def build(storage: OtelPipelineStorage, pipeline_id: str = "tests.Orders", objects: Any = "abc") -> Any:
    """A run of two tasks, the second with an object a letter."""
    pipeline = Pipeline(Task("extract"), Task("load", objects=objects), id=pipeline_id)
    return storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), RecordingReporter(), {})


def finish(storage: OtelPipelineStorage, execution: Any) -> Any:
    """Run all of it, as the eager runner does."""
    reporter = RecordingReporter()
    for result in storage.get_task_results(execution.get_run_id()):
        result.report_status_change(reporter, Status.RUNNING)
        result.report_status_change(reporter, Status.DONE, propagate=False)
    for pipeline_result in storage.get_pipeline_results(execution.get_run_id()):
        pipeline_result.report_status_change(reporter, Status.DONE, propagate=False)
    execution.report_status_change(reporter, Status.DONE)
    return execution


def replay(storage: OtelPipelineStorage, **options: Any) -> ReplayReport:
    """Replay the runs that the options select, all of them if none does."""
    given = {name: options.pop(name) for name in ("rate", "dry_run") if name in options}
    work = Replay(storage.records.database, storage.records.clock, Selection(**options), **given)
    for _ in work.run():
        pass
    return work.report


def references(storage: OtelPipelineStorage) -> list[Any]:
    """The references that are in the outbox, in the order in which they become due."""
    outbox = schema.outbox
    with storage.records.database.read() as connection:
        return list(connection.execute(select(outbox).order_by(outbox.c.due, outbox.c.id)))


def keys(storage: OtelPipelineStorage) -> Counter[tuple[str, int]]:
    """How many references there are of each record."""
    return Counter((row.kind, row.record_id) for row in references(storage))


def send(storage: OtelPipelineStorage) -> int:
    """Send all that waits; how many spans were accepted."""
    report = storage.delivery.deliver_due()
    assert report.error == ""
    return report.sent


def test_finished_runs_are_sent_again(storage: OtelPipelineStorage, receiver: OtlpReceiver) -> None:
    """Every span of a run that was sent is sent again, the parents' after their children's, the same to the byte."""
    finish(storage, build(storage))
    assert send(storage) == 8
    assert references(storage) == []

    report = replay(storage)

    assert (report.runs, report.written, report.revived, report.waiting) == (1, REFERENCES, 0, 0)
    assert send(storage) == 8
    sent = [span.raw for span in receiver.spans]
    assert sent[8:] == sent[:8]
    assert references(storage) == []


def test_what_changed_later_changes_no_span(database_url: str, clock: ManualClock, receiver: OtlpReceiver) -> None:
    """The parents of a run that settled before all was over are sent as they were then, and what ended later too."""
    with closing(
        OtelPipelineStorage(url=database_url, delivery="external", clock=clock, settle_quiet=1, settle_after=60)
    ) as storage:
        execution = build(storage)
        [first, second, *_] = storage.get_task_results(execution.get_run_id())
        reporter = RecordingReporter()
        first.report_status_change(reporter, Status.RUNNING)
        second.report_status_change(reporter, Status.RUNNING)
        first.report_status_change(reporter, Status.RUNTIME_ERROR, "out of order")
        clock.advance(3600)
        assert send(storage) == 5
        second.report_status_change(reporter, Status.DONE, propagate=False)
        assert send(storage) == 1
        before = {span.span_id: span.raw for span in receiver.spans}

        report = replay(storage)
        send(storage)

    assert report.written == 3
    assert len(receiver.spans) == 12
    assert {span.span_id: span.raw for span in receiver.spans[6:]} == before


def test_run_that_is_not_final(storage: OtelPipelineStorage, receiver: OtlpReceiver) -> None:
    """Of a run that goes on the task results that are final are replayed; its parents wait as they did."""
    execution = build(storage)
    [first, second, *_] = storage.get_task_results(execution.get_run_id())
    for result in (first, second):
        result.report_status_change(RecordingReporter(), Status.RUNNING)
    first.report_status_change(RecordingReporter(), Status.DONE, propagate=False)
    send(storage)

    report = replay(storage)

    assert (report.written, report.waiting) == (1, 0)
    assert keys(storage) == {("TaskResult", 1): 1, ("PipelineExecution", 1): 1}
    assert next(row.due for row in references(storage) if row.kind == "PipelineExecution") is None


def test_what_is_there_is_not_doubled(storage: OtelPipelineStorage) -> None:
    """References that wait, are held, or are in a sender's hands stay as they are, however often it is replayed."""
    finish(storage, build(storage))
    outbox = storage.records.outbox
    outbox.claim_task_results(2, MINUTE)
    outbox.claim_runs(1, MINUTE, Settling())
    before = references(storage)
    assert {row.state for row in before} == {"waiting", "held"}

    reports = [replay(storage), replay(storage)]

    assert [(report.written, report.revived, report.waiting) for report in reports] == [(0, 0, REFERENCES)] * 2
    assert references(storage) == before


def test_what_was_set_aside_waits_again(storage: OtelPipelineStorage, clock: ManualClock) -> None:
    """References that were refused or have expired are tried anew, as if they never had been."""
    finish(storage, build(storage))
    outbox = schema.outbox
    storage.records.outbox.expire(timedelta(0))
    clock.advance(1)
    assert storage.records.outbox.expire(timedelta(0)) == REFERENCES
    storage.records.database.write(
        lambda connection: connection.execute(
            update(outbox)
            .where(outbox.c.id.in_([row.id for row in references(storage)][:2]))
            .values(state="refused", error="400", attempts=3)
        )
    )

    report = replay(storage)

    assert (report.written, report.revived, report.waiting) == (0, REFERENCES, 0)
    status = storage.records.outbox.status()
    assert (status.waiting, status.refused, status.expired) == (REFERENCES, 0, 0)
    rows = references(storage)
    assert {(row.attempts, row.error, row.token) for row in rows} == {(0, None, None)}
    # The age of the references counts from now, so that they do not expire again at once.
    assert all(row.created == row.due >= clock() for row in rows)


def test_new_spans_go_first(storage: OtelPipelineStorage, clock: ManualClock) -> None:
    """What is replayed becomes due bit by bit, so that a span of now waits for none that is due later."""
    for _ in range(3):
        finish(storage, build(storage))
    storage.records.database.write(lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox")))

    report = replay(storage, rate=2)

    assert report.written == 3 * REFERENCES
    assert [(row.due - START).total_seconds() for row in references(storage)] == [n / 2 for n in range(1, 16)]
    assert report.due == START + timedelta(seconds=7.5)
    clock.advance(1)
    new = finish(storage, build(storage, objects=""))
    claimed = storage.records.outbox.claim_task_results(100, MINUTE)
    assert [_task_result_id(claim) for claim in claimed.claims] == [1, 2, 13]
    assert new.get_id() == 4


def _task_result_id(claim: Claim) -> int:
    assert isinstance(claim.snapshot, TaskResultSnapshot)
    return claim.snapshot.id


def test_all_at_once(storage: OtelPipelineStorage, clock: ManualClock) -> None:
    """At rate 0 all is due when the replay began."""
    finish(storage, build(storage))
    storage.records.database.write(lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox")))

    replay(storage, rate=0)

    assert {row.due for row in references(storage)} == {clock()}


def test_selection(storage: OtelPipelineStorage, clock: ManualClock) -> None:
    """Runs are selected by id, pipeline and time, and by all of these together."""
    for number in range(4):
        finish(storage, build(storage, f"tests.{number % 2}"))
        clock.advance(60)

    def selected(**options: Any) -> list[int]:
        storage.records.database.write(lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox")))
        count = Replay(storage.records.database, clock, Selection(**options)).count()
        report = replay(storage, **options)
        assert count == report.runs
        return sorted(row.record_id for row in references(storage) if row.kind == "PipelineExecution")

    assert selected() == [1, 2, 3, 4]
    assert selected(execution_ids=[2, 3]) == [2, 3]
    assert selected(pipeline_id="tests.1") == [2, 4]
    assert selected(since=START + MINUTE) == [2, 3, 4]
    assert selected(until=START + MINUTE) == [1]
    assert selected(since=START + MINUTE, until=START + 3 * MINUTE) == [2, 3]
    assert selected(since=START + MINUTE, pipeline_id="tests.0") == [3]
    assert selected(since=START + timedelta(days=1)) == []
    assert selected(after=2) == [3, 4]
    assert selected(after=3, until=START + MINUTE) == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 100])
def test_in_parts(chunk: int, storage: OtelPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is cut into transactions, every reference is written once, a few at a time, and none twice."""
    monkeypatch.setattr(replaying, "_CHUNK", chunk)
    monkeypatch.setattr(replaying, "_RUNS", 2)
    for objects in ("abcdefg", "", "ab", "abc", "a"):
        finish(storage, build(storage, objects=objects))
    expected = keys(storage)
    storage.records.database.write(
        lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox WHERE id > 4"))
    )

    work = Replay(storage.records.database, storage.records.clock, Selection())
    written = [0, *(report.written for report in work.run())]

    assert keys(storage) == expected
    assert work.report.waiting == 4
    # Beside the task results of a part there are their parents'.
    assert max(later - earlier for earlier, later in itertools.pairwise(written)) <= 2 * chunk + 1


def test_stopped_anywhere(storage: OtelPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay that is stopped after any transaction, and goes on from its cursor, has written all there is, once."""
    monkeypatch.setattr(replaying, "_CHUNK", 3)
    for objects in ("abcdefg", "ab", "a"):
        finish(storage, build(storage, objects=objects))
    expected = keys(storage)
    steps = 0
    while True:
        storage.records.database.write(lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox")))
        work = Replay(storage.records.database, storage.records.clock, Selection())
        reports = work.run()
        done = len([next(reports, None) for _ in range(steps)])
        replay(storage, after=work.report.cursor)
        assert keys(storage) == expected
        if next(reports, None) is None:
            break
        steps += 1
        assert done == steps - 1
    assert steps > 5


def test_two_replays_at_once(storage: OtelPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays of the same runs side by side double nothing."""
    monkeypatch.setattr(replaying, "_CHUNK", 2)
    for _ in range(10):
        finish(storage, build(storage))
    expected = keys(storage)
    storage.records.database.write(lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox")))
    barrier = threading.Barrier(3)
    reports = []

    def work() -> None:
        barrier.wait(20)
        reports.append(replay(storage))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert keys(storage) == expected
    assert sum(report.written for report in reports) == 10 * REFERENCES
    assert sum(report.waiting for report in reports) == 2 * 10 * REFERENCES


def test_counted_alone(storage: OtelPipelineStorage) -> None:
    """A dry run counts what a real one then does, and writes nothing."""
    for _ in range(2):
        finish(storage, build(storage))
    storage.records.database.write(
        lambda connection: connection.execute(text("DELETE FROM otel_storage_outbox WHERE execution_id = 1"))
    )
    before = references(storage)

    counted = replay(storage, dry_run=True)

    assert references(storage) == before
    assert (counted.runs, counted.written, counted.waiting) == (2, REFERENCES, REFERENCES)
    assert replay(storage) == counted


def test_runs_without_spans(storage: OtelPipelineStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that were built without telemetry, or not sampled, have no spans to be sent, and are counted."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    finish(storage, build(storage))
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    finish(storage, build(storage))

    report = replay(storage)

    assert (report.runs, report.untraced, report.written, report.cursor) == (0, 2, 0, 2)
    assert references(storage) == []


def test_copies_are_replayed(database_url: str, tmp_path: Path) -> None:
    """The runs of a storage that is wrapped are replayed from their copies, as the spans that they were."""
    exporter = InMemorySpanExporter()
    with closing(
        OtelPipelineStorage(
            MemoryStorage(), outbox_url=database_url, exporter=exporter, delivery="external", settle_quiet=0
        )
    ) as storage:
        # So that the ids of copies are not those of the records.
        storage.storage.build_pipeline_execution(Pipeline(Task()), "other", Runner(), RecordingReporter(), {})
        finish(storage, build(storage))
        assert send(storage) == 8
        before = [span.to_json() for span in exporter.get_finished_spans()]

        assert replay(storage).written == REFERENCES
        assert send(storage) == 8

        assert [span.to_json() for span in exporter.get_finished_spans()] == before * 2
