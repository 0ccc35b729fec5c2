"""Prometheus' formats, and the server that it scrapes."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from otel_storage.metrics import exposition, reading
from otel_storage.metrics.exposition import MetricsServer, parse_address, prometheus_name, render, serving
from otel_storage.metrics.families import FAMILIES
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.status import PipelineTaskStatus as Status
from tests import services
from tests.metrics.conftest import Site
from tests.processes import HIDE_HOST, start_python
from tests.programs import program

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"

NAMES = {
    "cicd_pipeline_run_duration_seconds",
    "cicd_pipeline_run_active",
    "cicd_pipeline_run_errors",
    "otel_storage_runs",
    "otel_storage_task_results",
    "otel_storage_task_result_duration_seconds",
    "otel_storage_task_result_queue_time_seconds",
    "otel_storage_task_results_running",
    "otel_storage_run_oldest_age_seconds",
    "otel_storage_task_result_oldest_age_seconds",
    "otel_storage_run_last_started_seconds",
    "otel_storage_run_last_completed_seconds",
    "otel_storage_outbox_entries",
    "otel_storage_outbox_oldest_age_seconds",
    "otel_storage_delivery_last_success_seconds",
    "otel_storage_delivery_last_failure_seconds",
    "otel_storage_senders",
}


@pytest.fixture
def server(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    """A server of the site's metrics that keeps nothing for the next scrape."""
    monkeypatch.setattr(reading, "KEPT", 0.0)
    with serving(site.reader(), "127.0.0.1", 0) as started:
        yield started


def get(server: MetricsServer, path: str = "/metrics", accept: str = "", method: str = "GET") -> tuple[int, str, str]:
    """Status, body and content type of the answer."""
    host, port = server.url.removeprefix("http://").removesuffix("/metrics").split(":")
    connection = HTTPConnection(host, int(port), timeout=30)
    connection.request(method, path, headers={"Accept": accept} if accept else {})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body, response.getheader("Content-Type", "")


def parsed(text: bytes, accept: str) -> list[Any]:
    """The metrics, as prometheus-client's own parser of the format reads them."""
    parser: Any = parse_openmetrics if accept else parse
    return list(parser(text.decode()))


def test_names() -> None:
    """The names in Prometheus are those that OpenTelemetry's rules make of ours."""
    assert {prometheus_name(family) for family in FAMILIES} == NAMES


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
def test_prometheus_own_parser_reads_it(site: Site, accept: str) -> None:
    """What is rendered is read back as it was, by prometheus-client's parser of that format."""
    site.run(pipeline_id='shop."odd"\\\n')
    site.run(Status.RUNTIME_ERROR)

    text, content_type = render(site.reader().read(), accept)

    read = {family.name: family for family in parsed(text, accept)}
    assert NAMES - set(read) == set()
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain")
    samples = {
        (sample.name, sample.labels["cicd_pipeline_name"], sample.labels["otel_storage_status"]): sample.value
        for sample in read["otel_storage_runs"].samples
    }
    assert samples["otel_storage_runs_total", "shop.Orders", "RUNTIME_ERROR"] == 1
    assert samples["otel_storage_runs_total", 'shop."odd"\\\n', "DONE"] == 1
    buckets = [
        (sample.labels["le"], sample.value)
        for sample in read["otel_storage_task_result_duration_seconds"].samples
        if sample.name.endswith("_bucket")
        and sample.labels["cicd_pipeline_name"] == "shop.Orders"
        and sample.labels["cicd_pipeline_task_name"] == "load"
    ]
    assert len(buckets) == 19
    assert [value for _, value in buckets] == [0.0] * 4 + [1.0] * 15
    assert (buckets[4][0], buckets[-1][0]) == ("2.5", "+Inf")
    [sum_] = [
        sample.value
        for sample in read["otel_storage_task_result_duration_seconds"].samples
        if sample.name.endswith("_sum")
        and (sample.labels["cicd_pipeline_name"], sample.labels["cicd_pipeline_task_name"]) == ("shop.Orders", "load")
    ]
    assert sum_ == 2.0


