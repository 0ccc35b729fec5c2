"""``otel-storage metrics``, and metrics beside ``otel-storage deliver --watch``, as processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from otel_storage.results import clock
from otel_storage.sql.storage import SqlPipelineStorage
from tests.cli.conftest import ROOT, Execute, Invoke, Runs
from tests.metrics.receivers import MetricsReceiver, metrics
from tests.servers import mariadb_server

DONE = 'otel_storage_runs_total{cicd_pipeline_name="tests.Orders",otel_storage_status="DONE"}'
PATIENCE = 60.0


@pytest.fixture
def runs(sqlite_url: str) -> Iterator[Runs]:
    """An empty SQLite database to build runs in that are recent."""
    made = Runs(sqlite_url, clock.now() - timedelta(minutes=1))
    yield made
    made.storage.close()


class Watched:
    """A process that stays, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._said = ""

    def url(self) -> str:
        """Where it serves metrics, once it says so."""
        assert self.process.stderr is not None
        while (found := re.search(r"http://[^/\s]+/metrics", self._said)) is None:
            line = self.process.stderr.readline()
            assert line, self._said
            self._said += line
        return found[0]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """End it by the signal; its exit code and what it printed and said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, self._said + err


@contextmanager
def staying(*arguments: str) -> Iterator[Watched]:
    """A command that stays, as a process; killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "otel_storage.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Watched(process)
    finally:
        process.kill()
        process.communicate()


def scrape(url: str) -> tuple[int, str]:
    """Status and body of a scrape; 0 if nobody answers."""
    try:
        with urlopen(url, timeout=30) as answer:  # noqa: S310 - a server of the test's
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except URLError:
        return 0, ""


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for it, at most a minute."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_print(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """Without options the metrics are printed once, as they are."""
    runs.finish(runs.build("one"))

    result = invoke("metrics", "--url", sqlite_url)

    assert result.exit_code == 0, result.output
    assert f"{DONE} 1.0\n" in result.stdout
    assert result.stderr == ""


def test_json(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """The same as JSON, with OpenTelemetry's names."""
    runs.finish(runs.build("one"))

    result = invoke("metrics", "--url", sqlite_url, "--json")

    document = json.loads(result.stdout)
    by_name = {metric["name"]: metric for metric in document["metrics"]}
    assert len(by_name) == 17
    assert by_name["otel_storage.runs"]["kind"] == "counter"
    assert {
        "attributes": {"cicd.pipeline.name": "tests.Orders", "otel_storage.status": "DONE"},
        "value": 1,
    } in by_name["otel_storage.runs"]["points"]
    [duration] = [
        point
        for point in by_name["cicd.pipeline.run.duration"]["points"]
        if point["attributes"]["cicd.pipeline.run.state"] == "executing"
    ]
    assert set(duration) == {"attributes", "count", "sum", "bounds", "counts"}
    assert (duration["count"], duration["sum"], sum(duration["counts"])) == (1, 1.0, 1)


