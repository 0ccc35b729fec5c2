"""How the background thread of a busy process gathers what it sends."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.telemetry.delivery import waking
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """Where the spans go."""
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


@pytest.fixture(autouse=True)
def _busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "BUSY", 2)
    monkeypatch.setattr(waking, "GATHER_INTERVAL", 0.05)


@contextmanager
def changing(storage: OtelPipelineStorage) -> Iterator[None]:
    """Reports an endless series of changes to the sending thread."""
    is_over = threading.Event()

    def change() -> None:
        while not is_over.wait(0.001):
            storage.delivery.notify()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def finish_one(storage: OtelPipelineStorage) -> None:
    """A run whose one task result is final."""
    reporter = RecordingReporter()
    run_id = str(uuid.uuid4())
    storage.build_pipeline_execution(Pipeline(Task("load")), run_id, Runner(), reporter, {})
    [result] = storage.get_task_results(run_id)
    result.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)


def test_what_is_put_off_is_sent_when_a_flush_asks(
    tmp_path: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a busy process may gather, nobody who asks waits for it."""
    monkeypatch.setattr(waking, "LONGEST_GATHERING", 3600.0)
    with closing(OtelPipelineStorage(url=f"sqlite:///{tmp_path / 'runs.db'}")) as storage, changing(storage):
        finish_one(storage)
        assert storage.flush(60)
        assert len(receiver.spans) == 1


def test_what_is_put_off_is_sent_in_the_end(
    tmp_path: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that never cease do not keep a span back for ever."""
    monkeypatch.setattr(waking, "LONGEST_GATHERING", 0.2)
    with closing(OtelPipelineStorage(url=f"sqlite:///{tmp_path / 'runs.db'}")) as storage, changing(storage):
        finish_one(storage)
        assert receiver.wait_for(1, 60)
