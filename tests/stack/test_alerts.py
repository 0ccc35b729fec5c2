"""A failure reaches people: the database, the metrics, Prometheus and its rules, Alertmanager and whom that tells."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.stack.processes import Program, fetch, free_port, wait_until
from tests.stack.runs import ROOT, check
from tests.stack.stack import Alertmanager, Collector, Jaeger, Prometheus
from tests.with_celery.traces import trace_id

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TARGET = 60
"""Seconds within which people are to know of a failure."""
PATIENCE = 2 * TARGET
"""After so many the test fails: the machine may be busy with others."""
TRACES_URL = "http://jaeger.example.com"

WINDOW = "40s"
"""How long after a failure its alert fires here; as shipped, 5 minutes."""
SHORTER = {"[5m:10s]": f"[{WINDOW}:10s]", "offset 5m": f"offset {WINDOW}"}


@dataclass
class Received:
    """An alert as Alertmanager told of it."""

    at: float
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Webhook:
    """A receiver of Alertmanager's notifications."""

    def __init__(self) -> None:
        self.alerts: list[Received] = []
        received = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                now = time.monotonic()
                received.extend(Received(now, a["status"], a["labels"], a["annotations"]) for a in told["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """Where it is told."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, status: str, labels: dict[str, str], patience: float) -> Received:
        """The first time that it was told of an alert with these labels in that status."""

        def told() -> list[Received]:
            return [a for a in self.alerts if a.status == status and labels.items() <= a.labels.items()]

        wait_until(told, f"{status}: {labels}", patience)
        return told()[0]


@dataclass
class Way:
    """How metrics come to a Prometheus, and whom its Alertmanager tells."""

    name: str
    prometheus: Prometheus
    webhook: Webhook

    def wait_for_metrics(self, expression: str) -> None:
        """Wait until the expression gives something, and check that it is of one job."""
        wait_until(lambda: self.prometheus.query(expression), f"{expression}, {self.name}", PATIENCE)
        assert {labels["job"] for labels in self.prometheus.query(expression)} == {"otel-storage"}


@dataclass
class Installation:
    """A database of runs, with all that watches it."""

    storage: OtelPipelineStorage
    jaeger: Jaeger
    ways: list[Way] = field(default_factory=list)

    def run(self, pipeline_id: str, *tasks: str, last: Status = Status.DONE) -> str:
        """Run a pipeline, whose last task ends as is said; its run's id."""
        run_id = str(uuid.uuid4())
        reporter = RecordingReporter()
        pipeline = Pipeline(*map(Task, tasks), id=pipeline_id)
        execution = self.storage.build_pipeline_execution(pipeline, run_id, Runner(), reporter, {})
        for number, result in enumerate(self.storage.get_task_results(run_id), 1):
            result.report_status_change(reporter, Status.RUNNING)
            if number < len(tasks) or last is Status.DONE:
                result.report_status_change(reporter, Status.DONE)
            else:
                result.report_status_change(reporter, last, "it went wrong")
        for parents in (self.storage.get_task_executions(run_id), self.storage.get_pipeline_results(run_id)):
            for record in parents:
                record.report_status_change(reporter, Status.DONE)
        execution.report_status_change(reporter, Status.DONE)
        return run_id


def command(folder: Path, ready: str, *arguments: str) -> Program:
    """A command of ours that stays."""
    return Program([sys.executable, "-m", "otel_storage.cli", *arguments], folder, ready, {"PYTHONPATH": str(ROOT)})


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A database whose metrics one Prometheus scrapes, and another is pushed; each has an Alertmanager of its own."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with ExitStack() as stack:
        jaeger = Jaeger(tmp_path)
        stack.enter_context(jaeger)
        port = free_port()
        address = f"127.0.0.1:{port}"
        ways = []
        for name, scraped in (("scraped", address), ("pushed", None)):
            folder = tmp_path / name
            webhook = stack.enter_context(Webhook())
            alertmanager = Alertmanager(folder, webhook.url)
            stack.enter_context(alertmanager)
            prometheus = Prometheus(
                folder,
                otel_storage=scraped,
                alertmanager=alertmanager.address,
                rules=SHORTER,
                traces_url=TRACES_URL,
            )
            stack.enter_context(prometheus)
            ways.append(Way(name, prometheus, webhook))
        collector = Collector(tmp_path, jaeger.otlp_endpoint, ways[1].prometheus.address)
        stack.enter_context(collector)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        # As in production: one process sends and is scraped, whoever runs pipelines. Another pushes.
        storage = stack.enter_context(closing(OtelPipelineStorage(url=url, delivery="external")))
        storage.get_pipeline_digest()
        watch = ("deliver", "--watch", "--url", url, "--metrics", address)
        stack.enter_context(command(tmp_path / "watch", f"http://{address}/metrics", *watch))
        # The push command serves no address, so wait for the collector's health, which is there already.
        health = f"http://{collector.environment['COLLECTOR_HEALTH_ADDRESS']}/"
        stack.enter_context(command(tmp_path / "push", health, "metrics", "--push", "--url", url))
        yield Installation(storage, jaeger, ways)


@pytest.mark.timeout(600)
def test_a_failure_reaches_people(installation: Installation, record_property: Callable[[str, object], None]) -> None:
    """A task fails, of a pipeline that always succeeded, and of one that nobody ever saw: people are told of both.

    Whether Prometheus scrapes the metrics or they are pushed to it through the collector. No other failure follows, and
    people are told that, too.
    """
    installation.run("stack.Known", "extract", "load")
    for way in installation.ways:
        way.wait_for_metrics(
            'otel_storage_task_results_total{cicd_pipeline_name="stack.Known",otel_storage_status="DONE"} >= 1'
        )
        assert not way.webhook.alerts

    failed_at = time.monotonic()
    runs = {
        "stack.Known": installation.run("stack.Known", "extract", "load", last=Status.RUNTIME_ERROR),
        "stack.New": installation.run("stack.New", "check", last=Status.VALIDATION_ERROR),
    }
    failures = [("stack.Known", "load", "RUNTIME_ERROR"), ("stack.New", "check", "VALIDATION_ERROR")]
    cases = [
        (way, {"alertname": "PipelineTaskFailed", "pipeline": pipeline, "task": task, "status": status})
        for way in installation.ways
        for pipeline, task, status in failures
    ]
    for way, labels in cases:
        alert = way.webhook.wait_for("firing", labels, PATIENCE)
        record_property("figure", f"{way.name}, {labels['pipeline']}: told of after {alert.at - failed_at:.0f} s")
        assert alert.labels["job"] == "otel-storage"
        assert alert.labels["severity"] == "critical"
        assert not [name for name in alert.labels if name.startswith("traces_")]
        assert labels["pipeline"] in alert.annotations["summary"]
        assert alert.annotations["runbook"]
        check_link(alert.annotations["trace"], installation, runs[labels["pipeline"]])
        # The exemplar of the failure's series leads to its trace.
        failures_of = f'otel_storage_task_results_total{{otel_storage_status="{labels["status"]}"}}'
        trace_ids = {exemplar["trace_id"] for exemplar in way.prometheus.exemplars(failures_of)}
        assert trace_ids == {trace_id(runs[labels["pipeline"]])}

    for way, labels in cases:
        alert = way.webhook.wait_for("resolved", labels, 2 * PATIENCE)
        # Not before the window is over.
        assert alert.at - failed_at > float(WINDOW.removesuffix("s"))
        record_property(
            "figure", f"{way.name}, {labels['pipeline']}: resolved after {alert.at - failed_at:.0f} s, window {WINDOW}"
        )
    for way in installation.ways:
        # And of no other trouble with runs.
        told = {
            (a.labels["pipeline"], a.labels.get("task"), a.labels.get("status"))
            for a in way.webhook.alerts
            if "pipeline" in a.labels
        }
        assert told == set(failures)


def check_link(link: str, installation: Installation, run_id: str) -> None:
    """Check that the alert's link finds the run: Jaeger's page asks its API with the same words."""
    assert link.startswith(f"{TRACES_URL}/search?")
    check(installation.jaeger, installation.storage.records, run_id)
    status, body = fetch(f"http://127.0.0.1:{installation.jaeger.query}/api/traces?{urlsplit(link).query}")
    assert status == 200, body
    assert [trace["traceID"] for trace in json.loads(body)["data"]] == [uuid.UUID(run_id).hex]
