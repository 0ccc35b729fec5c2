"""Whatever the endpoint or the exporter does: runs end as they should, the cause is said once, and nothing is lost."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.pipelines import RecordingReporter
from otel_storage.testing.receiver import OtlpReceiver, PartialSuccess, Respond
from tests.limits import runs
from tests.limits.sockets import BlackHole, Garbage
from tests.watch.memory import MemoryStorage

RUNS = 6
FAILED = PipelineTaskStatus.RUNTIME_ERROR


class Raising(SpanExporter):
    """Fails in a way of its own."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Raise."""
        raise ZeroDivisionError("an exporter's own fault")


class Nonsense(SpanExporter):
    """Says nothing that can be understood."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Give back what is no result."""
        nothing: Any = None
        return cast("SpanExportResult", nothing)


class Hanging(SpanExporter):
    """Does not come back, until the end of the test."""

    ends = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait."""
        self.ends.wait(60)
        return SpanExportResult.FAILURE


class _Address:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint


def _receiver(fault: Any) -> OtlpReceiver:
    receiver = OtlpReceiver()
    receiver.misbehave(fault)
    return receiver


ENDPOINTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "black hole": BlackHole,
    "garbage": Garbage,
    "closed": lambda: nullcontext(_Address("http://127.0.0.1:9")),
    "no name": lambda: nullcontext(_Address("http://collector.invalid:4318")),
    "moved": lambda: _receiver(Respond(302)),
    "a lie": lambda: _receiver(Respond(200, body=b"<html>welcome</html>")),
    "raising": lambda: nullcontext(Raising()),
    "nonsense": lambda: nullcontext(Nonsense()),
    "hanging": lambda: nullcontext(Hanging()),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True], ids=["ours", "wrapped"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.smoke
def test_runs_end_as_they_should(
    endpoint: str, wrapped: bool, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every status is right, the cause is in the log once however often it is met, and every span is sent later."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setattr("otel_storage.telemetry.delivery.rounds.LONGEST_PAUSE", 0.5)
    kept: Any = MemoryStorage() if wrapped else None
    where: dict[str, Any] = {"outbox_url" if wrapped else "url": sqlite_url}
    with ENDPOINTS[endpoint]() as server, caplog.at_level(logging.WARNING):
        exporter = server if isinstance(server, SpanExporter) else None
        if exporter is None:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint)
        with closing(OtelPipelineStorage(kept, **where, exporter=exporter)) as storage:
            for number in range(RUNS):
                execution: Any = storage.get_pipeline_execution(runs.run(storage))
                assert execution.get_status() is runs.DONE
                if number == RUNS // 2:
                    # Long enough for the sender to fail more than once.
                    time.sleep(1.5)
            execution = runs.build(storage)
            first, second = storage.get_task_results(execution.get_run_id())
            first.report_status_change(RecordingReporter(), runs.RUNNING)
            first.report_status_change(RecordingReporter(), FAILED, message="broken")
            second.report_status_change(RecordingReporter(), PipelineTaskStatus.CANCELLED)
            assert [record.get_status() for record in storage.get_pipeline_executions()].count(FAILED) == 1
            assert (first.get_status(), second.get_status()) == (FAILED, PipelineTaskStatus.CANCELLED)
            status = storage.records.outbox.status()
            assert status.waiting + status.held == 3 * (RUNS + 1)
            expected = runs.expected(storage)
            Hanging.ends.set()
        Hanging.ends.clear()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1 or (endpoint == "hanging" and not said)
    assert all(each.startswith("spans wait in the outbox, nothing is lost: ") for each in said)
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
        runs.deliver_the_rest(sqlite_url)
        assert runs.received(receiver.spans) == expected


def test_a_partial_success_is_counted_and_set_aside(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that takes no span of any request, and says so by a 200, has them all set aside, one by one."""
    with _receiver(PartialSuccess(rejected=10**6, message="none of these")) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        with closing(OtelPipelineStorage(url=sqlite_url, delivery="external")) as storage:
            runs.run(storage)
            assert storage.delivery.deliver_due().refused == 3
            status = storage.records.outbox.status()
            assert (status.refused, status.waiting) == (3, 0)
            assert "none of these" in status.refusal
        assert receiver.spans == []


@pytest.mark.slow
def test_the_measurement_prints_its_ratios() -> None:
    """The command that measures what an endpoint costs a run runs, and compares the three."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.limits.slowdown", "--runs", "1", "--repeat", "1", "--json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rows = json.loads(process.stdout)["rows"]
    assert [row["endpoint"] for row in rows] == ["works", "accepts and never answers", "is closed"]
    assert all(row["ratio"] > 0 for row in rows)
