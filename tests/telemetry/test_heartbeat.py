"""The senders that other processes see: real databases, a clock moved by hand, and a misbehaving receiver."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert

from otel_storage import OtelPipelineStorage, PipelineTaskStatus, SqlPipelineStorage
from otel_storage.ports.outbox import SeenSender
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.sql.database import schema
from otel_storage.telemetry.delivery.heartbeat import Heartbeat
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver, RefuseSpan, Respond
from tests.processes import run_python

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until it is moved."""
    return ManualClock(START)


@pytest.fixture
def records(database_url: str, clock: ManualClock) -> Iterator[SqlPipelineStorage]:
    """An empty database, on each engine."""
    with closing(SqlPipelineStorage(database_url, clock=clock)) as records:
        yield records


@pytest.fixture
def heartbeat(records: SqlPipelineStorage, clock: ManualClock) -> Heartbeat:
    """The heartbeat of one process."""
    return Heartbeat(records.outbox.senders, clock)


@pytest.fixture
def open_storage(records: SqlPipelineStorage, receiver: OtlpReceiver) -> Iterator[Callable[..., OtelPipelineStorage]]:
    """Opens a storage that sends to the receiver when it is told to."""
    opened = []

    def open_(**kwargs: object) -> OtelPipelineStorage:
        storage = OtelPipelineStorage(records, delivery="external", **kwargs)  # type: ignore[arg-type] # the test's own
        opened.append(storage)
        return storage

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[OtlpReceiver]:
    """A receiver that the standard variables point to."""
    del clean_environment
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


def run(storage: OtelPipelineStorage) -> None:
    """A run of one task, from its building to its end."""
    reporter = RecordingReporter()
    execution = storage.build_pipeline_execution(Pipeline(Task("load")), str(uuid.uuid4()), Runner(), reporter, {})
    for record in (*storage.get_task_results(execution.get_run_id()), *execution.get_pipeline_results(), execution):
        record.report_status_change(reporter, PipelineTaskStatus.RUNNING, propagate=False)
        record.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)


def only(records: SqlPipelineStorage) -> SeenSender:
    """The one sender that was seen."""
    [sender] = records.outbox.senders.latest(10)
    return sender


def test_a_sender_is_seen(records: SqlPipelineStorage, heartbeat: Heartbeat) -> None:
    """The first success is told at once: by whom, and when."""
    heartbeat.sent(accepted=True, error="")

    sender = only(records)
    assert sender.pid == os.getpid()
    assert sender.host
    assert (sender.seen, sender.sent, sender.failed, sender.error) == (START, START, None, "")
    assert not sender.is_watching
    assert records.outbox.senders.last_success() == sender
    assert records.outbox.senders.last_failure() is None
    assert records.outbox.senders.last_watching() is None


def test_writes_are_ten_seconds_apart(records: SqlPipelineStorage, heartbeat: Heartbeat, clock: ManualClock) -> None:
    """While sending comes to the same, there is a write each ten seconds at most."""
    seen = set()
    for _ in range(100):
        heartbeat.sent(accepted=True, error="")
        seen.add((only(records).seen - START).total_seconds())
        clock.advance(1)

    assert seen == {float(second) for second in range(0, 100, 10)}


def test_a_change_is_told_at_once(records: SqlPipelineStorage, heartbeat: Heartbeat, clock: ManualClock) -> None:
    """The first failure after successes, and the first success after failures, do not wait for their turn."""
    heartbeat.sent(accepted=True, error="")
    clock.advance(1)
    heartbeat.sent(accepted=False, error="connection refused")
    assert (only(records).failed, only(records).error) == (START + timedelta(seconds=1), "connection refused")
    assert only(records).sent == START
    clock.advance(1)
    heartbeat.sent(accepted=False, error="connection reset")
    assert only(records).error == "connection refused"
    clock.advance(1)
    heartbeat.sent(accepted=True, error="")
    assert only(records).sent == START + timedelta(seconds=3)
    assert only(records).error == "connection reset"


def test_a_clock_that_was_put_back(records: SqlPipelineStorage, heartbeat: Heartbeat, clock: ManualClock) -> None:
    """A clock that was put back by hours does not silence a sender for hours."""
    heartbeat.sent(accepted=True, error="")
    clock.advance(-7200)
    heartbeat.sent(accepted=True, error="")
    assert only(records).seen == START - timedelta(hours=2)


def test_who_watches_is_seen_while_idle(records: SqlPipelineStorage, heartbeat: Heartbeat, clock: ManualClock) -> None:
    """A process that watches is heard of at once, and each thirty seconds, with nothing to send."""
    seen = set()
    for _ in range(100):
        heartbeat.watching()
        seen.add((only(records).seen - START).total_seconds())
        clock.advance(1)

    assert seen == {0.0, 30.0, 60.0, 90.0}
    assert only(records).is_watching
    assert only(records).sent is None
    assert records.outbox.senders.last_watching() == only(records)


def test_the_gone_are_forgotten(records: SqlPipelineStorage, heartbeat: Heartbeat, clock: ManualClock) -> None:
    """Senders that have not reported for seven days are removed; later ones and the reporting one stay."""
    heartbeat.sent(accepted=True, error="")
    clock.advance(1)
    Heartbeat(records.outbox.senders, clock).sent(accepted=True, error="")
    clock.advance(7 * 86_400)
    Heartbeat(records.outbox.senders, clock).sent(accepted=True, error="")

    seen = [sender.seen - START for sender in records.outbox.senders.latest(10)]
    assert seen == [timedelta(days=7, seconds=1), timedelta(seconds=1)]


