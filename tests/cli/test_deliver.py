"""``otel-storage deliver``, with a real receiver at the other end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest

from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.testing.receiver import OtlpReceiver, RefuseSpan, Respond
from tests.cli.conftest import ROOT, Invoke, Runs

RUN_ID = "6f1d3c0e-8b0f-4b8e-9b57-0a7c6d0f2b11"
SPANS = 6
"""Of a run of two tasks: one for each record."""


@pytest.fixture
def runs(sqlite_url: str) -> Iterator[Runs]:
    """An empty SQLite database to build runs in that are recent: old spans expire."""
    made = Runs(sqlite_url, clock.now() - timedelta(minutes=1))
    yield made
    made.storage.close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A receiver that the environment names as the endpoint."""
    with OtlpReceiver() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.endpoint)
        yield started


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint where nobody listens."""
    endpoint = "http://127.0.0.1:9"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    return endpoint


def test_a_variable_that_cannot_be_used_is_told(
    runs: Runs, sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command goes on with the default, and says on stderr what to set."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "ten")
    runs.finish(runs.build(RUN_ID))
    result = invoke("deliver", "--url", sqlite_url)
    assert (result.exit_code, len(receiver.spans)) == (0, SPANS)
    assert "OTEL_EXPORTER_OTLP_TIMEOUT is 'ten', and the default is used instead" in " ".join(result.stderr.split())


def test_all_is_delivered(runs: Runs, sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke) -> None:
    """Every span of a finished run arrives, and a second call has nothing to send."""
    runs.finish(runs.build(RUN_ID))
    result = invoke("deliver", "--url", sqlite_url)
    assert result.exit_code == 0
    assert {span.trace_id for span in receiver.spans} == {RUN_ID.replace("-", "")}
    assert len(receiver.spans) == SPANS
    assert result.stdout.splitlines() == [
        f"sent     {SPANS}  spans accepted by {receiver.traces_endpoint}",
        "waiting  0",
    ]
    again = json.loads(invoke("deliver", "--url", sqlite_url, "--json").stdout)
    assert again["sent"] == 0
    assert len(receiver.spans) == SPANS


def test_json_keys(runs: Runs, sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke) -> None:
    """The JSON has the documented keys; what is not finished is counted as open, and is no error."""
    runs.finish(runs.build(RUN_ID))
    runs.build("00000000-0000-4000-8000-000000000000")
    result = invoke("deliver", "--url", sqlite_url, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "endpoint": receiver.traces_endpoint,
        "sent": SPANS,
        "refused": 0,
        "expired": 0,
        "error": None,
        "outbox": {
            "due": 0,
            "retrying": 0,
            "leased": 0,
            "waiting": 0,
            "held": 0,
            "open": 1,
            "refused": 0,
            "expired": 0,
            "oldest": None,
            "error": None,
            "refusal": None,
            "hold": None,
        },
    }


def test_nobody_listens(runs: Runs, sqlite_url: str, closed_port: str, invoke: Invoke) -> None:
    """Without a collector the command says at once which spans are unsent and why, and exits 1; nothing is lost."""
    runs.finish(runs.build(RUN_ID))
    result = invoke("deliver", "--url", sqlite_url)
    assert result.exit_code == 1
    assert "waiting  3  " in result.stdout
    assert result.stderr.startswith("otel-storage: 3 entries of the outbox still wait: ")
    assert "refused" in result.stderr
    assert result.stderr.count("\n") == 1
    with OtlpReceiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        assert invoke("deliver", "--url", sqlite_url, env=env).exit_code == 0
        assert len(receiver.spans) == SPANS


def test_unavailable_collector(runs: Runs, sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke) -> None:
    """A 503 leaves everything waiting."""
    receiver.misbehave(Respond(503))
    runs.finish(runs.build(RUN_ID))
    result = invoke("deliver", "--url", sqlite_url, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["sent"] == 0
    assert document["outbox"]["waiting"] == 3
    assert "503" in document["error"]


def test_refused_span(runs: Runs, sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke) -> None:
    """A span that is refused for good is counted and told, exits 1, and the others are sent."""
    receiver.misbehave(RefuseSpan(lambda span: span.name == "RUN tests.Orders"))
    runs.finish(runs.build(RUN_ID))
    result = invoke("deliver", "--url", sqlite_url, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["refused"], document["outbox"]["refused"]) == (1, 1)
    assert document["outbox"]["refusal"]
    assert "set aside" in result.stderr
    assert "RUN tests.Orders" not in {span.name for span in receiver.spans}
    assert len(receiver.spans) == SPANS - 1


def test_held_run_is_explained(runs: Runs, sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke) -> None:
    """A finished run whose records may still change is no error; what it waits for is told."""
    execution = runs.build(RUN_ID)
    task_result = execution.get_pipeline_results()[0].get_task_executions()[0].get_task_results()[0]
    task_result.report_status_change(runs.reporter, Status.RUNNING)
    execution.report_status_change(runs.reporter, Status.CANCELLED)
    result = invoke("deliver", "--url", sqlite_url)
    assert result.exit_code == 0
    [held] = [line for line in result.stdout.splitlines() if line.startswith("held")]
    assert held.split()[1] == "1"
    assert "RUNNING" in held
    assert receiver.spans == []


def test_old_spans_are_told(sqlite_url: str, receiver: OtlpReceiver, invoke: Invoke) -> None:
    """Spans that are too old to be sent are counted, loudly."""
    old = Runs(sqlite_url)
    old.finish(old.build(RUN_ID))
    old.storage.close()
    result = invoke("deliver", "--url", sqlite_url, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["expired"], document["outbox"]["expired"]) == (3, 3)
    assert "too old" in result.stderr


def test_storage_without_spans(sqlite_url: str, runs: Runs, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured storage that makes no spans has nothing to deliver, and the command says so."""
    setting = json.dumps(["otel_storage.SqlPipelineStorage", {"url": sqlite_url}])
    monkeypatch.setenv("PIPELINES_PIPELINES_RESULTS_STORAGE", setting)
    result = invoke("deliver")
    assert result.exit_code == 1
    assert "SqlPipelineStorage, which makes no spans" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.smoke