def test_printing_shows_nothing_to_prometheus(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A look by a person does not make the first failure miss its growth."""
    runs.finish(runs.build("one"))
    invoke("metrics", "--url", sqlite_url)

    assert all(runs.storage.records.totals.read().unshown)
    assert {total.count for total in runs.storage.records.totals.read().totals} == {0}


def test_no_database(empty_sqlite_url: str, invoke: Invoke) -> None:
    """A database that does not exist is not made by looking for metrics."""
    result = invoke("metrics", "--url", empty_sqlite_url)

    assert result.exit_code == 1
    assert "there is no database at" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--serve", "nowhere"], ["--push", "--interval", "soon"], ["--interval", "0s"], ["--max-series", "0"]],
)
def test_wrong_usage(arguments: list[str], invoke: Invoke) -> None:
    """Invalid options are refused."""
    assert invoke("metrics", *arguments).exit_code == 2


@pytest.mark.parametrize("option", [["--metrics", ":0"], ["--push-metrics"]])
def test_metrics_need_watch(option: list[str], invoke: Invoke) -> None:
    """``deliver`` without ``--watch`` refuses to serve metrics."""
    result = invoke("deliver", *option)

    assert result.exit_code == 2
    assert "--watch" in result.stderr


@pytest.mark.slow
def test_the_address_is_taken(runs: Runs, sqlite_url: str, execute: Execute) -> None:
    """An address that another process has is named."""
    runs.build("one")
    with MetricsReceiver() as other:
        address = other.endpoint.removeprefix("http://")
        result = execute("metrics", "--url", sqlite_url, "--serve", address)

    assert result.returncode == 1
    assert f"cannot listen on {address}" in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve(number: signal.Signals, code: int, runs: Runs, sqlite_url: str) -> None:
    """The command serves until a signal; a new series is 0 first, and has its real value later."""
    runs.finish(runs.build("one"))
    with staying("metrics", "--url", sqlite_url, "--serve", "127.0.0.1:0") as process:
        url = process.url()
        status, body = scrape(url)
        assert (status, f"{DONE} 0.0\n" in body) == (200, True)
        assert scrape(url.replace("/metrics", "/health")) == (200, "ok\n")
        wait_until(lambda: f"{DONE} 1.0\n" in scrape(url)[1])
        returned, out, said = process.end(number)

    assert (returned, out) == (code, "")
    assert said.startswith("Serving metrics at http://127.0.0.1:")


@pytest.mark.slow
def test_push(runs: Runs, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command pushes at each interval, and logs once that the endpoint fails, and once that it works again."""
    runs.finish(runs.build("one"))
    with MetricsReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        receiver.status = 503
        with staying("metrics", "--url", sqlite_url, "--push", "--interval", "1s") as process:
            wait_until(lambda: len(receiver.paths) >= 3)
            receiver.status = 200
            wait_until(lambda: len(receiver.requests) >= 2)
            returned, _out, said = process.end()

    assert returned == 0
    assert said.count("cannot be pushed") == 1
    assert said.count("metrics are pushed to") == 1
    assert "otel_storage.runs" in metrics(receiver.requests[-1])


@pytest.mark.slow
@pytest.mark.smoke
def test_beside_delivery(runs: Runs, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that watches serves the metrics, and pushes them, beside its work."""
    runs.finish(runs.build("one"))
    with MetricsReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.endpoint}/v1/metrics")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        arguments = ["deliver", "--watch", "--metrics", "127.0.0.1:0", "--push-metrics", "--url", sqlite_url]
        with staying(*arguments) as process:
            url = process.url()
            wait_until(lambda: 'otel_storage_senders{otel_storage_sender_watching="true"} 1.0' in scrape(url)[1])
            wait_until(lambda: f"{DONE} 1.0\n" in scrape(url)[1])
            wait_until(lambda: len(receiver.requests) > 0)
            returned, _out, said = process.end()

    assert returned == 0
    assert "Pushing metrics to" in said
    assert "otel_storage.runs" in metrics(receiver.requests[0])


def test_who_delivers_counts(runs: Runs, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    """Delivering counts what finished, where no process serves metrics."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    runs.finish(runs.build("one"))

    invoke("deliver", "--url", sqlite_url)

    counted = {total.count for total in runs.storage.records.totals.read(as_shown=False).totals}
    assert counted == {0, 1}


@pytest.mark.slow
def test_a_database_that_restarts(tmp_path: Path) -> None:
    """While the database is away scrapes are refused and one line says why; after it they are served again."""
    with mariadb_server() as server:
        server.start()
        url = server.url.render_as_string(hide_password=False)
        with closing(SqlPipelineStorage(url)) as records:
            records.upgrade()
        with staying("metrics", "--url", url, "--serve", "127.0.0.1:0") as process:
            address = process.url()
            assert scrape(address)[0] == 200
            server.stop()
            wait_until(lambda: scrape(address)[0] == 503)
            assert scrape(address.replace("/metrics", "/health"))[0] == 503
            server.start()
            wait_until(lambda: scrape(address)[0] == 200)
            assert process.process.poll() is None
            returned, _out, said = process.end()

    assert returned == 0
    assert "metrics cannot be read: " in said
    assert "metrics are read again" in said


def test_help(invoke: Invoke) -> None:
    """The help names what each option is for, and the keys of the JSON."""
    result = invoke("metrics", "--help")

    assert result.exit_code == 0
    for words in ("--serve HOST:PORT", "--push", "--interval", "--max-series", "JSON keys", "otel_metric_overflow"):
        assert words in result.stdout