def test_the_latest_come_first(records: SqlPipelineStorage, clock: ManualClock) -> None:
    """Of many senders those seen last are listed, and the last success is the newest of all."""
    for _ in range(5):
        Heartbeat(records.outbox.senders, clock).sent(accepted=True, error="")
        clock.advance(1)
    Heartbeat(records.outbox.senders, clock).sent(accepted=False, error="503")

    latest = records.outbox.senders.latest(3)
    assert [sender.seen - START for sender in latest] == [timedelta(seconds=second) for second in (5, 4, 3)]
    success, failure = records.outbox.senders.last_success(), records.outbox.senders.last_failure()
    assert success is not None
    assert failure is not None
    assert success.sent == START + timedelta(seconds=4)
    assert failure == latest[0]


def test_what_cannot_be_written_hinders_nothing(
    records: SqlPipelineStorage,
    open_storage: Callable[..., OtelPipelineStorage],
    receiver: OtlpReceiver,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the table gone spans are sent all the same, and it is logged once."""
    storage = open_storage()
    records.database.write(schema.sender.drop)
    with caplog.at_level(logging.WARNING, "otel_storage"):
        for _ in range(3):
            run(storage)
            assert storage.delivery.deliver_due().error == ""
            clock.advance(60)

    assert len(receiver.spans) == 3 * 4
    assert [record.getMessage() for record in caplog.records] == [
        "spans are sent, but the database cannot record which process sends them"
    ]


def test_what_cannot_be_written_again_is_logged_again(
    records: SqlPipelineStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each time that it begins to fail."""
    heartbeat = Heartbeat(records.outbox.senders, clock)
    for fails in (True, True, False, True):
        with monkeypatch.context() as patch:
            if fails:
                patch.setattr(type(records.outbox.senders), "seen", lambda *_, **__: 1 / 0)
            heartbeat.watching()
        clock.advance(60)

    assert [record.getMessage() for record in caplog.records] == [
        "spans are sent, but the database cannot record which process sends them"
    ] * 2


def test_delivering_is_seen(
    records: SqlPipelineStorage,
    open_storage: Callable[..., OtelPipelineStorage],
    receiver: OtlpReceiver,
    clock: ManualClock,
) -> None:
    """A delivery tells of its failure, of its success, and of nothing where nothing was due."""
    storage = open_storage()
    storage.delivery.deliver_due()
    assert records.outbox.senders.latest(10) == []
    receiver.misbehave(Respond(503), times=1)
    run(storage)
    storage.delivery.deliver_due()
    assert only(records).failed == START
    assert "503" in only(records).error
    assert only(records).sent is None
    clock.advance(2)
    storage.delivery.deliver_due()
    assert only(records).sent == START + timedelta(seconds=2)
    assert not only(records).is_watching


def test_a_refusal_is_neither_success_nor_failure(
    records: SqlPipelineStorage, open_storage: Callable[..., OtelPipelineStorage], receiver: OtlpReceiver
) -> None:
    """A sender whose spans are refused for good is seen as working.

    The endpoint answers, and references are set aside.
    """
    receiver.misbehave(RefuseSpan(lambda span: True))
    storage = open_storage()
    run(storage)
    storage.delivery.deliver_due()
    assert (only(records).sent, only(records).failed) == (None, None)
    assert records.outbox.status().refused == 2


def test_a_sender_that_cannot_begin_is_seen(
    records: SqlPipelineStorage, open_storage: Callable[..., OtelPipelineStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose exporter cannot be made tells why."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "carrier:pigeon")
    storage = open_storage()
    run(storage)
    with pytest.raises(ConfigurationError):
        storage.delivery.deliver_due()
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in only(records).error


def test_the_thread_is_seen(records: SqlPipelineStorage, receiver: OtlpReceiver) -> None:
    """The background thread of a process tells of itself too."""
    with closing(OtelPipelineStorage(records)) as storage:
        run(storage)
        assert storage.flush(20)
    assert only(records).sent == START
    assert not only(records).is_watching


FORKING = """
import json, os, sys
from otel_storage import OtelPipelineStorage

storage = OtelPipelineStorage(url={url!r}, delivery="external")
storage.delivery.watch()
child = os.fork()
if not child:
    storage.delivery._heartbeat.sent(accepted=True, error="")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
storage.delivery._heartbeat.sent(accepted=True, error="")
print(json.dumps([[sender.pid == os.getpid(), sender.pid == child, sender.is_watching]
                  for sender in storage.records.outbox.senders.latest(10)]))
"""


def test_a_forked_child_is_a_sender_of_its_own(sqlite_url: str, tmp_path: Path) -> None:
    """Parent and child have a row each, and the child of one that watches does not."""
    seen = run_python(FORKING.format(url=sqlite_url), cwd=tmp_path)
    assert sorted(seen) == [[False, True, False], [True, False, True]]


def test_a_long_reason_is_stored(records: SqlPipelineStorage, heartbeat: Heartbeat) -> None:
    """What an endpoint says may be long, and hold what a server cannot store."""
    heartbeat.sent(accepted=False, error="\0" + "x" * 100_000)
    assert only(records).error.endswith("x" * 100_000)


def test_other_rows_are_left_alone(records: SqlPipelineStorage, heartbeat: Heartbeat) -> None:
    """A write changes the process's own row."""
    values = {"host": "elsewhere", "pid": 7, "is_watching": True, "seen": START - timedelta(hours=1)}
    records.database.write(lambda connection: connection.execute(insert(schema.sender), {"token": "f" * 32, **values}))
    heartbeat.sent(accepted=True, error="")
    heartbeat.watching()
    others = [sender for sender in records.outbox.senders.latest(10) if sender.host == "elsewhere"]
    assert [(sender.pid, sender.seen) for sender in others] == [(7, START - timedelta(hours=1))]