def test_watch(number: signal.Signals, code: int, runs: Runs, sqlite_url: str, receiver: OtlpReceiver) -> None:
    """--watch sends what becomes due while it runs, tells each time in a line of JSON, and ends on a signal."""
    runs.finish(runs.build(RUN_ID))
    with subprocess.Popen(
        [sys.executable, "-m", "otel_storage.cli", "deliver", "--watch", "--json", "--url", sqlite_url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            first = json.loads(process.stdout.readline())
            assert first["sent"] == SPANS
            assert first["at"]
            runs.finish(runs.build("00000000-0000-4000-8000-000000000000"))
            assert json.loads(process.stdout.readline())["sent"] == SPANS
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == code
    assert stdout == ""
    assert "Traceback" not in stderr
    assert len(receiver.spans) == 2 * SPANS


def test_figures_fit(
    runs: Runs, sqlite_url: str, closed_port: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 40 columns the figures are cut, not wrapped."""
    monkeypatch.setenv("COLUMNS", "40")
    runs.finish(runs.build(RUN_ID))
    lines = invoke("deliver", "--url", sqlite_url).stdout.splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 40 for line in lines)


def test_seeded_password_is_not_told(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """An endpoint's credentials are in nothing that is printed."""
    runs.finish(runs.build(RUN_ID))
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:seeded-secret@127.0.0.1:9"}
    for options in ((), ("--json",)):
        result = invoke("deliver", "--url", sqlite_url, *options, env=env)
        assert result.exit_code == 1
        assert "seeded-secret" not in result.stdout + result.stderr