def test_the_last_runs_trace(site: Site) -> None:
    """Counters and buckets of OpenMetrics lead to the trace of the last run that they count."""
    site.run(Status.RUNTIME_ERROR)
    last = site.run(Status.RUNTIME_ERROR)

    text, _ = render(site.reader().read(), OPENMETRICS)

    found = {
        sample.name: sample.exemplar
        for family in parsed(text, OPENMETRICS)
        for sample in family.samples
        if sample.exemplar is not None and sample.labels.get("cicd_pipeline_run_state") in (None, "executing")
    }
    trace = {"trace_id": last.get_run_id().replace("-", "")}
    assert {name: exemplar.labels for name, exemplar in found.items()} == dict.fromkeys(
        (
            "cicd_pipeline_run_duration_seconds_bucket",
            "cicd_pipeline_run_errors_total",
            "otel_storage_runs_total",
            "otel_storage_task_results_total",
            "otel_storage_task_result_duration_seconds_bucket",
            "otel_storage_task_result_queue_time_seconds_bucket",
        ),
        trace,
    )
    assert found["cicd_pipeline_run_duration_seconds_bucket"].value == 2.0
    assert float(found["otel_storage_runs_total"].timestamp) == site.clock().timestamp()


def test_promtool_finds_nothing_wrong(site: Site) -> None:
    """Prometheus' own tool checks the names, the types and the words."""
    promtool = program("PROMTOOL")
    for status in Status:
        if status not in (Status.PENDING, Status.RUNNING):
            site.run(status)

    text, _ = render(site.reader().read())
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_overflow_has_one_label(site: Site) -> None:
    """The series of all that is not told apart is known by its label."""
    for pipeline_id in ("shop.A", "shop.B"):
        site.run(pipeline_id=pipeline_id)
        site.reader().read()

    text, _ = render(site.reader(most_series=3).read())

    [runs] = [family for family in parsed(text, "") if family.name == "otel_storage_runs"]
    assert [s.value for s in runs.samples if s.labels == {"otel_metric_overflow": "true"}] == [1.0]


def test_a_scrape(site: Site, server: MetricsServer) -> None:
    """Metrics are at /metrics, in the format that is asked for; nothing is at other paths."""
    site.run()

    status, body, content_type = get(server)

    assert status == 200
    assert 'otel_storage_runs_total{cicd_pipeline_name="shop.Orders",otel_storage_status="DONE"} 1.0' in body
    assert content_type.startswith("text/plain; version=0.0.4")
    assert get(server, accept=OPENMETRICS)[1].endswith("# EOF\n")
    assert get(server, "/metrics?x=1", method="HEAD")[:2] == (200, "")
    assert get(server, "/health") == (200, "ok\n", "text/plain; charset=utf-8")
    assert get(server, "/")[0] == 404


def test_zero_is_scraped_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first failure ever is a growth: 0 is scraped, and 1 no sooner than ten seconds later."""
    monkeypatch.setattr(reading, "KEPT", 0.0)
    failures = 'otel_storage_runs_total{cicd_pipeline_name="shop.Orders",otel_storage_status="RUNTIME_ERROR"}'
    with serving(site.reader(as_shown=True), "127.0.0.1", 0) as server:
        site.run(Status.RUNTIME_ERROR)
        # Headers alone show nothing.
        assert get(server, method="HEAD")[0] == 200
        site.clock.advance(11)
        assert f"{failures} 0.0" in get(server)[1]
        site.clock.advance(9.9)
        assert f"{failures} 0.0" in get(server)[1]
        site.clock.advance(0.1)
        assert f"{failures} 1.0" in get(server)[1]
        site.run(Status.RUNTIME_ERROR)
        assert f"{failures} 2.0" in get(server)[1]


def test_what_cannot_be_read_is_not_told(
    site: Site, server: MetricsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the database fails there is no answer but that, logged once; then there are metrics again."""
    site.run()
    caplog.set_level(logging.INFO, "otel_storage")

    def fail(**_: object) -> object:
        raise ConnectionError("no route to postgresql://otel:hunter2@db/runs")

    with monkeypatch.context() as patch:
        patch.setattr(site.records.totals, "read", fail)
        for _ in range(3):
            status, body, _ = get(server)
            assert status == 503
            assert body == "metrics cannot be read: no route to postgresql://***@db/runs\n"
        assert get(server, "/health")[0] == 503

    assert get(server)[0] == 200
    assert get(server, "/health")[0] == 200
    assert [record.message for record in caplog.records] == [
        "metrics cannot be read: no route to postgresql://***@db/runs",
        "metrics are read again",
    ]


def test_what_is_not_counted_is_not_told(site: Site, server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is more to count than can be in time, there are no metrics: they would grow by what is old."""
    site.run()
    with monkeypatch.context() as patch:
        patch.setattr(site.records.totals, "count", lambda **_: False)
        assert get(server)[:2] == (503, "metrics cannot be read: finished records are still being counted; try again\n")

    assert get(server)[0] == 200


def test_one_collection_serves_all_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many scrapes at once are answered by one look at the database."""
    site.run()
    looks: list[int] = []
    read = site.records.totals.read
    begun, go = threading.Event(), threading.Event()

    def slowly(**options: bool) -> object:
        looks.append(1)
        begun.set()
        go.wait(30)
        return read(**options)

    monkeypatch.setattr(site.records.totals, "read", slowly)
    monkeypatch.setattr(reading, "KEPT", 60.0)
    answers: list[tuple[int, str, str]] = []
    with serving(site.reader(), "127.0.0.1", 0) as server:
        threads = [threading.Thread(target=lambda: answers.append(get(server))) for _ in range(10)]
        for thread in threads:
            thread.start()
        assert begun.wait(30)
        go.set()
        for thread in threads:
            thread.join(30)

    assert [status for status, *_ in answers] == [200] * 10
    assert len({body for _, body, _ in answers}) == 1
    assert len(looks) == 1


def test_slow_clients(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that say nothing keep no one from the metrics; there is a limit, and they are hung up on."""
    monkeypatch.setattr(exposition, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(exposition, "LONGEST_CONNECTION", 1.0)
    with serving(site.reader(), "127.0.0.1", 0) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for one in silent:
            one.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        assert get(server)[0] == 200
        # The third is one too many, and is hung up on at once, as are in time those that are slow.
        silent.append(socket.create_connection(("127.0.0.1", port)))
        silent.append(socket.create_connection(("127.0.0.1", port)))
        for one in silent:
            one.settimeout(30)
            assert one.recv(1000) == b""
            one.close()
        assert _eventually_answers(server)


def _eventually_answers(server: MetricsServer) -> bool:
    """Whether it does: a thread whose client was hung up on ends a little later."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            return get(server)[0] == 200
        except (ConnectionError, HTTPException):
            time.sleep(0.05)
    return False


def test_an_address_that_is_taken(site: Site) -> None:
    """The address that cannot be listened on is named."""
    with serving(site.reader(), "127.0.0.1", 0) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}: "):
            MetricsServer(site.reader(), "127.0.0.1", port)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),  # noqa: S104 - only parsed
        ("[::1]:9464", ("::1", 9464)),
        ("localhost:9464", ("localhost", 9464)),
    ],
)
def test_addresses(given: str, address: tuple[str, int]) -> None:
    """A host that is not given is the loopback."""
    assert parse_address(given) == address


@pytest.mark.parametrize("given", ["", "localhost", "localhost:", "::1:9464", "localhost:70000", "localhost:-1"])
def test_no_addresses(given: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        parse_address(given)


def test_ipv6(site: Site) -> None:
    """The server listens on IPv6 too."""
    try:
        with serving(site.reader(), "::1", 0) as server:
            assert server.url.startswith("http://[::1]:")
    except ConfigurationError:
        services.missing("no IPv6 on the loopback")


@pytest.mark.slow
def test_without_prometheus_client(tmp_path: Path) -> None:
    """Where the extra is not installed, what to install is said; JSON needs none."""
    hide = "import sys; sys.modules['prometheus_client'] = None\n"
    url = f"sqlite:///{tmp_path}/runs.db"

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = f"{HIDE_HOST}{hide}from otel_storage.cli import main\nmain({list(arguments)})"
        return start_python(script, cwd=tmp_path)

    assert call("db", "upgrade", "--url", url).returncode == 0
    for options in ([], ["--serve", "127.0.0.1:0"]):
        process = call("metrics", "--url", url, *options)
        assert process.returncode == 1
        assert "pip install '.[prometheus]'" in " ".join(process.stderr.split())
    process = call("metrics", "--url", url, "--json")
    assert process.returncode == 0, process.stderr
